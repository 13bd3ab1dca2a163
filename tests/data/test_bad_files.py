"""Each bad file is named with its reason and left out."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqwave import audio
from vqwave.data import Corpus, prepare
from vqwave.errors import UserInputError

RATE = 8000


def speech(seed: int = 0, frames: int = 4000) -> audio.Wave:
    return np.random.default_rng(seed).normal(0, 0.05, frames).astype(np.float32)


def text_file(path: Path) -> None:
    path.write_text("this is no sound\n" * 20)


def empty_file(path: Path) -> None:
    path.touch()


def no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0, np.float32), RATE, subtype="PCM_16")


def silent(path: Path) -> None:
    soundfile.write(path, np.zeros(4000, np.float32), RATE)


def constant(path: Path) -> None:
    soundfile.write(path, np.full(4000, 0.25, np.float32), RATE)


def nan(path: Path) -> None:
    wave = speech()
    wave[100] = np.nan
    soundfile.write(path, wave, RATE, subtype="FLOAT")


def truncated_wav(path: Path) -> None:
    soundfile.write(path, speech(), RATE)
    path.write_bytes(path.read_bytes()[:3000])


def truncated_flac(path: Path) -> None:
    soundfile.write(path, speech(frames=40000), RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def header_alone(path: Path) -> None:
    soundfile.write(path, speech(), RATE)
    path.write_bytes(path.read_bytes()[:44])


def too_short(path: Path) -> None:
    soundfile.write(path, speech(frames=20), RATE)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "text.wav": (text_file, "not readable as sound"),
    "text.flac": (text_file, "not readable as sound"),
    "empty.wav": (empty_file, "empty file"),
    "no_samples.wav": (no_samples, "no samples"),
    "silent.wav": (silent, "silent"),
    "constant.wav": (constant, "silent"),
    "nan.wav": (nan, "NaN"),
    "cut.wav": (truncated_wav, "truncated"),
    "cut.flac": (truncated_flac, ""),
    "header.wav": (header_alone, "truncated"),
    "short.wav": (too_short, "too short"),
}
ONLY_PREPARE = ("silent.wav", "constant.wav", "short.wav")


@pytest.mark.parametrize("name", [name for name in BAD if name not in ONLY_PREPARE])
def test_read_names_file_and_reason(tmp_path: Path, name: str) -> None:
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(UserInputError) as error:
        audio.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_read_names_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="no such file"):
        audio.read(tmp_path / "missing.wav")
    with pytest.raises(UserInputError, match="is a folder"):
        audio.read(tmp_path)
    soundfile.write(tmp_path / "x.wav", speech(), RATE)
    with pytest.raises(UserInputError, match="holds 4000 samples, asked for 100 from sample 3950"):
        audio.read(tmp_path / "x.wav", start=3950, frames=100)


def test_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    """Programs that write a WAV into a pipe leave 0xFFFFFFFF as the length; that is no truncated
    file.
    """
    path = tmp_path / "x.wav"
    soundfile.write(path, speech(), RATE)
    head = bytearray(path.read_bytes())
    head[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(head)
    assert len(audio.read(path)[0]) == 4000


def test_prepare_lists_bad_files_and_keeps_the_good(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "ann").mkdir(parents=True)
    for k in range(4):
        soundfile.write(source / "ann" / f"good{k}.wav", speech(k), RATE)
    for name, (make, _) in BAD.items():
        make(source / "ann" / name)
    summary = prepare("folder", source, out, quiet=True)
    found = {row.path.name: row.reason for row in summary.rejected}
    assert found.keys() == BAD.keys()
    for name, (_, reason) in BAD.items():
        assert reason in found[name]
        assert name in summary.table()
    with (out / "rejected.csv").open(newline="") as file:
        assert {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)} == found
    assert [u.id for u in Corpus.open(out).utterances] == [f"ann/good{k}" for k in range(4)]


def test_a_corpus_of_bad_files_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in" / "ann").mkdir(parents=True)
    silent(tmp_path / "in" / "ann" / "x.wav")
    with pytest.raises(UserInputError, match=r"none of 1 recordings can be used.*x\.wav: silent"):
        prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
