"""Sound as people have it: one rule for silence and channels, one walker of folders, formats,
pipes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqwave import audio
from vqwave.audio.sound_files import (
    SUFFIXES,
    WHY_FOREIGN,
    WHY_NAME,
    WHY_NO_FILE,
    refused_files,
    sound_files,
)
from vqwave.audio.streaming import Recording, WavReader
from vqwave.cli.folder import Account, share
from vqwave.data import Corpus, prepare
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.preparation import prepare as prepared
from vqwave.inference.recording_encoding import encode_recording
from vqwave.inference.speech_model import SpeechModel
from vqwave.inference.stream_level import Level
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.wavenet import StackSpec

RATE = 8000
CANCEL = "channels cancel each other"


def noise(seed: int = 0, frames: int = RATE, gain: float = 0.1) -> audio.Wave:
    return np.random.default_rng(seed).normal(0, gain, frames).astype(np.float32)


def antiphase(frames: int = 2 * RATE) -> audio.Wave:
    """(T, 2): one channel inverted, a tenth apart in gain, on a common DC."""
    return np.stack([noise(0, frames), -0.9 * noise(0, frames)], 1) + np.float32(0.05)


def quiet(frames: int = 2 * RATE) -> audio.Wave:
    """The dither of a muted microphone, -80 dBFS, on a DC."""
    return noise(1, frames, 1e-4) + np.float32(0.01)


def wav(samples: audio.Wave, before: bytes = b"") -> bytes:
    """A 32-bit float WAV, with chunks before its samples."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    facts = struct.pack("<HHIIHH", 3, channels, RATE, 4 * channels * RATE, 4 * channels, 32)
    data = samples.astype("<f4").tobytes()
    chunks = (
        b"fmt "
        + struct.pack("<I", 16)
        + facts
        + before
        + b"data"
        + struct.pack("<I", len(data))
        + data
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def model() -> torch.nn.Module:
    encoder = WaveformEncoderSpec(strides=(8, 10), channels=4, blocks=0, latent_dim=4)
    return VQVAESpec(encoder=encoder, decoder=WaveNetSpec(network=StackSpec(layers=1))).build(
        RATE, {"speaker": ["a"]}
    )


def test_channels_that_cancel_each_other_are_refused_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "in" / "ann" / "wrong.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, antiphase(), RATE, subtype="FLOAT")
    soundfile.write(path.with_name("good.wav"), noise(), RATE)
    with pytest.raises(
        UserInputError, match=rf"wrong\.wav: its {CANCEL} \(their mean lies 2\d dB below"
    ):
        audio.read(path)
    with pytest.raises(UserInputError, match=rf"wrong\.wav: its {CANCEL}"):
        encode_recording(model(), Recording.open(path), RATE, -23.0)
    with pytest.raises(UserInputError, match=CANCEL):
        prepared(antiphase().T, RATE, RATE, -23.0)
    with pytest.raises(UserInputError, match=f"pipe: its {CANCEL}"):
        list(WavReader(io.BytesIO(wav(antiphase())), "pipe"))
    summary = prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    assert [(row.path.name, CANCEL in row.reason) for row in summary.rejected] == [
        ("wrong.wav", True)
    ]


def test_a_pipe_is_refused_after_its_first_second() -> None:
    """Before an hour of it has become codes."""
    taken: list[int] = []
    reader = WavReader(io.BytesIO(wav(antiphase(20 * RATE))), "pipe")
    with pytest.raises(UserInputError, match=CANCEL):
        taken.extend(map(len, reader))
    assert sum(taken) < RATE


@pytest.mark.parametrize("channels", [2, 6])
def test_other_channels_are_averaged(channels: int) -> None:
    """Alike, independent, or all but one silent: none of these is a fault."""
    alike = np.repeat(noise()[:, None], channels, 1)
    independent = np.stack([noise(k) for k in range(channels)], 1)
    single = alike * (np.arange(channels) == 0)
    for x in (alike, independent, single, 0 * alike):
        np.testing.assert_allclose(audio.downmix(x.astype(np.float32)), x.mean(1), atol=1e-6)


def test_silence_is_one_rule(tmp_path: Path) -> None:
    """Below -70 dBFS once the DC is gone, in preparing, encoding and in a stream."""
    path = tmp_path / "in" / "ann" / "quiet.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, quiet(), RATE, subtype="FLOAT")
    soundfile.write(path.with_name("good.wav"), noise(), RATE)
    for rate in (RATE, 2 * RATE):
        with pytest.raises(UserInputError, match=r"silent \(-80 dBFS, sound begins at -70\)"):
            prepared(quiet(), rate, RATE, -23.0)
    with pytest.raises(UserInputError, match=r"quiet\.wav: silent"):
        encode_recording(model(), Recording.open(path), RATE, -23.0)
    summary = prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    assert [(row.path.name, row.reason[:7]) for row in summary.rejected] == [
        ("quiet.wav", "silent ")
    ]
    level = Level(-23.0, RATE)
    level.push(quiet())
    with pytest.raises(UserInputError, match="silent"):
        level.flush()
    assert len(prepared(10 * quiet(), RATE, RATE, -23.0)) == 2 * RATE


def test_what_resampling_leaves_of_a_sound_may_be_silence(tmp_path: Path) -> None:
    """A whistle above the model's band: its remains are not brought up to the level of speech."""
    whistle = (0.1 * np.sin(2 * np.pi * 7000 * np.arange(2 * RATE) / (2 * RATE))).astype(np.float32)
    whistle *= np.hanning(len(whistle)).astype(np.float32)
    with pytest.raises(UserInputError, match="silent"):
        prepared(whistle, 2 * RATE, RATE, -23.0)
    (tmp_path / "in" / "ann").mkdir(parents=True)
    soundfile.write(tmp_path / "in" / "ann" / "whistle.wav", whistle, 2 * RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "in" / "ann" / "good.wav", noise(), RATE)
    summary = prepare("folder", tmp_path / "in", tmp_path / "out", sample_rate=RATE, quiet=True)
    assert [row.reason[:6] for row in summary.rejected] == ["silent"]


def test_a_stream_waits_for_sound() -> None:
    """Seconds of near-silence pass as zeros, and do not set the gain."""
    level, wave = Level(-23.0, RATE), noise(3, RATE)
    first, second = level.push(quiet()), level.push(wave)
    assert not np.any(first)
    assert audio.level_db(second) == pytest.approx(-23.0, abs=0.1)
    assert len(first) + len(second) == 3 * RATE
    assert len(level.flush()) == 0


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW"])
def test_codecs_inside_a_wav_are_read_from_any_sample(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, noise(0, 4000), RATE, subtype=subtype)
    whole, rate = audio.read(path)
    assert rate == RATE
    assert len(whole) >= 4000
    assert np.corrcoef(whole[:4000], noise(0, 4000))[0, 1] > 0.5
    assert np.array_equal(audio.read(path, 777, 100)[0], whole[777:877])
    assert np.array_equal(np.concatenate(list(Recording.open(path).pieces())), whole)
    with pytest.raises(UserInputError, match="asked for 100 from sample"):
        audio.read(path, len(whole) - 50, 100)


@pytest.mark.parametrize("size", [10, 65536, 65537, 200_001])
def test_a_chunk_of_any_length_may_come_before_the_samples_of_a_pipe(size: int) -> None:
    picture = (
        b"LIST" + struct.pack("<I", size) + b"data" * (size // 4) + b"d" * (size % 4 + size % 2)
    )
    found = np.concatenate(list(WavReader(io.BytesIO(wav(noise(), picture)), "pipe")))
    assert np.array_equal(found, noise())
    with pytest.raises(UserInputError, match="pipe: truncated before its samples"):
        WavReader(io.BytesIO(wav(noise(), picture)[: 30 + size]), "pipe")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ann has two recordings, an m4a, and what macOS leaves; bob is a link, and a folder in it
    links back up.
    """
    source, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for name in (source / "ann", source / "ann" / ".trash", elsewhere):
        name.mkdir(parents=True)
    for k in range(2):
        soundfile.write(source / "ann" / f"{k}.wav", noise(k), RATE)
        soundfile.write(elsewhere / f"{k}.wav", noise(9 + k), RATE)
    soundfile.write(source / "ann" / ".trash" / "old.wav", noise(), RATE)
    (source / "ann" / "._0.wav").write_bytes(b"Mac OS X")
    (source / "ann" / "1.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    (source / "ann" / "0.txt").write_text("words")
    (source / "bob").symlink_to(elsewhere, target_is_directory=True)
    (elsewhere / "up").symlink_to(source, target_is_directory=True)
    (source / "gone").symlink_to(tmp_path / "nowhere")
    return source


def arguments(source: Path, out: Path) -> argparse.Namespace:
    return argparse.Namespace(input=source, out=out, overwrite=False, quiet=True)


def test_one_walker_for_prepare_encode_and_convert(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = ["ann/0.wav", "ann/1.wav", "bob/0.wav", "bob/1.wav"]
    assert [path.relative_to(folder).as_posix() for path in sound_files(folder)] == expected
    assert [path.name for path, _ in refused_files(folder)] == ["1.m4a"]
    summary = prepare("folder", folder, tmp_path / "out", quiet=True)
    ids = [u.id for u in Corpus.open(tmp_path / "out").utterances]
    assert ids == [name.removesuffix(".wav") for name in expected]
    assert [(row.path.name, row.reason) for row in summary.rejected] == [("1.m4a", WHY_FOREIGN)]
    works = share(arguments(folder, tmp_path / "codes"), SUFFIXES, ".vqw")
    assert [
        work.source.relative_to(folder).as_posix() for work in works if not work.refused
    ] == expected
    account = Account(arguments(folder, tmp_path / "codes"), works, len(works), "files")
    done = [work for work in account.over(works) if account.attempt(work, lambda: True)]
    assert len(done) == 4
    with pytest.raises(UserInputError, match="1 of 5 files could not be used"):
        account.close()
    assert "1.m4a: is in a format that is not read" in capsys.readouterr().err


def test_a_folder_of_other_formats_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "in" / "ann").mkdir(parents=True)
    for name in ("x.m4a", "y.AAC"):
        (tmp_path / "in" / "ann" / name).write_bytes(b"\0" * 64)
        with pytest.raises(
            UserInputError, match=f"{name}: is in a format that is not read, expected .wav or .flac"
        ):
            audio.read(tmp_path / "in" / "ann" / name)
    with pytest.raises(
        UserInputError,
        match=r"no recordings found \(2 files do not belong; the first, .*x\.m4a: is in a format",
    ):
        prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_not_utf8_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "in" / "ann"
    home.mkdir(parents=True)
    soundfile.write(home / "good.wav", noise(), RATE)
    bad = os.fsencode(home) + b"/caf\xe9.wav"
    Path(os.fsdecode(bad)).write_bytes((home / "good.wav").read_bytes())
    with pytest.raises(UserInputError, match=r"caf\\xe9\.wav: its name is not UTF-8"):
        audio.read(os.fsdecode(bad))
    summary = prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    assert [(row.path.name, row.reason) for row in summary.rejected] == [(r"caf\xe9.wav", WHY_NAME)]
    summary.table().encode()
    assert r"caf\xe9" in (tmp_path / "out" / "rejected.csv").read_text(encoding="utf-8")
    works = share(arguments(tmp_path / "in", tmp_path / "codes"), SUFFIXES, ".vqw")
    assert [work.refused for work in works] == ["", WHY_NAME]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_what_is_no_file_is_listed(tmp_path: Path) -> None:
    home = tmp_path / "in" / "ann"
    home.mkdir(parents=True)
    soundfile.write(home / "good.wav", noise(), RATE)
    os.mkfifo(home / "pipe.wav")
    (home / "gone.wav").symlink_to("nowhere.wav")
    expected = [(name, WHY_NO_FILE) for name in ("gone.wav", "pipe.wav")]
    assert [(path.name, reason) for path, reason in refused_files(home)] == expected
    summary = prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    assert [(row.path.name, row.reason) for row in summary.rejected] == expected
    works = share(arguments(tmp_path / "in", tmp_path / "codes"), SUFFIXES, ".vqw")
    assert [work.refused for work in works] == ["", WHY_NO_FILE, WHY_NO_FILE]
    os.mkfifo(tmp_path / "x.vqw")
    works = share(arguments(tmp_path, tmp_path / "waves"), {".vqw"}, ".wav")
    assert [(work.source.name, work.refused) for work in works] == [("x.vqw", WHY_NO_FILE)]


def test_names_and_texts_are_composed(tmp_path: Path) -> None:
    """macOS writes e and its accent apart: the same speaker by any keyboard's name."""
    composed, apart = "Zoé", unicodedata.normalize("NFD", "Zoé")
    assert composed != apart
    (tmp_path / "in" / apart).mkdir(parents=True)
    soundfile.write(tmp_path / "in" / apart / "été.wav", noise(), RATE)
    (tmp_path / "in" / apart / "été.txt").write_text(
        unicodedata.normalize("NFD", "où"), encoding="utf-8"
    )
    prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    (row,) = Corpus.open(tmp_path / "out").utterances
    assert (row.speaker, row.id, row.text) == (composed, f"{composed}/été", "où")
    spec, labels = WaveNetSpec(network=StackSpec(layers=1)), {"speaker": ["Ann", composed]}
    card = ModelCard(sample_rate=RATE, labels=labels, spec=spec, about={})
    assert SpeechModel(card.build(), card).given.label_ids({"speaker": apart})[
        "speaker"
    ].tolist() == [1]
    table = tmp_path / "m.jsonl"
    table.write_text(
        json.dumps({"path": f"in/{apart}/été.wav", "speaker": apart, "accent": apart}) + "\n"
    )
    prepare("manifest", table, tmp_path / "out2", quiet=True)
    assert Corpus.open(tmp_path / "out2").labels == {"speaker": [composed], "accent": [composed]}


def test_what_is_there_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_bytes(b"no sound at all" * 100)
    with pytest.raises(UserInputError, match=r"x\.mp3: not readable as sound") as stop:
        audio.read(tmp_path / "x.mp3")
    assert "does not exist" not in str(stop.value)


@pytest.mark.parametrize("kind", ["MP3", "FLAC"])
def test_a_truncated_file_is_refused_piece_by_piece(tmp_path: Path, kind: str) -> None:
    """As it is where it is read at once: what is missing is not made up."""
    path, samples = tmp_path / f"x.{kind.lower()}", 30 * RATE
    soundfile.write(path, noise(0, samples), RATE, format=kind)
    assert sum(map(len, Recording.open(path).pieces())) >= samples
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserInputError, match=r"x\.\w+: "):
        list(Recording.open(path).pieces())
