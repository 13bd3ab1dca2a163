"""Model folders and checkpoints: whole round trips without pickle, one line for what is damaged,
and the way back past it.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

import vqwave.training.checkpoint
from vqwave.atomic_files import sweep, writing
from vqwave.distributions import Gaussian, MuLaw
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.inference.model_files import SHIPPED, find_model, own_folder
from vqwave.inference.model_folder import (
    ModelCard,
    load_trained,
    parameter_counts,
    save_trained,
)
from vqwave.models import Model, ModelSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec, WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint

LABELS = {"speaker": ["a", "b"], "gender": ["f", "m"]}
SIZES = StackSpec(
    layers=2,
    dilation_cycle=2,
    residual_channels=4,
    gate_channels=4,
    skip_channels=4,
    hidden_channels=8,
)
MEL = LogMelSpec(bands=6, window_ms=8.0, hop_ms=1.0, fmin=200.0, fmax=4000.0)
CONDITIONER = ConditionerSpec(channels=4, categorical=("speaker", "gender"))
WAVENET = WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=CONDITIONER)
STUDENT = StudentSpec(flows=(1, 2), network=SIZES, conditioner=CONDITIONER)
QUANTIZER = EMAQuantizerSpec(codebook_size=5)
SPECS: dict[str, ModelSpec] = {
    "wavenet": WAVENET,
    "mu-law wavenet": WaveNetSpec(
        head=MuLaw(classes=16), network=SIZES, conditioner=ConditionerSpec(categorical=())
    ),
    "vocoder": WaveNetSpec(head=Gaussian(), network=SIZES, conditioner=CONDITIONER, features=MEL),
    "vqvae": VQVAESpec(
        encoder=FrameEncoderSpec(features=MEL, channels=6, latent_dim=3),
        quantizer=QUANTIZER,
        decoder=WAVENET,
        spectral_decoder=SpectralDecoderSpec(features=MEL, channels=4),
    ),
    "vqvae of a student": VQVAESpec(
        encoder=WaveformEncoderSpec(strides=(4, 2), channels=6, blocks=1, latent_dim=3),
        quantizer=QUANTIZER,
        decoder=STUDENT,
    ),
    "student": STUDENT,
}


def trained(name: str) -> tuple[Model, ModelCard]:
    """A model whose every parameter and buffer differs from a fresh one's."""
    card = ModelCard(
        sample_rate=8000, labels=LABELS, spec=SPECS[name], about={"corpus": "x", "steps": 7}
    )
    torch.manual_seed(1)
    model = card.build()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand_like(tensor))
        else:
            tensor.fill_(1)
    return model, card


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", SPECS)
def test_a_model_comes_back_whole(name: str, tmp_path: Path) -> None:
    model, card = trained(name)
    save_trained(tmp_path / "run" / "model", model, card)
    save_trained(tmp_path / "run" / "model", model, card)  # over an older one
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == [
        "config.json",
        "model",
        "model.safetensors",
    ]
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        loaded = load_trained(place)
        assert loaded.card == card
        assert same(loaded.model.state_dict(), model.state_dict())
        assert not loaded.model.training
        assert loaded.model.receptive_field == model.receptive_field


def test_the_card_is_readable_by_anyone(tmp_path: Path) -> None:
    model, card = trained("vqvae")
    save_trained(tmp_path / "model", model, card)
    tree = json.loads((tmp_path / "model" / "config.json").read_text())
    assert {
        "format": 2,
        "kind": "vqvae",
        "sample_rate": 8000,
        "labels": LABELS,
    }.items() <= tree.items()
    assert tree["spec"]["decoder"]["head"]["kind"] == "gaussian"


def test_nothing_is_pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("pickled")

    model, card = trained("vqvae")
    checkpoint = state_of(nn.Linear(3, 2))
    for module, names in (
        (pickle, ("load", "loads", "dump", "dumps", "Unpickler")),
        (torch, ("load", "save")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    save_trained(tmp_path / "model", model, card)
    load_trained(tmp_path)
    save_checkpoint(tmp_path / "checkpoints", 1, checkpoint)
    assert newest_checkpoint(tmp_path / "checkpoints")[0] is not None


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def rewrite(path: Path, change: Callable[[dict], object]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no weights": lambda model: cut(model / "model.safetensors", 0),
    "half the weights": lambda model: cut(model / "model.safetensors", 0.5),
    "a byte less": lambda model: cut(model / "model.safetensors", 0.9999),
    "weights of another": lambda model: (
        save_trained(model, *trained("wavenet")) or rewrite(model / "config.json", as_mu_law)
    ),
    "no settings": lambda model: cut(model / "config.json", 0),
    "half the settings": lambda model: cut(model / "config.json", 0.5),
    "settings that are no text": lambda model: (model / "config.json").write_bytes(b"\xff\xfe\x00"),
    "settings that are a list": lambda model: (model / "config.json").write_text("[1]"),
    "an unknown setting": lambda model: rewrite(
        model / "config.json", lambda tree: tree | {"extra": 1}
    ),
    "an unknown kind": lambda model: rewrite(
        model / "config.json", lambda tree: tree | {"spec": {"kind": "gan"}}
    ),
    "a label without values": lambda model: rewrite(
        model / "config.json", lambda tree: tree | {"labels": {}}
    ),
    "a newer format": lambda model: rewrite(
        model / "config.json", lambda tree: tree | {"format": 3}
    ),
}


def as_mu_law(tree: dict) -> dict:
    tree["spec"]["head"] = {"kind": "mu_law", "classes": 8}
    return tree


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_one_line(damage: str, tmp_path: Path) -> None:
    save_trained(tmp_path / "model", *trained("wavenet"))
    DAMAGE[damage](tmp_path / "model")
    with pytest.raises(UserInputError, match=r"^[^\n]{10,}$") as caught:
        load_trained(tmp_path)
    assert type(caught.value) is UserInputError


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_without_a_model_is_named(missing: str, tmp_path: Path) -> None:
    save_trained(tmp_path / "model", *trained("wavenet"))
    (tmp_path / "model" / missing).unlink()
    with pytest.raises(UserInputError, match=str(tmp_path)):
        find_model(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserInputError, match="saved no model yet"):
        find_model(tmp_path)
    with pytest.raises(UserInputError, match="no such model"):
        find_model(tmp_path / "nothing")


def test_a_path_is_never_a_model_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is, unless a run of that name is there."""
    monkeypatch.chdir(tmp_path)
    Path("fsdd").mkdir()
    assert find_model("fsdd") == SHIPPED / "fsdd"  # next to a folder of recordings, say
    for path in ("./fsdd", tmp_path / "fsdd", "fsdd/"):
        with pytest.raises(UserInputError, match=r"fsdd/?: no model in it"):
            find_model(path)
    Path("fsdd", "config.yaml").touch()
    with pytest.raises(UserInputError, match="fsdd: a run that has saved no model yet"):
        find_model("fsdd")


def test_a_model_of_the_package_is_not_changed() -> None:
    with pytest.raises(UserInputError, match="fsdd: a model of the package, expected a folder"):
        own_folder("fsdd")
    assert own_folder(SHIPPED / "fsdd") == SHIPPED / "fsdd"


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()


def adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), 1e-2, betas=(0.8, 0.9))


def state_of(
    network: nn.Module, optimizer: torch.optim.Optimizer | None = None, step: int = 0
) -> Checkpoint:
    optimizer = optimizer or adam(network)
    average = {name: p.detach() / 2 for name, p in network.named_parameters()}
    return Checkpoint(
        network.state_dict(),
        average,
        optimizer.state_dict(),
        {"step": step, "seconds": 1.0, "running": {"nll": [1.5, 2]}},
    )


def test_a_resumed_optimizer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = adam(network)
    steps(network, optimizer, range(3))
    save_checkpoint(tmp_path, 3, state_of(network, optimizer, 3))
    steps(network, optimizer, range(3, 6))
    found, notes = newest_checkpoint(tmp_path)
    assert notes == []
    assert found.progress == {"step": 3, "seconds": 1.0, "running": {"nll": [1.5, 2]}}
    other = nn.Linear(3, 2)
    other.load_state_dict(found.network)
    assert same(found.average, {name: p.detach() / 2 for name, p in other.named_parameters()})
    resumed = torch.optim.Adam(other.parameters(), 1.0)
    resumed.load_state_dict(found.optimizer)
    steps(other, resumed, range(3, 6))
    assert same(other.state_dict(), network.state_dict())


def three(folder: Path, keep: int = 3) -> None:
    for step in (9, 10, 200):  # as text, step-10 would come before step-9
        save_checkpoint(folder, step, state_of(nn.Linear(3, 2), step=step), keep)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    three(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000200"]
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 200


@pytest.mark.parametrize("keep", range(1, 8))
def test_as_many_are_kept_as_asked(keep: int, tmp_path: Path) -> None:
    for step in range(1, 10):
        save_checkpoint(tmp_path, step, state_of(nn.Linear(3, 2), step=step), keep)
        kept = [int(path.name.removeprefix("step-")) for path in sorted(tmp_path.iterdir())]
        assert kept == list(range(max(1, step - keep + 1), step + 1))


FILES = (
    "network.safetensors",
    "average.safetensors",
    "optimizer.safetensors",
    "progress.json",
    "SHA256.json",
)
HARM: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: cut(path, 0.7),
    "altered": lambda path: path.write_bytes(
        path.read_bytes()[:-9] + b"X" + path.read_bytes()[-8:]
    ),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_is_passed_over(file: str, harm: str, tmp_path: Path) -> None:
    three(tmp_path)
    HARM[harm](tmp_path / "step-00000200" / file)
    found, notes = newest_checkpoint(tmp_path)
    assert found.progress["step"] == 10
    assert len(notes) == 1
    assert "step-00000200" in notes[0]
    assert "\n" not in notes[0]


@pytest.mark.parametrize("text", ["{}", "[]", "null"])
def test_an_empty_list_of_checksums_is_not_whole(text: str, tmp_path: Path) -> None:
    three(tmp_path)
    (tmp_path / "step-00000200" / "SHA256.json").write_text(text)
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 10


def test_a_half_written_checkpoint_is_never_taken(tmp_path: Path) -> None:
    three(tmp_path)
    # killed before the rename
    shutil.copytree(tmp_path / "step-00000200", tmp_path / ".step-00000300.77")
    (tmp_path / "step-00000400").mkdir()
    found, notes = newest_checkpoint(tmp_path)
    assert found.progress["step"] == 200
    assert len(notes) == 1


def test_nothing_whole_is_nothing(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "none") == (None, [])
    three(tmp_path)
    for path in tmp_path.iterdir():
        cut(path / "network.safetensors", 0.5)
    found, notes = newest_checkpoint(tmp_path)
    assert found is None
    assert [note.rpartition("; ")[2] for note in notes] == [
        *2 * ["falling back to the one before"],
        "the run begins again",
    ]


@pytest.mark.parametrize("keep", [1, 2])
def test_pruning_never_leaves_only_a_damaged_checkpoint(keep: int, tmp_path: Path) -> None:
    """A run that fell back past a damaged step 200 and saves step 60 next must keep step 60."""
    three(tmp_path, 3)
    cut(tmp_path / "step-00000200" / "network.safetensors", 0.5)
    save_checkpoint(tmp_path, 60, state_of(nn.Linear(3, 2), step=60), keep)
    assert newest_checkpoint(tmp_path)[0].progress["step"] == 60


def test_parameter_counts_add_up() -> None:
    model, _ = trained("vqvae")
    counts = parameter_counts(model)
    assert (
        counts["total"]
        == sum(p.numel() for p in model.parameters())
        == sum(counts.values()) - counts["total"]
    )
    assert {"encoder", "decoder", "spectral_decoder", "total"} == set(counts)


def full(*arguments: object, **settings: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failing", ["save_file", "file_digest", "_flush"])
def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three(tmp_path / "checkpoints")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    monkeypatch.setattr(vqwave.training.checkpoint, failing, full)
    said = (
        r"step 300 cannot be written \(No space left on device\); step-00000200 is kept: make room"
    )
    with pytest.raises(UserInputError, match=said), writing(tmp_path, "step 300"):
        save_checkpoint(tmp_path / "checkpoints", 300, state_of(nn.Linear(3, 2), step=300))
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_a_full_disk_is_known_from_what_safetensors_says(tmp_path: Path) -> None:
    said = r"the model cannot be written \(No space left on device\); there is no checkpoint yet"
    with pytest.raises(UserInputError, match=said), writing(tmp_path, "the model"):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )
    with pytest.raises(SafetensorError), writing(tmp_path, "the model"):
        raise SafetensorError("Error while deserializing header")
    with pytest.raises(FileNotFoundError), writing(tmp_path, "the model"):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    three(tmp_path / "checkpoints")
    (tmp_path / ".model.old").mkdir()  # killed between the two renames: there is no model/
    (tmp_path / ".model.old" / "config.json").write_text("{}")
    for name in (
        ".config.yaml.77",
        ".samples.78",
        "checkpoints/.step-00000300.77",
        "checkpoints/.step-00000200.old",
    ):
        (tmp_path / name).mkdir()
    (tmp_path / ".mine").touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "checkpoints", "model"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (9, 10, 200)
    ]
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
