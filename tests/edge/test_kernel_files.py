"""Files of compiled kernels: what is damaged, planted or another's is compiled again, not run."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vqwave.errors import Note

if sys.platform == "win32":
    pytest.skip("modes and owners of files are those of POSIX", allow_module_level=True)

jit = pytest.importorskip("vqwave.decode.cpu.jit", exc_type=ImportError)
kernel_files = pytest.importorskip("vqwave.decode.cpu.kernel_files", exc_type=ImportError)


def one(x: int) -> int:
    return x + 1


def two(x: int) -> int:
    return x + 2


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`jit`, whose files are in `tmp_path`."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    jit.folder.cache_clear()
    jit._warn_uncached.cache_clear()
    yield jit
    jit.folder.cache_clear()
    jit._warn_uncached.cache_clear()


def run(function: Callable[[int], int]) -> tuple[int, bool]:
    """What the kernel gives for 40, and whether it came from its file."""
    kernel = jit.kernel(function)
    return kernel(40), bool(kernel.stats.cache_hits)


def file_of(folder: Path, function: Callable[[int], int] = one) -> Path:
    """The kernel's file, which is made."""
    run(function)
    (path,) = folder.rglob(f"*.{function.__name__}-*.kernel")
    return path


def taken_again(path: Path) -> None:
    """What lies there now is compiled anew and replaced by what is whole."""
    assert run(one) == (41, False)
    assert kernel_files.read_sealed(path) is not None
    assert run(one) == (41, True)


def test_a_kernel_is_compiled_once(cache: ModuleType, tmp_path: Path) -> None:
    assert run(one) == (41, False)
    assert run(one) == (41, True)
    assert run(two) == (42, False)
    assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty", "longer", "zeros"])
def test_a_damaged_kernel_is_compiled_again(cache: ModuleType, tmp_path: Path, damage: str) -> None:
    path = file_of(tmp_path)
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
    taken_again(path)


def test_nothing_planted_is_unpickled(cache: ModuleType, tmp_path: Path) -> None:
    path, made = file_of(tmp_path), tmp_path / "made"
    path.write_bytes(pickle.dumps(Planted(made)))
    taken_again(path)
    kernel_files.write_sealed(path, pickle.dumps(Planted(made)))
    path.chmod(0o620)  # sealed, and others may have written it
    taken_again(path)
    assert not made.exists()
    kernel_files.write_sealed(path, pickle.dumps((1, Planted(made))))
    pickle.loads(kernel_files.read_sealed(path))
    assert made.exists()  # the bomb works


def test_another_kernels_file_is_not_taken(cache: ModuleType, tmp_path: Path) -> None:
    """Nor one of other sources, in a folder of another name."""
    path, other = file_of(tmp_path), file_of(tmp_path, two)
    shutil.copy(other, path)
    taken_again(path)
    elsewhere = tmp_path / "vqwave" / "kernels-0" / path.name
    elsewhere.parent.mkdir()
    shutil.copy(path, elsewhere)
    assert kernel_files.read_sealed(elsewhere) is None


def test_only_a_regular_file_is_read(cache: ModuleType, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    kept = shutil.copy(path, tmp_path / "kept")
    path.unlink()
    path.symlink_to(kept)
    taken_again(path)
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    taken_again(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_a_file_of_another_user_is_not_read(cache: ModuleType, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    os.chown(path, 12345, 12345)
    taken_again(path)


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC])
def test_where_nothing_can_be_kept_a_note_says_so_once(
    cache: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(kernel_files, "new_file", refuse)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [run(one), run(two)] == [(41, False), (42, False)]
    assert [item.category for item in caught] == [Note]
    assert os.strerror(error) in str(caught[0].message)
    monkeypatch.undo()


def test_a_folder_in_the_place_of_a_file_is_left(cache: ModuleType, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.unlink()
    (path / "inner").mkdir(parents=True)
    with pytest.warns(Note, match="cannot be kept"):
        assert run(one) == (41, False)
    assert (path / "inner").is_dir()
