"""A folder with a bad file: it is named, the others are done, the status is 2; and what is named
where a stream ends.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import RATE, VQVAE, saved

from vqwave import audio
from vqwave.cli import main
from vqwave.inference.speech_model import SpeechModel
from vqwave.training import command_line

PLAIN = ("--backend", "reference", "--quiet", "--speaker", "ann")
Reader = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, and in/ with three recordings."""
    root = tmp_path_factory.mktemp("batches")
    saved(root / "model", VQVAE, {"speaker": ["ann"]}, about={})
    (root / "in").mkdir()
    for k, name in enumerate("abc"):
        noise = np.random.default_rng(k).normal(0, 0.1, 600 + 200 * k).astype(np.float32)
        audio.write(root / "in" / f"{name}.wav", noise, RATE)
    return root


def status(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert isinstance(end.value.code, int)
    return end.value.code


ERRORS = {
    "memory": (MemoryError("256 GiB"), "does not fit into memory"),
    "depth": (RecursionError("too deep"), "is nested too deeply"),
    "disk": (OSError(errno.EIO, "Input/output error"), "input/output error"),
    "text": (UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "bad"), "is not utf-8"),
    "mistake": (ZeroDivisionError("1 Hz"), "a mistake of vqwave: ZeroDivisionError: 1 Hz"),
}


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("command", ["encode", "convert"])
def test_a_bad_file_does_not_end_a_folder(
    command: str,
    kind: str,
    place: Path,
    tmp_path: Path,
    capsys: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error, line = ERRORS[kind]
    encode_file = SpeechModel.encode_file
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def failing(self: SpeechModel, path: Path, *rest: Any) -> object:  # noqa: ANN401
        if Path(path).name == "b.wav":
            raise error
        return encode_file(self, path, *rest)

    monkeypatch.setattr(SpeechModel, "encode_file", failing)
    out = tmp_path / "out"
    words = PLAIN if command == "convert" else ("--quiet",)
    assert status(command, place / "model", place / "in", "--out", out, *words) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {place / 'in' / 'b.wav'}: {line}")
    assert last.startswith("error: 1 of 3 files could not be used")
    assert sorted(path.stem for path in out.iterdir()) == ["a", "c"]


@pytest.fixture
def coded(place: Path, tmp_path: Path) -> Path:
    main(["encode", str(place / "model"), str(place / "in"), "--out", str(tmp_path / "c")])
    return tmp_path / "c"


def test_one_of_several_that_are_decoded_at_once_does_not_end_the_others(
    place: Path,
    coded: Path,
    tmp_path: Path,
    capsys: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others come out as they would have without it."""
    decode_each = SpeechModel.decode_each
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    words = ("decode", place / "model", coded, *PLAIN)
    main([str(word) for word in (*words, "--out", tmp_path / "good")])

    def failing(self: SpeechModel, tasks: Any, *rest: Any) -> object:  # noqa: ANN401
        for done in decode_each(self, tasks, *rest):
            if done[0].name == "b.vqw":
                raise IndexError("code 9")
            yield done

    monkeypatch.setattr(SpeechModel, "decode_each", failing)
    capsys.readouterr()
    assert status(*words, "--out", tmp_path / "out") == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {coded / 'b.vqw'}: a mistake of vqwave: IndexError: code 9")
    assert last.startswith("error: 1 of 3 files")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.wav", "c.wav"]
    for name in ("a.wav", "c.wav"):
        same = [(tmp_path / folder / name).read_bytes() for folder in ("good", "out")]
        assert same[0] == same[1]


def test_a_wrong_option_is_one_line_for_the_folder(
    place: Path, coded: Path, tmp_path: Path, capsys: Reader
) -> None:
    words = ("--quiet", "--speaker", "ann", "--backend", "nonsense", "--out", tmp_path / "out")
    capsys.readouterr()
    assert status("decode", place / "model", coded, *words) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Failing(io.BytesIO):
    """Standard output of a full disk, standard input of a broken one."""

    def __init__(self, number: int, given: bytes = b"") -> None:
        super().__init__(given)
        self.number = number

    def fails(self, *_: object) -> Any:  # noqa: ANN401
        raise OSError(self.number, os.strerror(self.number))

    write = fails


@pytest.mark.parametrize(("command", "suffix"), [("encode", "wav"), ("decode", "vqw")])
@pytest.mark.parametrize("given", ["file", "pipe"])
def test_a_full_output_is_not_the_fault_of_the_input(
    command: str,
    suffix: str,
    given: str,
    place: Path,
    coded: Path,
    capsys: Reader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = (coded if suffix == "vqw" else place / "in") / f"a.{suffix}"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(Failing(errno.ENOSPC)))
    words = ("--stream", *PLAIN) if command == "decode" else ("--quiet",)
    capsys.readouterr()
    source = file if given == "file" else "-"
    out = ("--out", "-") if command == "encode" else ()
    assert status(command, place / "model", source, *out, *words) == 2
    full = "error: standard output: no space left on device, expected room on the disk\n"
    assert capsys.readouterr().err == full


def test_an_input_that_breaks_is_not_the_fault_of_the_output(
    place: Path, coded: Path, capsys: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Failing(errno.EIO)
    monkeypatch.setattr(broken, "read", broken.fails)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(broken))
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO()))
    capsys.readouterr()
    assert status("decode", place / "model", "-", "--stream", *PLAIN) == 2
    assert capsys.readouterr().err == "error: standard input: input/output error\n"


def test_closed_streams_of_a_pipe(place: Path, coded: Path) -> None:
    """Without standard error the notes are lost, and the codes are what they are with it."""
    command = f'"{sys.executable}" -m vqwave encode {place / "model"} - < {place / "in" / "a.wav"}'
    with_notes, without = (
        subprocess.run(["sh", "-c", command + more], capture_output=True) for more in ("", " 2>&-")
    )
    assert (with_notes.returncode, without.returncode) == (0, 0)
    assert b"note: " in with_notes.stderr
    assert with_notes.stdout == without.stdout
    assert b"note: " not in without.stdout


@dataclass(frozen=True)
class Run:
    """Settings, as far as the command line looks at them."""

    run: Path


def test_a_mistake_in_a_training_leaves_its_traceback_in_the_run(
    tmp_path: Path, capsys: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    class Trainer:
        def __init__(self, *_: object, **__: object) -> None:
            run.mkdir()
            (run / "config.yaml").touch()

        def run(self) -> None:
            raise KeyError("gone")

    class Known:
        config_class = None
        name = "known"

        def __init__(self, _: object) -> None: ...

    request = type("Request", (), {"config": None, "dry_run": False, "restart": 0, "quiet": 1})()
    request.config = Run(run)
    monkeypatch.setattr(command_line, "Trainer", Trainer)
    monkeypatch.setattr(command_line.settings, "parse", lambda *_, **__: request)
    monkeypatch.setattr(command_line.settings, "to_tree", lambda _: {})
    with pytest.raises(SystemExit) as end:
        command_line.main(Known, [])  # type: ignore[arg-type]
    assert end.value.code == 1
    (file,) = (path for path in run.iterdir() if path.suffix == ".txt")
    err = capsys.readouterr().err
    assert err.startswith("error: a mistake of vqwave: KeyError: 'gone' in ")
    assert err.endswith(f"the traceback is in {file}\n")


def test_no_file_takes_the_place_of_a_pipe_or_a_device(
    place: Path, tmp_path: Path, capsys: Reader
) -> None:
    os.mkfifo(tmp_path / "pipe.vqw")
    words = (place / "in" / "a.wav", "--out", tmp_path / "pipe.vqw", "--quiet")
    assert status("encode", place / "model", *words) == 2
    assert f"{tmp_path / 'pipe.vqw'}: is no file, expected" in capsys.readouterr().err
    assert (tmp_path / "pipe.vqw").is_fifo()
