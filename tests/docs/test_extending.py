"""docs/extending.md runs: its parts are trained, saved, loaded, encode and decode; and what is
wrong with a part from outside is answered in one line.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import vqwave
from vqwave import audio
from vqwave.config import build, help_text, parse, spec, to_tree
from vqwave.data import prepare
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import load_trained
from vqwave.models import VQVAESpec
from vqwave.nn.quantize import EMAQuantizerSpec, Quantizer, QuantizerSpec
from vqwave.training import main

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
SMALL = [
    "data.clip_seconds=0.2",
    "data.batch=2",
    "data.valid_clip_seconds=0.2",
    "train.steps=2",
    "--quiet",
]
NETWORK = "={layers: 2, residual_channels: 4, gate_channels: 4, skip_channels: 4}"
MODULES = ("parts", "mine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's files, and a corpus, in a folder that modules are imported from."""
    folder = tmp_path_factory.mktemp("own")
    for kind, text in BLOCKS:
        name = re.match(r"# (\w+\.py)\n", text)
        if kind == "python" and name:
            with (folder / name[1]).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
    rng, rows = np.random.default_rng(0), ["path,speaker,split"]
    for i in range(9):
        audio.write(folder / f"{i}.wav", (0.2 * rng.standard_normal(3200)).astype(np.float32), 8000)
        rows.append(f"{i}.wav,{'ab'[i % 2]},{'valid' if i > 6 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    prepare("manifest", folder, folder / "data" / "demo")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def commands(script: str) -> list[str]:
    """The arguments of the page's one command that starts a script."""
    lines = [
        line
        for kind, text in BLOCKS
        if kind == "bash"
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith(f"python {script}")
    ]
    assert len(lines) == 1
    return shlex.split(lines[0])[2:]


def test_the_parts_train_and_their_model_encodes_and_decodes(
    experiment_script: Callable[[str], ModuleType], folder: Path
) -> None:
    script = experiment_script("vqvae")
    main(
        script.VQVAEExperiment,
        [
            *commands("experiments/vqvae.py"),
            *SMALL,
            f"model.decoder.network{NETWORK}",
            "losses={nll: 1.0}",
            "num_samples=0",
        ],
    )
    card = json.loads((folder / "runs" / "parts" / "model" / "config.json").read_text())
    assert card["spec"]["encoder"]["kind"] == "parts:BlockEncoderSpec"
    assert card["spec"]["quantizer"] == {"kind": "parts:SignsSpec", "bits": 5}
    (use,) = (text for kind, text in BLOCKS if kind == "python" and not text.startswith("# "))
    names: dict[str, object] = {}
    with pytest.warns(UserWarning, match="reference decoder"):
        exec(compile(use, str(PAGE), "exec"), names)
    assert len(names["wave"]) == 1600
    assert names["codes"].codes.max() < 32
    model = load_trained("runs/parts").model
    latents = model.quantizer(model.encoder(torch.randn(1, 800)))
    assert torch.equal(latents.z, model.quantizer.decode(latents.codes))


def test_the_experiment_trains(folder: Path) -> None:
    mine = importlib.import_module("mine")
    main(mine.SmoothWaveNet, [*commands("mine.py"), *SMALL, f"model.network{NETWORK}"])
    rows = (folder / "runs" / "smooth" / "metrics.jsonl").read_text().splitlines()
    assert any("bits" in key for row in rows for key in json.loads(row))
    loaded = load_trained("runs/smooth")
    assert loaded.card.spec.head == importlib.import_module("parts").LaplaceSpec()
    assert len(vqwave.load("runs/smooth").generate(0.02, labels={"speaker": "a"})[0]) == 160


def test_settings_by_place_and_back() -> None:
    found = parse(
        VQVAESpec, ["quantizer.kind=parts:SignsSpec", "quantizer.bits=3", "time_jitter=0"]
    ).config
    assert found.quantizer == importlib.import_module("parts").SignsSpec(bits=3)
    assert build(VQVAESpec, to_tree(found)) == found
    assert "kind=parts:LaplaceSpec, the default" in help_text(
        importlib.import_module("mine").Config
    )


@spec
class OwnSpec(QuantizerSpec):
    """With a default, a kind of its own, and a loss."""

    levels: int = 2

    @property
    def losses(self) -> frozenset[str]:
        return frozenset({"own"})

    def build(self, dim: int) -> Quantizer:
        raise NotImplementedError


class UndecoratedSpec(EMAQuantizerSpec):
    """Would pass for its base."""


def test_a_spec_is_named_by_where_it_is_defined(folder: Path) -> None:
    (folder / "elsewhere.py").write_text("from parts import SignsSpec as Renamed\n")
    own = parse(VQVAESpec, ["quantizer.kind=elsewhere:Renamed"]).config.quantizer
    assert own.kind == "parts:SignsSpec"
    assert OwnSpec().kind == f"{__name__}:OwnSpec"
    assert parse(VQVAESpec, [f"quantizer.kind={__name__}:EMAQuantizerSpec"]).config.quantizer == (
        EMAQuantizerSpec()
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nowhere.at_all:Spec", "there is no module nowhere.at_all on the path"),
        (
            "parts:SignSpec",
            "module parts has no 'SignSpec', expected a spec of a quantizer; did yo",
        ),
        ("parts:BlockEncoderSpec", "not a spec of a quantizer, expected a class with @spec derive"),
        ("parts:Signs", "not a spec of a quantizer"),
        ("vqwave.nn.quantize:QuantizerSpec", "not a spec of a quantizer"),
        (f"{__name__}:UndecoratedSpec", "not a spec of a quantizer"),
        ("broken:Spec", "importing broken failed: ZeroDivisionError: division by zero"),
        ("lacking:Spec", "importing lacking failed: no module not_there"),
        ("ema:", "there is no module ema on the path"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, kind: str, said: str) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "lacking.py").write_text("import not_there\n")
    with pytest.raises(UserInputError, match=r"^quantizer.kind: ") as error:
        parse(VQVAESpec, [f"quantizer.kind={kind}"])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_a_part_are_checked() -> None:
    with pytest.raises(UserInputError, match=r"quantizer.bits: expected a whole number"):
        parse(VQVAESpec, ["quantizer.kind=parts:SignsSpec", "quantizer.bits=many"])
    with pytest.raises(UserInputError, match=r"quantizer.bit: unknown key; did you mean"):
        parse(VQVAESpec, ["quantizer.kind=parts:SignsSpec", "quantizer.bit=3"])


def test_a_closed_setting_takes_none() -> None:
    with pytest.raises(UserInputError, match=r"decoder.kind: unknown kind 'parts:SignsSpec'"):
        parse(VQVAESpec, ["decoder.kind=parts:SignsSpec"])
