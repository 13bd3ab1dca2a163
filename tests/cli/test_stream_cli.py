"""Commands in a pipe and over folders: what comes out, what is left to do, and one line for what
cannot be.
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import RATE, STUDENT, VQVAE, saved

import vqwave
from vqwave import audio, terminal
from vqwave.audio.streaming import WavReader, WavWriter
from vqwave.cli import main
from vqwave.codes import load_codes, save_codes
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError

SAMPLES = 1700  # of the recording
PLAIN = ("--backend", "reference", "--quiet")


def chirp(T: int, rate: int = RATE) -> np.ndarray:
    t = np.arange(T) / rate
    return (0.2 * np.sin(2 * np.pi * (200 * t + 300 * t**2))).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vqvae/, student/, speech.wav, and in/ with three recordings and one that is none."""
    root = tmp_path_factory.mktemp("pipes")
    for name, spec in (("vqvae", VQVAE), ("student", STUDENT)):
        saved(root / name, spec, {"speaker": ["george", "theo"]}, about={})
    audio.write(root / "speech.wav", chirp(SAMPLES), RATE)
    (root / "in" / "deep").mkdir(parents=True)
    for name, samples in (("a.wav", 500), ("b.flac", 900), ("deep/c.wav", 300)):
        audio.write(root / "in" / name, chirp(samples), RATE)
    return root


Run = Callable[..., bytes]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with these bytes on standard input -> what it wrote to standard output."""

    def run(given: bytes, *argv: object) -> bytes:
        out = io.BytesIO()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out))
        main([str(a) for a in argv])
        return out.getvalue()

    return run


def stopped(capsys: pytest.CaptureFixture[str], run: Callable[[], object]) -> str:
    """What a command that must fail says on standard error: its last line begins so, and the status
    is 2.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run()
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.splitlines()[-1].startswith("error: ")
    return err


@pytest.mark.parametrize("model", ["vqvae", "student"])
def test_speech_through_a_pipe_is_speech_from_files(
    place: Path, model: str, piped: Run, tmp_path: Path
) -> None:
    codes = piped(
        (place / "speech.wav").read_bytes(),
        "encode",
        place / model,
        "-",
        "--speaker",
        "theo",
        "--quiet",
    )
    (tmp_path / "piped.vqw").write_bytes(codes)
    codec = vqwave.load(place / model)
    mine, whole = (
        load_codes(tmp_path / "piped.vqw"),
        codec.encode(*vqwave.read(place / "speech.wav"), "theo"),
    )
    assert torch.equal(mine.codes, whole.codes)
    assert (mine.samples, mine.speaker, mine.fingerprint) == (SAMPLES, "theo", whole.fingerprint)
    sound = piped(codes, "decode", place / model, "--stream", "-", "--seed", 3, *PLAIN)
    (tmp_path / "piped.wav").write_bytes(sound)
    decoded = codec.decode(whole, sampling=Sampling(seed=3, backend="reference"))
    assert np.array_equal(
        audio.to_int16(decoded.numpy()), audio.to_int16(audio.read(tmp_path / "piped.wav")[0])
    )
    raw = piped(codes, "decode", place / model, "-", "--stream", "--raw", "--seed", 3, *PLAIN)
    assert raw == sound[44:]
    main(
        [
            "decode",
            str(place / model),
            str(tmp_path / "piped.vqw"),
            "--stream",
            "--out",
            str(tmp_path / "a.wav"),
            "--seed",
            "3",
            *PLAIN,
        ]
    )
    assert (tmp_path / "a.wav").read_bytes()[44:] == raw
    assert struct.unpack("<I", (tmp_path / "a.wav").read_bytes()[40:44]) == (2 * SAMPLES,)


def test_the_pipe_of_the_readme(place: Path) -> None:
    """Two processes; and a reader that goes away."""
    vq, model = f"{shlex.quote(sys.executable)} -m vqwave", shlex.quote(str(place / "student"))
    line = (
        f"{vq} encode {model} - < {place}/speech.wav | {vq} decode {model} --stream - --speaker"
        " theo --raw --backend reference"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        capture_output=True,
        check=True,
        env=environment,
        timeout=300,
    )
    assert len(done.stdout) == 2 * SAMPLES
    assert b"note: codes come" in done.stderr
    assert b"note: sound comes" in done.stderr
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "vqwave", "encode", str(place / "student"), "-", "--quiet"]
    with (place / "speech.wav").open("rb") as given, os.fdopen(write, "wb") as out:
        gone = subprocess.run(
            command,
            stdin=given,
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
            env=environment,
            timeout=300,
        )
    assert (gone.returncode, gone.stderr) == (2, b"error: standard output: its reader is gone\n")


def test_what_does_not_come_through_a_pipe_is_named(
    place: Path, piped: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    wav = (place / "speech.wav").read_bytes()
    codes = piped(wav, "encode", place / "vqvae", "-", "--quiet")
    encode, decode = (
        ("encode", place / "vqvae", "-", "--quiet"),
        ("decode", place / "vqvae", "--stream", "-", *PLAIN, "--speaker", "theo"),
    )
    silent = wav[:44] + bytes(len(wav) - 44)
    for given, command, expected in (
        (b"", encode, "standard input: empty, expected a WAV"),
        (b"hello, this is text", encode, "standard input: not a WAV"),
        (wav[:30], encode, "standard input: truncated before its samples"),
        (
            wav[:3000],
            encode,
            f"standard input: truncated, {2 * SAMPLES - 2956} bytes of",
        ),
        (silent, encode, "standard input: the recording is empty or silent"),
        (b"", decode, "standard input: empty, expected a .vqw file"),
        (b"hello, this is text", decode, "standard input: not a .vqw file"),
        (codes[:-3], decode, "standard input: the checksum does not match"),
        (codes[:20], decode, "standard input: the checksum does not match"),
        (
            wav,
            (*encode, "--prior", place / "none"),
            "--prior: entropy coding needs the entire utterance",
        ),
        (codes, (*decode[:-1], "thea"), "did you mean theo"),
    ):
        err = stopped(capsys, lambda given=given, command=command: piped(given, *command))
        assert expected in err
        assert err.count("\n") == 1
    assert "--out: not given" in stopped(
        capsys, lambda: main(["encode", str(place / "vqvae"), str(place / "speech.wav")])
    )
    assert "--raw: is for a stream" in stopped(
        capsys, lambda: piped(b"", "decode", place / "vqvae", "x.vqw", "--raw")
    )


def test_what_is_read_is_never_written_over(
    place: Path, piped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is a pipe replaced by a file, nor is WAV written under another format's name."""
    model, wav = place / "vqvae", (place / "speech.wav").read_bytes()
    codes = tmp_path / "a.vqw"
    codes.write_bytes(piped(wav, "encode", model, "-", "--quiet"))
    (tmp_path / "like.wav").write_bytes(wav)
    os.mkfifo(tmp_path / "pipe.vqw")
    before = {path.name: path.stat() for path in tmp_path.iterdir()}
    stream = ("decode", model, "--stream", *PLAIN)
    like, is_read = tmp_path / "like.wav", "is what is read, expected another file"
    for argv, expected in (
        ((*stream, codes, "--out", codes), "a stream is WAV, expected a file name that ends in"),
        ((*stream, codes, "--like", like, "--out", like), is_read),
        ((*stream, codes, "--out", tmp_path / "a.flac"), "a stream is WAV"),
        ((*stream, codes, "--raw", "--out", tmp_path / "b.wav"), "raw samples have no header"),
        (("decode", model, codes, *PLAIN, "--like", like, "--out", like), is_read),
        (("convert", model, codes, *PLAIN, "--like", like, "--out", like), is_read),
        (("decode", model, codes, *PLAIN, "--out", "-"), "--out -: is for a stream"),
        (("encode", model, "-", "--out", tmp_path / "pipe.vqw"), "is no file, expected the name"),
        (("encode", model, like, "--out", tmp_path / "k.wav"), "a file name that ends in .vqw"),
        (("encode", model, place / "in", "--out", "-"), "is a folder, expected --out FOLDER"),
        (("generate", model, "--prompt", like, "--out", like), is_read),
    ):
        assert expected in stopped(capsys, lambda argv=argv: piped(wav, *argv))
    assert {path.name: path.stat() for path in tmp_path.iterdir()} == before


def test_options_that_would_change_nothing_are_refused(
    place: Path, piped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, speech, out = place / "vqvae", place / "speech.wav", ("--out", tmp_path / "a.vqw")
    codes = tmp_path / "codes.vqw"
    codes.write_bytes(piped(speech.read_bytes(), "encode", model, "-", "--quiet"))
    decode = ("decode", model, codes, "--out", tmp_path / "a.wav", *PLAIN)
    for argv, expected in (
        (("encode", model, speech, *out, "--input-rms-db", "-20"), "--input-rms-db: is for a pipe"),
        (("encode", model, speech, *out, "--chunk-seconds", "1"), "--chunk-seconds: is for a pipe"),
        ((*decode, "--label", "speaker=theo", "--label", "speaker=george"), "is given twice"),
        (("generate", model, "--out", tmp_path / "a.wav", "--code-top-p", "1"), "--code-top-p: is"),
        ((*decode, "--speaker", "theo", "--label", "speaker=george"), "expected one of them"),
    ):
        assert expected in stopped(capsys, lambda argv=argv: main([str(a) for a in argv]))


def test_a_stream_takes_the_voice_that_a_file_takes(
    place: Path, piped: Run, tmp_path: Path
) -> None:
    """A label that is given, else the speaker that is noted."""
    model, codes = place / "vqvae", tmp_path / "a.vqw"
    main(
        [
            "encode",
            str(model),
            str(place / "speech.wav"),
            "--speaker",
            "george",
            "--out",
            str(codes),
        ]
    )
    for given in ([], ["--label", "speaker=theo"], ["--speaker", "theo"]):
        words = ["decode", str(model), str(codes), *PLAIN, *given]
        main([*words, "--out", str(tmp_path / "whole.wav")])
        main([*words, "--stream", "--out", str(tmp_path / "stream.wav")])
        whole, streamed = (audio.read(tmp_path / f"{name}.wav")[0] for name in ("whole", "stream"))
        np.testing.assert_array_equal(whole, streamed)


def test_nothing_half_written_is_left(
    place: Path, piped: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wav = (place / "speech.wav").read_bytes()
    stopped(
        capsys,
        lambda: piped(
            wav[:3000], "encode", place / "vqvae", "-", "--out", tmp_path / "a.vqw", "--quiet"
        ),
    )
    assert list(tmp_path.iterdir()) == []


def test_a_folder(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Encoded, decoded and converted as file by file; what is there is left alone; ranks share; a
    bad file is named.
    """
    model, codes, out = str(place / "vqvae"), tmp_path / "codes", tmp_path / "out"
    main(["encode", model, str(place / "in"), "--out", str(codes), "--speaker", "theo", "--quiet"])
    made = sorted(path.relative_to(codes).as_posix() for path in codes.rglob("*.*"))
    assert made == ["a.vqw", "b.vqw", "deep/c.vqw"]
    codec = vqwave.load(model)
    whole = codec.encode(*vqwave.read(place / "in" / "b.flac"), "theo")
    assert torch.equal(load_codes(codes / "b.vqw").codes, whole.codes)
    main(["decode", model, str(codes), "--out", str(out), *PLAIN])
    alone = codec.decode(whole, sampling=Sampling(backend="reference"))
    assert np.array_equal(
        audio.read(out / "b.wav")[0], audio.from_int16(audio.to_int16(alone.numpy()))
    )
    main(
        [
            "convert",
            model,
            str(place / "in"),
            "--speaker",
            "theo",
            "--out",
            str(tmp_path / "same"),
            *PLAIN,
        ]
    )
    for name in ("a.wav", "b.wav", "deep/c.wav"):
        assert (tmp_path / "same" / name).read_bytes() == (out / name).read_bytes()
    stamp = (out / "a.wav").stat().st_mtime_ns
    (out / "b.wav").unlink()
    main(["decode", model, str(codes), "--out", str(out), *PLAIN])
    assert (out / "b.wav").exists()
    assert (out / "a.wav").stat().st_mtime_ns == stamp
    main(["decode", model, str(codes), "--out", str(out), "--overwrite", *PLAIN])
    assert (out / "a.wav").stat().st_mtime_ns != stamp
    capsys.readouterr()


def test_a_bad_file_among_good_ones(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, source, out = str(place / "vqvae"), tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "bad.wav").write_text("no audio")
    audio.write(source / "good.wav", chirp(900), RATE)
    audio.write(source / "quiet.wav", np.zeros(900, np.float32), RATE)
    err = stopped(
        capsys,
        lambda: main(
            ["encode", model, str(source), "--out", str(out), "--speaker", "theo", "--quiet"]
        ),
    )
    assert [line.split(": ")[1] for line in err.splitlines()[:2]] == [
        str(source / "bad.wav"),
        str(source / "quiet.wav"),
    ]
    assert f"2 of 3 files could not be used; the others are in {out}" in err
    assert [path.name for path in out.iterdir()] == ["good.vqw"]
    save_codes(
        out / "foreign.vqw", replace(load_codes(out / "good.vqw"), fingerprint="0123456789abcdef")
    )
    (out / "cut.vqw").write_bytes((out / "good.vqw").read_bytes()[:-1])
    err = stopped(
        capsys, lambda: main(["decode", model, str(out), "--out", str(tmp_path / "wav"), *PLAIN])
    )
    assert {line.split(": ")[1] for line in err.splitlines()[:2]} == {
        str(out / "cut.vqw"),
        str(out / "foreign.vqw"),
    }
    assert [path.name for path in (tmp_path / "wav").iterdir()] == ["good.wav"]
    for argv, expected in (
        (["encode", model, str(out), "--out", str(tmp_path / "x")], "no files in it end in"),
        (
            ["encode", model, str(source), "--out", str(source / "good.wav")],
            "a file, expected a folder",
        ),
    ):
        assert expected in stopped(capsys, lambda argv=argv: main(argv))
    audio.write(source / "good.flac", chirp(900), RATE)
    err = stopped(
        capsys, lambda: main(["encode", model, str(source), "--out", str(tmp_path / "y")])
    )
    assert "would both become" in err


def test_ranks_share_a_folder(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        main(
            [
                "encode",
                str(place / "vqvae"),
                str(place / "in"),
                "--out",
                str(tmp_path / str(rank)),
                "--quiet",
            ]
        )
        made.append({path.name for path in (tmp_path / str(rank)).rglob("*.vqw")})
    assert [sorted(names) for names in made] == [["a.vqw", "c.vqw"], ["b.vqw"]]
    for rank in ("x", "2", "-1"):
        monkeypatch.setenv("RANK", rank)
        words = ["encode", str(place / "vqvae"), str(place / "in"), "--out", str(tmp_path / "n")]
        err = stopped(capsys, lambda words=words: main(words))
        assert f"RANK={rank} WORLD_SIZE=2: expected the number of a process" in err


def test_what_was_made_inside_the_folder_is_not_read(place: Path, tmp_path: Path) -> None:
    """The same command once more finds nothing to do."""
    shutil.copytree(place / "in", tmp_path / "in")
    words = ["convert", str(place / "vqvae"), str(tmp_path / "in"), "--speaker", "theo", *PLAIN]
    for _ in range(2):
        main([*words, "--out", str(tmp_path / "in" / "out")])
    made = {p.relative_to(tmp_path / "in").as_posix() for p in tmp_path.rglob("*.wav")}
    assert {name for name in made if name.startswith("out/")} == {
        "out/a.wav",
        "out/b.wav",
        "out/deep/c.wav",
    }


def wav(kind: int, bits: int, channels: int, data: bytes, length: int | None = None) -> bytes:
    facts = struct.pack(
        "<HHIIHH", kind, channels, RATE, RATE * channels * bits // 8, channels * bits // 8, bits
    )
    size = len(data) if length is None else length
    extra = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    return (
        b"RIFF\0\0\0\0WAVE"
        + extra
        + b"fmt "
        + struct.pack("<I", 16)
        + facts
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def test_wavs_of_every_kind_come_through() -> None:
    x = np.array([0.5, -0.25, 0.0, -1.0], np.float32)
    wide = (x.astype(np.float64) * 2**31).clip(-(2**31), 2**31 - 1).astype("<i4")
    for kind, bits, data in (
        (1, 16, audio.to_int16(x).astype("<i2").tobytes()),
        (1, 24, wide.view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()),
        (1, 32, wide.tobytes()),
        (3, 32, x.astype("<f4").tobytes()),
    ):
        for channels in (1, 2):
            for length in (None, 0, 0xFFFFFFFF):
                reader = WavReader(io.BytesIO(wav(kind, bits, channels, data, length)), "x")
                found = np.concatenate(list(reader))
                expected = x.reshape(-1, channels).mean(1)
                assert np.allclose(found, expected, atol=1e-6)
                assert found.dtype == np.float32
    for bad in (wav(7, 8, 1, b"x"), wav(1, 16, 0, b""), b"RIFF\0\0\0\0WAVEdata\0\0\0\0"):
        with pytest.raises(UserInputError, match=r"^x: "):
            list(WavReader(io.BytesIO(bad), "x"))


def test_what_is_written_can_be_read_as_it_comes() -> None:
    file = io.BytesIO()
    writer = WavWriter(file, RATE)
    writer.write(chirp(100))
    so_far = np.concatenate(list(WavReader(io.BytesIO(file.getvalue()), "x")))
    assert np.abs(so_far - chirp(100)).max() < 2e-5
    writer.finish()
    assert len(np.concatenate(list(WavReader(io.BytesIO(file.getvalue()), "x")))) == 100


@pytest.mark.parametrize("before", [b"", b"before"])
@pytest.mark.parametrize("appended", [False, True])
def test_a_file_behind_standard_output_gets_its_lengths(
    tmp_path: Path, before: bytes, appended: bool
) -> None:
    """After `>`; after `>>` nothing but the end can be written."""
    place = tmp_path / "a.wav"
    place.write_bytes(before)
    flags = os.O_APPEND if appended else 0
    handle = os.open(place, os.O_WRONLY | flags)
    os.lseek(handle, len(before), os.SEEK_SET)
    with os.fdopen(handle, "wb") as opened:
        out = terminal.named(opened, "a.wav")
        writer = WavWriter(out, RATE)
        writer.write(chirp(100))
        writer.finish()
        out.write(b"after")
    data = place.read_bytes()
    assert data[: len(before)] == before
    assert data[-5:] == b"after"
    wav = data[len(before) : -5]
    assert len(wav) == 44 + 200
    lengths = [struct.unpack("<I", wav[at : at + 4])[0] for at in (4, 40)]
    assert lengths == ([0xFFFFFFFF] * 2 if appended else [36 + 200, 200])


def test_what_others_write_meanwhile_is_kept() -> None:
    file = io.BytesIO()
    writer = WavWriter(file, RATE)
    writer.write(chirp(10))
    file.write(b"of another")
    data = file.getvalue()
    writer.finish()
    assert file.getvalue() == data


def test_a_second_stream_in_a_pipe_is_not_passed_over(
    place: Path, piped: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (place / "speech.wav").read_bytes()
    codes = piped(given, "encode", place / "vqvae", "-", "--speaker", "theo", "--quiet")
    twice = codes + codes
    err = stopped(capsys, lambda: piped(twice, "decode", place / "vqvae", "--stream", "-", *PLAIN))
    assert "standard input: more follows after its end, expected one stream of codes" in err
