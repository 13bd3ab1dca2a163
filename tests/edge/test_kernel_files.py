"""Files of compiled kernels: what is damaged, planted or another's is compiled again, not run."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from vqwave.errors import Note

if sys.platform == "win32":
    pytest.skip("modes and owners of files are those of POSIX", allow_module_level=True)

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from vqwave.decode.cpu import kernel_cache, kernel_files
from vqwave.decode.cpu.compiled import Compiled

KERNELS = """
from vqwave.decode.cpu.jit import kernel

@kernel
def one(x):
    return x + 1

@kernel
def two(x):
    return x + 2
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of one with two kernels."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels_of_a_test.py").write_text(KERNELS)
    sys.path.insert(0, str(folder))
    yield "kernels_of_a_test"
    sys.path.remove(str(folder))


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


class Watched(Compiled):
    """Whether it was compiled."""

    compiled = False

    def _compile(self, arguments: Sequence[object]) -> tuple[bytes, bool]:
        self.compiled = True
        return super()._compile(arguments)


Run = Callable[[str], tuple[int, bool]]


@pytest.fixture
def run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """What a kernel gives for 40, and whether it came from its file, which is in `tmp_path`."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kernel_cache._warn_unkept.cache_clear()

    def result(name: str) -> tuple[int, bool]:
        kernel = Watched(module, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "compiling the decoder", Note)
            return kernel(40), not kernel.compiled

    yield result
    kernel_cache._warn_unkept.cache_clear()


def file_of(folder: Path, run: Run, name: str = "one") -> Path:
    """The kernel's file, which is made."""
    run(name)
    (path,) = folder.rglob(f"*.{name}-*.o")
    return path


def taken_again(path: Path, run: Run) -> None:
    """What lies there now is compiled anew and replaced by what is whole."""
    assert run("one") == (41, False)
    assert kernel_files.read_sealed(path) is not None
    assert run("one") == (41, True)


def test_a_kernel_is_compiled_once(run: Run, tmp_path: Path) -> None:
    assert run("one") == (41, False)
    assert run("one") == (41, True)
    assert run("two") == (42, False)
    assert file_of(tmp_path, run).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "longer", "zeros"])
def test_a_damaged_kernel_is_compiled_again(run: Run, tmp_path: Path, damage: str) -> None:
    path = file_of(tmp_path, run)
    data = path.read_bytes()
    other = bytearray(data)
    other[len(data) * 2 // 3] ^= 1  # within the machine code
    kinds = {
        "a bit": bytes(other),
        "cut": data[:-9],
        "empty": b"",
        "longer": data + b"\0",
        "zeros": bytes(len(data)),
    }
    path.write_bytes(kinds[damage])
    taken_again(path, run)


def test_nothing_planted_is_unpickled(run: Run, tmp_path: Path) -> None:
    path, made = file_of(tmp_path, run), tmp_path / "made"
    path.write_bytes(pickle.dumps(Planted(made)))
    taken_again(path, run)
    kernel_files.write_sealed(path, pickle.dumps(Planted(made)))
    path.chmod(0o620)  # sealed, and others may have written it
    taken_again(path, run)
    assert not made.exists()
    kernel_files.write_sealed(path, pickle.dumps((1, Planted(made))))
    pickle.loads(kernel_files.read_sealed(path))
    assert made.exists()  # the bomb works


def test_another_kernels_file_is_not_taken(run: Run, tmp_path: Path) -> None:
    """Nor one of other sources, in a folder of another name."""
    path, other = file_of(tmp_path, run), file_of(tmp_path, run, "two")
    shutil.copy(other, path)
    taken_again(path, run)
    elsewhere = tmp_path / "vqwave" / "others" / path.name
    elsewhere.parent.mkdir()
    shutil.copy(path, elsewhere)
    assert kernel_files.read_sealed(elsewhere) is None


def test_only_a_regular_file_is_read(run: Run, tmp_path: Path) -> None:
    path = file_of(tmp_path, run)
    kept = shutil.copy(path, tmp_path / "kept")
    path.unlink()
    path.symlink_to(kept)
    taken_again(path, run)
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    taken_again(path, run)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_file_of_another_user_is_not_read(run: Run, tmp_path: Path) -> None:
    path = file_of(tmp_path, run)
    os.chown(path, 12345, 12345)
    taken_again(path, run)


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC])
def test_where_nothing_can_be_kept_a_note_says_so_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(kernel_files, "new_file", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [run("one"), run("two")] == [(41, False), (42, False)]
    assert [item.category for item in caught] == [Note]
    assert os.strerror(error) in str(caught[0].message)
    monkeypatch.undo()


def test_a_folder_in_the_place_of_a_file_is_left(run: Run, tmp_path: Path) -> None:
    path = file_of(tmp_path, run)
    path.unlink()
    (path / "inner").mkdir(parents=True)
    with pytest.warns(Note, match="cannot be kept"):
        assert run("one") == (41, False)
    assert (path / "inner").is_dir()


def test_a_planted_lock_is_neither_followed_nor_waited_for(tmp_path: Path) -> None:
    path, kept = tmp_path / "kernel.o", tmp_path / "kept"
    lock = path.with_suffix(".lock")
    kept.write_text("mine")
    lock.symlink_to(kept)
    with kernel_cache.compiling(path):
        assert kept.read_text() == "mine"
    lock.unlink()
    os.mkfifo(lock)
    with kernel_cache.compiling(path):
        pass
    lock.unlink()
    with kernel_cache.compiling(path):
        assert lock.stat().st_mode & 0o777 == 0o600
