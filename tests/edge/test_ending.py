"""Whatever is raised: one line on standard error, which names the culprit, and a status."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from soundfile import LibsndfileError

import vqwave.inference.description
from vqwave import audio
from vqwave.audio import Wave
from vqwave.cli import main
from vqwave.data import prepare
from vqwave.data.corpus_writer import ShardWriter
from vqwave.errors import UserInputError, located
from vqwave.failures import about, ending, in_a_line, line_of
from vqwave.terminal import OUTPUT

Reader = pytest.CaptureFixture[str]


def of_system(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


KNOWN: dict[str, tuple[Exception, str]] = {
    "input": (UserInputError("x.wav: silent"), "x.wav: silent"),
    "full": (
        of_system(errno.ENOSPC, "a/b.vqw"),
        "a/b.vqw: no space left on device, expected room on the disk",
    ),
    "read-only": (
        of_system(errno.EROFS, "b"),
        "b: read-only file system, expected a place that can be written",
    ),
    "denied": (of_system(errno.EACCES, "b"), "b: permission denied"),
    "pipe": (of_system(errno.EPIPE, "fifo"), "fifo: its reader is gone"),
    "bytes": (of_system(errno.ENOENT, os.fsdecode(b"\xe9")), "\\xe9: no such file or directory"),
    "library": (OSError("model hub is down"), "model hub is down"),
    "sound": (LibsndfileError(3), "not usable as sound (Supported file format but"),
    "weights": (
        SafetensorError("HeaderBad"),
        "cannot be read as safetensors (HeaderBad)",
    ),
    "weights on disk": (SafetensorError("I/O error (os error 28)"), "no space left on device"),
    "memory": (MemoryError("Unable to allocate 256 GiB"), "does not fit into memory (Unable"),
    "memory of torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
        "does not fit into memory (DefaultCPUAllocator",
    ),
    "memory of cuda": (torch.OutOfMemoryError("CUDA"), "does not fit into memory (CUDA)"),
    "depth": (RecursionError("maximum recursion depth exceeded"), "is nested too deeply"),
    "text in": (
        UnicodeDecodeError("utf-8", b"ab\xe9", 2, 3, "invalid"),
        "is not utf-8 (byte 0xe9 at 2)",
    ),
    "text out": (
        UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"),
        "cannot be written as text",
    ),
}


def ended(raising: Callable[[], object], **options: Callable[..., object]) -> int:
    with pytest.raises(SystemExit) as end, ending(**options):  # type: ignore[arg-type]
        raising()
    assert isinstance(end.value.code, int)
    return end.value.code


def throw(error: BaseException) -> Callable[..., None]:
    def work(*_: object, **__: object) -> None:
        raise error

    return work


@pytest.mark.parametrize("kind", KNOWN)
def test_what_a_person_can_mend_is_a_line_and_status_2(kind: str, capsys: Reader) -> None:
    error, line = KNOWN[kind]
    assert ended(throw(error)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", KNOWN)
def test_a_command_ends_so(kind: str, capsys: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    error, line = KNOWN[kind]
    monkeypatch.setattr(vqwave.inference.description, "describe", throw(error))
    with pytest.raises(SystemExit) as end:
        main(["info", "x"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")


@pytest.mark.parametrize("kind", KNOWN)
def test_what_names_no_file_gets_the_one_it_is_about(kind: str) -> None:
    error, line = KNOWN[kind]
    named = isinstance(error, OSError) and error.filename is not None
    with pytest.raises(UserInputError) as raised, about("x.wav"):
        raise error
    text = str(raised.value).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    assert text.startswith(line if named or "x.wav" in line else f"x.wav: {line}")


def test_a_mistake_of_the_package_is_a_line_and_a_file(tmp_path: Path, capsys: Reader) -> None:
    def wrong() -> None:
        {}["no\nsuch"]  # type: ignore[index]

    assert ended(wrong, folder=lambda: tmp_path) == 1
    (file,) = tmp_path.iterdir()
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "KeyError" in err
    assert "test_ending.py:" in err
    assert err.rstrip().endswith(f"the traceback is in {file}")
    assert "in wrong\n" in file.read_text()


def test_a_traceback_goes_elsewhere_where_a_run_cannot_be_written(
    tmp_path: Path, capsys: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(throw(KeyError("x")), folder=lambda: tmp_path / "none") == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".txt"]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert ended(throw(KeyError("x"))) == 1
    assert capsys.readouterr().err.rstrip().endswith("its traceback could not be written")


def test_an_error_in_which_another_process_reports_is_a_status_only(capsys: Reader) -> None:
    assert ended(throw(UserInputError("x")), reports=lambda _: False) == 2
    assert capsys.readouterr().err == ""


def test_only_a_file_that_stands_for_another_is_renamed(tmp_path: Path) -> None:
    for given, shown in (
        (None, "final"),
        (str(tmp_path / ".x"), "final"),
        (str(tmp_path / ".x" / "inner"), "final/inner"),
        ("other", "other"),
    ):
        with pytest.raises(OSError) as raised, located("final", tmp_path / ".x"):
            raise of_system(errno.ENOSPC, given)
        assert raised.value.filename == shown
    with pytest.raises(OSError, match=r"^plain text$"), located("final"):
        raise OSError("plain text")


SCRIPT = """
import sys
from vqwave.failures import ending
from vqwave.terminal import message, named, output

with ending():
    message("note: hello")
    if "read" in sys.argv:
        named(sys.stdin.buffer, "standard input").read(1)
    if "bar" in sys.argv:
        print("bar", file=sys.stderr, flush=True)
    open(sys.argv[1], "w").write("own text")
    output("codes")
"""


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        ("", 0, "codes\n", "note: hello\n"),
        ("2>&-", 0, "codes\n", ""),
        ("bar 2>/dev/full", 0, "codes\n", ""),
        (">&-", 2, "", "note: hello\nerror: standard output: is closed\n"),
        (
            ">/dev/full",
            2,
            "",
            "note: hello\nerror: standard output: no space left on device, expected room on the"
            " disk\n",
        ),
        (">&- 2>&-", 2, "", ""),
        ("<&-", 0, "codes\n", "note: hello\n"),
        ("read <&-", 2, "", "note: hello\nerror: standard input: is closed\n"),
        ("<&- >&- 2>&-", 2, "", ""),
        ("| true", 0, "", None),
    ],
)
def test_streams_may_be_closed_or_full(
    words: str, status: int, out: str, err: str | None, tmp_path: Path
) -> None:
    """Messages never go among the data, nor into a file that got the number of a closed stream."""
    file = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "$0" {file} {words}', SCRIPT],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert err is None or done.stderr == err
    assert not file.exists() or file.read_text() == "own text"


def test_a_reader_that_is_gone_is_no_error(capsys: Reader) -> None:
    assert ended(throw(of_system(errno.EPIPE, OUTPUT))) == 128 + signal.SIGPIPE
    assert capsys.readouterr().err == ""


def test_help_that_cannot_be_written_blames_the_output() -> None:
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m vqwave --help > /dev/full'],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: standard output: no space left")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in" / "ann").mkdir(parents=True)
    for k in range(3):
        noise = np.random.default_rng(k).normal(0, 0.1, 8000).astype(np.float32)
        audio.write(tmp_path / "in" / "ann" / f"{k}.wav", noise, 8000)
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_prepare_tidies_up_after_any_signal(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Reader
) -> None:
    number = getattr(signal, name)
    monkeypatch.setattr(ShardWriter, "add", lambda *_: os.kill(os.getpid(), number))
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, usual)  # tests in the background may ignore it
    try:
        with pytest.raises(SystemExit) as end:
            main(["prepare", "folder", str(source), "--out", str(tmp_path / "out"), "--quiet"])
        assert signal.getsignal(number) == usual
    finally:
        signal.signal(number, before)
    assert end.value.code == 128 + number
    assert capsys.readouterr().err == ("interrupted\n" if name == "SIGINT" else "stopped\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_that_python_drops_stops_all_the_same(name: str, capsys: Reader) -> None:
    number = getattr(signal, name)

    class Part:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    def work() -> None:
        Part()
        time.sleep(20)
        pytest.fail("went on")

    hook = sys.unraisablehook
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, usual)  # tests in the background may ignore it
    try:
        assert ended(work) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err in ("stopped\n", "interrupted\n")
    assert sys.unraisablehook is hook


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with ending():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("error", [MemoryError("256 GiB"), ZeroDivisionError("1 Hz")])
def test_prepare_leaves_out_what_cannot_be_used_whatever_the_reason(
    error: Exception, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read = audio.read

    def failing(path: Path, *rest: int | None) -> tuple[Wave, int]:
        if path.name == "1.wav":
            raise error
        return read(path, *rest)

    monkeypatch.setattr(audio, "read", failing)
    summary = prepare("folder", source, tmp_path / "out", quiet=True)
    rejected = (tmp_path / "out" / "rejected.csv").read_text().splitlines()[1:]
    assert "2 utterances" in summary.table() or "2" in summary.table()
    assert len(rejected) == 1
    assert str(error) in rejected[0]


def test_a_full_disk_ends_prepare_and_names_its_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Reader
) -> None:
    monkeypatch.setattr(ShardWriter, "add", throw(of_system(errno.ENOSPC)))
    with pytest.raises(SystemExit) as end:
        main(["prepare", "folder", str(source), "--out", str(tmp_path / "out"), "--quiet"])
    line = f"error: {tmp_path / 'out'}: no space left on device, expected room on the disk\n"
    assert (end.value.code, capsys.readouterr().err) == (2, line)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_line_of_a_file_names_it_or_what_the_system_names() -> None:
    assert line_of(UserInputError("silent"), "a.wav") == "a.wav: silent"
    assert line_of(UserInputError("a.wav: silent"), "a.wav") == "a.wav: silent"
    assert line_of(of_system(errno.EACCES, "out"), "a.wav") == "out: permission denied"
    assert line_of(of_system(errno.EIO), "a.wav").startswith("a.wav: input/output error")
    assert in_a_line(KeyError("x")) is None
