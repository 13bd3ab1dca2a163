"""What the long runs have found in voices: of models, of corpora, and what is made of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.numpy
import torch
from fuzz.models import singer
from fuzz.mutations import any_tree, places

from vqwave import audio
from vqwave.app.server import check_host
from vqwave.cli import main
from vqwave.data.speaker_vectors import FILE, SpeakerVectors
from vqwave.errors import UserInputError
from vqwave.evaluation.readme_table import put
from vqwave.inference.model_folder import load_trained, save_trained
from vqwave.report.watch import watch


def saved(folder: Path, voices: SpeakerVectors | None = None) -> Path:
    model = singer()
    save_trained(folder, model.kind.complete, model.card, voices or model.voices)
    return folder


@pytest.mark.parametrize(
    ("name", "value"), [("vectors", 3e38), ("mean", 2.0), ("whitening", 1e30), ("vectors", -9.0)]
)
def test_vectors_of_no_voice_are_refused(name: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / FILE
    singer().voices.save(path)
    assert SpeakerVectors.load(path).names == ("ann", "bob")
    with safetensors.safe_open(path, "np") as file:
        keys, about = file.keys(), file.metadata()
        arrays = {key: file.get_tensor(key) for key in keys}
    arrays[name].reshape(-1)[3] = value
    path.write_bytes(safetensors.numpy.save(arrays, metadata=about))
    with pytest.raises(UserInputError, match=rf"{FILE}: {name} of size"):
        SpeakerVectors.load(path)


def test_vectors_of_other_speakers_than_the_models_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", replace(singer().voices, names=("ann", "cid")))
    with pytest.raises(UserInputError, match=rf"{FILE}: 'cid' is no speaker in config\.json"):
        load_trained(folder)


@pytest.mark.parametrize("pitch", [(1e30, 0.2), (-8.0, 0.2), (0.4, 0.0), (0.4, -1.0), (0.4, 9.0)])
def test_a_range_of_f0_that_no_voice_has_is_refused(
    pitch: tuple[float, float], tmp_path: Path
) -> None:
    path = saved(tmp_path / "model") / "model.safetensors"
    arrays = safetensors.numpy.load(path.read_bytes())
    (name,) = (name for name in arrays if name.endswith("melody.voices"))
    arrays[name][1] = pitch
    path.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(UserInputError, match=r"model\.safetensors: voices: mean and deviation"):
        load_trained(tmp_path / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_samples_are_made_of_nan(value: float) -> None:
    with pytest.raises(UserInputError, match="NaN or infinite"):
        audio.to_int16(torch.tensor([0.0, value]).numpy())


def test_a_readme_that_is_no_text_is_named(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes("é".encode("latin-1"))
    with pytest.raises(UserInputError, match=r"README\.md: not UTF-8 text"):
        put(readme, "table")
    assert readme.read_bytes() == b"\xe9"


@pytest.mark.parametrize("every", [0.0, -1.0, 1e9, 1e308, float("nan")])
def test_a_page_is_not_watched_for_ever(every: float, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"--watch .*: expected at least 1 s"):
        watch([tmp_path], tmp_path / "page.html", every, wrote=print)


def test_a_port_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["app", "fsdd-student", "--port", "65536"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --port 65536: expected at most 65535\n"


@pytest.mark.parametrize("host", ["..x..", "256.1.1.1", "x" * 300, "a b", "x.invalid"])
def test_a_host_that_there_is_not_is_refused(host: str) -> None:
    with pytest.raises(UserInputError, match=r"--host .*, expected an address"):
        check_host(host)


def test_a_host_of_this_machine_is_taken() -> None:
    check_host("127.0.0.1")
    check_host("localhost")


def test_hostile_trees_can_be_copied_and_written() -> None:
    for seed in range(600):
        tree = any_tree({"a": [1, {"b": [2, {"c": 3}]}], "d": {"e": {"f": 4}}}, random.Random(seed))
        assert max((len(place) for place in places(tree)), default=0) < 500
