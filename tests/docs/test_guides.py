"""The guides run: their commands and their Python, each guide in a folder of its own."""

from __future__ import annotations

import linecache
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import vqwave
from vqwave.cli import main
from vqwave.decode import backend
from vqwave.decode.sampling import Sampling

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
pytestmark = pytest.mark.filterwarnings("ignore:the reference decoder")
SHORT = [
    "train.steps=4",
    "train.valid_every=4",
    "train.save_every=4",
    "train.threads=1",
    "data.valid_clips=2",
    "data.batch=2",
    "num_samples=0",
]


def run(name: str) -> dict[str, object]:
    """The guide's blocks in their order: `python` in one namespace, or into the file that its first
    line names; `sh` by the command itself. An error names the block and its line.
    """
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, (language, text) in enumerate(BLOCK.findall((GUIDES / name).read_text()), 1):
        if language == "python" and (file := FILE.match(text)):
            Path(file[1]).write_text(text)
        elif language == "python":
            place = f"{name}, block {number}"
            linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
            exec(compile(text, place, "exec"), namespace)
        elif language == "sh":
            for line in text.replace("\\\n", " ").splitlines():
                command, *words = shlex.split(line, comments=True)
                assert command == "vqwave"
                main([*words, *(SHORT if words[0] == "train" else [])])
    return namespace


@pytest.fixture(scope="module")
def digits() -> list[tuple[torch.Tensor, str, str]]:
    """(wave, speaker, digit) by the shipped models."""
    prior, student = vqwave.load("fsdd-prior").prior, vqwave.load("fsdd-student")
    pairs = [(speaker, digit) for speaker in ("theo", "george") for digit in "17"]
    plain = Sampling(backend="reference")
    waves = []
    for speaker, digit in pairs:
        (codes,) = prior.draw(labels={"speaker": speaker, "text": digit}, longest=0.4)
        waves.append((student.decode(codes, speaker, sampling=plain), speaker, digit))
    return waves


@pytest.fixture(autouse=True)
def place(digits: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with in.wav, and the reference decoder, which needs no compiling."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(backend, "_without_numba", lambda: "a test")
    vqwave.write("in.wav", digits[0][0], 8000)
    yield
    sys.modules.pop("rounding", None)


def recordings(digits: list, folder: str) -> None:
    """Of two speakers, ann and bob, each with 1.wav and 2.wav."""
    for number, (wave, speaker, digit) in enumerate(digits):
        path = Path(folder, {"theo": "ann", "george": "bob"}[speaker], f"{number % 2 + 1}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        vqwave.write(path, wave, 8000)
        path.with_suffix(".txt").write_text(digit)


def test_every_guide_is_run() -> None:
    names = {path.stem for path in GUIDES.glob("*.md")}
    assert names == {"convert", "train", "language_model", "stream", "part"}


def test_convert() -> None:
    namespace = run("convert.md")
    for name in ("george", "lucas", *namespace["model"].speakers[:2]):
        assert len(vqwave.read(f"{name}.wav")[0]) == namespace["codes"].samples


def test_language_model(digits: list) -> None:
    recordings(digits, "recordings")
    vqwave.prepare("folder", Path("recordings"), Path("data/digits"), sample_rate=8000, quiet=True)
    namespace = run("language_model.md")
    assert np.mean(namespace["losses"][-5:]) < 0.9 * np.mean(namespace["losses"][:5])
    assert namespace["lengths"].tolist() == [25 * 160] * 2
    assert len(vqwave.read("generated-1.wav")[0]) == 25 * 160


def test_stream() -> None:
    namespace = run("stream.md")
    stream, whole = vqwave.read("lucas.wav")[0], namespace["wave"]
    assert 0 <= len(stream) - len(whole) < 160


def test_part() -> None:
    assert run("part.md")["model"].quantizer.codebook_size == 25


@pytest.mark.slow  # a training, however short, takes many seconds to start
def test_train(digits: list) -> None:
    recordings(digits, "recordings")
    for path in Path("recordings").rglob("*.txt"):  # two sentences are too few for three splits
        path.unlink()
    run("train.md")
    assert Path("bob.wav").is_file()
    assert Path("try/README.md").read_text().startswith("---\nlibrary_name: vqwave\n")
