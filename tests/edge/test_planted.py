"""What is being written has a name that nobody can know, and follows no link."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from vqwave import audio
from vqwave.atomic_files import hidden, is_left, new_file, new_folder, sweep, write_text
from vqwave.bench.table import write as write_rows
from vqwave.codes import CodeSequence, save_codes
from vqwave.data import prepare
from vqwave.decode.streaming.stream import StreamState
from vqwave.errors import UserInputError
from vqwave.metrics import recognizer

CODES = CodeSequence(
    codes=torch.zeros(1, 10, dtype=torch.long),
    size=8,
    samples=800,
    hop=80,
    sample_rate=8000,
    fingerprint="0" * 16,
)
WAVE = np.zeros(100, np.float32)
WRITERS: dict[str, Callable[[Path], object]] = {
    "x.txt": lambda path: write_text(path, "x"),
    "x.wav": lambda path: audio.write(path, WAVE, 8000),
    "x.flac": lambda path: audio.write(path, WAVE, 8000),
    "x.vqw": lambda path: save_codes(path, CODES),
    "x.stream": lambda path: StreamState({}, {"a": WAVE}).save(path),
    "x.json": lambda path: write_rows(path, []),
    "x.safetensors": lambda path: recognizer._keep(nn.ModuleList([nn.Linear(1, 1)]), path),
}


def plant(path: Path, victim: Path) -> None:
    """Links under every name that this process was known to write to."""
    for name in (f".{path.name}.{os.getpid()}", f".{path.name}.{os.getpid()}.partial"):
        (path.parent / name).symlink_to(victim)


@pytest.mark.parametrize("name", WRITERS)
def test_no_planted_link_is_followed(name: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out" / name
    victim.write_text("precious")
    path.parent.mkdir()
    plant(path, victim)
    WRITERS[name](path)
    assert victim.read_text() == "precious"
    assert path.is_file()
    assert not path.is_symlink()
    if name == "x.safetensors":
        return  # has permissions of its own
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", WRITERS)
def test_after_a_full_disk_nothing_is_left_and_the_file_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    monkeypatch.setattr(Path, "unlink", full)  # tidying up must not hide what was wrong
    if name == "x.safetensors":  # kept where it can be, no more
        WRITERS[name](tmp_path / name)
        return
    with pytest.raises((OSError, UserInputError)) as raised:
        WRITERS[name](tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)
    assert "No space left" in str(raised.value)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "x") as temporary:
        temporary.rename(tmp_path / "none" / "x")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "old")]


def test_hidden_names_are_new_each_time_short_and_known_as_left(tmp_path: Path) -> None:
    names = {hidden(tmp_path / "x").name for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"\.x\.[0-9a-f]{16}", name) for name in names)
    long = tmp_path / ("é" * 127)
    write_text(long, "x")
    assert long.read_text() == "x"
    assert is_left(hidden(long))
    assert not is_left(long)


def test_a_folder_is_not_made_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()
    plant(tmp_path / "out", tmp_path / "victim")
    (tmp_path / ".out.old").symlink_to(tmp_path / "victim")
    for _ in range(2):  # the second retires the first
        with new_folder(tmp_path / "out") as folder:
            (folder / "x").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x"]
    assert not (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["precious"]


def test_sweeping_a_run_removes_links_and_not_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()
    run = tmp_path / "run"
    run.mkdir()
    for name in (".model.old", ".config.yaml.77", f".samples.{'0' * 16}"):
        (run / name).symlink_to(tmp_path / "victim")
    sweep(run)
    assert list(run.iterdir()) == []
    assert (tmp_path / "victim" / "precious").exists()


def test_prepare_passes_over_planted_links(tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").touch()
    (tmp_path / "in" / "ann").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    audio.write(tmp_path / "in" / "ann" / "a.wav", noise, 8000)
    out = tmp_path / "out"
    plant(out, tmp_path / "victim")
    gone = 2**22 + 1  # no process has such a number
    for kind in ("old", "partial"):
        (tmp_path / f".out.{gone}.{kind}").symlink_to(tmp_path / "victim")
    prepare("folder", tmp_path / "in", out, quiet=True)
    assert (out / "corpus.json").is_file() or any(out.iterdir())
    assert not out.is_symlink()
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["precious"]


def test_weights_that_do_not_fit_name_their_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, new_folder(tmp_path / "model"):
        raise SafetensorError("Error while serializing: I/O error: full (os error 28)")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "model"))
    with pytest.raises(SafetensorError), new_folder(tmp_path / "model"):
        raise SafetensorError("Error while deserializing header")
    assert list(tmp_path.iterdir()) == []
