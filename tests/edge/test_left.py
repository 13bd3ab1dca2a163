"""What a killed process left is cleared by the next one, and nothing else is."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fuzz import models

from vqwave.atomic_files import new_file, new_folder, write_text
from vqwave.cli import main
from vqwave.data import prepare
from vqwave.errors import UserInputError
from vqwave.export.folder import export_folder
from vqwave.failures import about, ending, line_of
from vqwave.inference.model_folder import save_trained
from vqwave.sweep import Sweep, read
from vqwave.sweep.journal import JOURNAL, JournalLock, open_study

Reader = pytest.CaptureFixture[str]
KEY = "0123456789abcdef"


@pytest.fixture
def in_time() -> Iterator[None]:
    """What would wait for ever fails."""

    def stop(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_wrote_of_the_same_file_goes(tmp_path: Path) -> None:
    for name in (f".x.txt.{KEY}", f".y.txt.{KEY}", ".x.txt.short", f".x.txt.{KEY}0", "x.txt.old"):
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "x.txt", "whole")
    assert (tmp_path / "x.txt").read_text() == "whole"
    left = [f".x.txt.{KEY}0", ".x.txt.short", f".y.txt.{KEY}", "x.txt", "x.txt.old"]
    assert names(tmp_path) == sorted(left)


def test_what_a_killed_process_wrote_of_the_same_folder_goes(tmp_path: Path) -> None:
    (tmp_path / f".x.{KEY}" / "deep").mkdir(parents=True)
    (tmp_path / ".x.old").mkdir()
    with new_folder(tmp_path / "x") as folder:
        (folder / "whole").touch()
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_another_process_is_writing_stays(kind: str, tmp_path: Path) -> None:
    path, other = tmp_path / "x", tmp_path / f".x.{KEY}"
    other.touch() if kind == "file" else other.mkdir()
    held = os.open(other, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_text(path, "x")
        assert names(tmp_path) == [f".x.{KEY}", "x"]
    finally:
        os.close(held)


def test_what_this_process_is_writing_is_locked(tmp_path: Path) -> None:
    with new_file(tmp_path / "x") as first, first.open() as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_text(tmp_path / "x", "second")
        assert first.exists()


def test_a_planted_link_is_neither_followed_nor_taken_for_ones_own(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()
    (tmp_path / f".x.{KEY}").symlink_to(tmp_path / "victim")
    os.mkfifo(tmp_path / f".x.{KEY[::-1]}")
    write_text(tmp_path / "x", "x")
    assert names(tmp_path / "victim") == ["precious"]
    assert (tmp_path / f".x.{KEY[::-1]}").is_fifo()


def test_a_folder_that_cannot_be_put_in_place_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "older").touch()

    def failing(source: Path, target: Path) -> None:
        if Path(source).name.startswith(".x.") and not str(source).endswith(".old"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), new_folder(tmp_path / "x"):
        pass
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["older"]


def test_an_exported_folder_appears_with_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between two of them would leave a folder that the same command refuses."""
    save_trained(tmp_path / "model", models.model().model, models.model().card)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("vqwave.export.folder.store_description", full)
        with pytest.raises(OSError, match="No space"):
            export_folder(tmp_path / "model", tmp_path / "out")
    assert names(tmp_path) == ["model"]
    export_folder(tmp_path / "model", tmp_path / "out")
    files = ["README.md", "config.json", "description.json", "model.safetensors"]
    assert names(tmp_path / "out") == files


def test_the_demo_renders_next_to_its_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, nobody would clear what a kill left."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".out.recordings.{gone.pid}-{KEY}.partial").mkdir()
    rendered = []

    def render(folder: Path, *, quiet: bool) -> None:
        rendered.append(folder)
        raise UserInputError("no espeak")

    monkeypatch.setattr(sys.modules["vqwave.data.prepare"], "render_demo", render)
    with pytest.raises(UserInputError, match="no espeak"):
        prepare("demo", None, tmp_path / "out", quiet=True)
    assert rendered[0].parent == tmp_path
    assert names(tmp_path) == []


def swallowing() -> None:
    """As a library does that turns every exception into its own."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):
            pass
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape") from None


@pytest.mark.parametrize("where", ["plain", "about a file", "a file of several"])
def test_a_signal_that_a_library_swallows_still_stops(where: str, capsys: Reader) -> None:
    def work() -> None:
        if where == "plain":
            swallowing()
        if where == "about a file":
            with about("x.wav"):
                swallowing()
        try:
            swallowing()
        except ValueError as error:
            line_of(error, "x.wav")

    with pytest.raises(SystemExit) as end, ending():
        work()
    assert (end.value.code, capsys.readouterr().err) == (143, "stopped\n")


def test_a_second_ctrl_c_ends_the_tidying_up(capsys: Reader) -> None:
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            assert signal.getsignal(signal.SIGINT) == signal.default_int_handler

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as end, ending():
            work()
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (end.value.code, capsys.readouterr().err) == (130, "interrupted\n")


def sweep_in(folder: Path) -> Sweep:
    (folder / "program.py").write_text("")
    tree = {
        "program": str(folder / "program.py"),
        "method": "grid",
        "metric": {"name": "x", "goal": "minimize"},
        "parameters": {"x": {"values": [1]}},
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(tree))
    return Sweep(read(folder / "sweep.yaml"), Path("out"), quiet=True)


def test_a_trial_on_a_full_disk_is_not_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has not failed: once there is room, it is run again."""
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    sweep = sweep_in(tmp_path)
    (tmp_path / "program.py").write_text(
        "import sys; sys.exit('error: x: No space left on device')"
    )
    with pytest.raises(UserInputError, match="make room and run the same command to go on"):
        sweep.run()
    assert sweep.finished() == []
    (tmp_path / "program.py").write_text(
        "import pathlib; pathlib.Path('out/trial-001').mkdir();"
        "pathlib.Path('out/trial-001/metrics.jsonl').write_text('{\"step\": 1, \"x\": 2.5}\\n')"
    )
    assert [trial.value for trial in sweep.run()] == [2.5]


@pytest.mark.usefixtures("in_time")
def test_the_lock_of_a_killed_sweep_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """optuna's is a link, which stays; with a relative path it points nowhere."""
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    open_study(Path("out"), minimize=True, hyperband=None)
    Path("out", f"{JOURNAL}.lock").symlink_to(f"out/{JOURNAL}")
    open_study(Path("out"), minimize=True, hyperband=None).set_user_attr("x", 1)
    assert sweep_in(tmp_path).finished() == []


@pytest.mark.usefixtures("in_time")
def test_the_lock_of_a_journal_ends_with_its_process(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, pathlib; from vqwave.sweep.journal import JournalLock;"
        "held = JournalLock(pathlib.Path(sys.argv[1])); held.acquire();"
        "print('held', flush=True);"
        "signal.pause()"
    )
    words = [sys.executable, "-c", script, str(tmp_path / JOURNAL)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with (tmp_path / f".{JOURNAL}.lock").open("a") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        process.kill()
    lock = JournalLock(tmp_path / JOURNAL)
    assert lock.acquire()
    lock.release()


@pytest.mark.parametrize(
    "words",
    [
        "quantizer --seconds inf",
        "quantizer --seconds nan",
        "train --seconds 0",
        "decode --seconds -1",
        "decode --batches 0",
        "student --threads -2",
        "quantizer --vectors 99999999999999999999",
    ],
)
def test_a_benchmark_ends(words: str, capsys: Reader) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *words.split()])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"{words.split()[1]}: '{words.split()[2]}', expected" in err
