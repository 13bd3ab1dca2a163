"""Compiled kernels on disk, each in a file that names what it is and is sealed with its digest.

A kernel is machine code: one byte of it changed is a crash, or other samples. numba unpickles
whatever lies in its cache. Here a file is read only if it is a regular file of this user (or of
root) that nobody else may write, and the SHA-256 in its first bytes is that of its folder's name,
its own name and its content. Any other one is compiled again and replaced. There is no index, in
which two processes that compile at once could give one name to two kernels.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.serialize import dumps

from vqwave.atomic_files import new_file

DIGEST = hashlib.sha256().digest_size
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def seal(path: Path, content: bytes) -> bytes:
    """The digest of a content at its place."""
    place = f"{path.parent.name}/{path.name}\0".encode()
    return hashlib.sha256(place + content).digest()


def read_sealed(path: Path) -> bytes | None:
    """The content of a file of `write_sealed`; None for any other, and where it cannot be read."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags)
        with os.fdopen(handle, "rb") as file:
            if not _is_own(os.fstat(handle)):
                return None
            data = file.read()
    except OSError:
        return None
    content = data[DIGEST:]
    return content if data[:DIGEST] == seal(path, content) else None


def _is_own(about: os.stat_result) -> bool:
    """Whether it is a regular file that none but this user and root can have written."""
    if not stat.S_ISREG(about.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows, whose modes say nothing of others
        return True
    return about.st_uid in (0, os.geteuid()) and not about.st_mode & OTHERS_WRITE


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file for this user alone, completely or not at all. Raises OSError."""
    with new_file(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_bytes(seal(path, content) + content)


class KernelFiles:
    """The compiled versions of one function, a file for each signature: what numba calls a cache
    file. `refused(reason)`: called where the disk takes nothing.
    """

    def __init__(self, folder: Path, name: str, refused: Callable[[str], None]) -> None:
        self.folder, self.name, self.refused = folder, name, refused

    def place(self, key: Any) -> Path:  # noqa: ANN401 - numba's
        """The file of a signature on a processor."""
        digest = hashlib.sha256(repr(key).encode()).hexdigest()
        return self.folder / f"{self.name}-{digest[:24]}.kernel"

    def load(self, key: Any) -> Any:  # noqa: ANN401 - numba's
        """What was saved; None where nothing is, or nothing that can be trusted."""
        content = read_sealed(self.place(key))
        if content is None:
            return None
        try:
            saved, data = pickle.loads(content)  # of this user, and whole
        except Exception:  # of another environment, which has not all that it names
            return None
        return data if saved == key else None

    def save(self, key: Any, data: Any) -> None:  # noqa: ANN401 - numba's
        """Keep it; without a file, each process compiles its own."""
        content = dumps((key, data))
        try:
            write_sealed(self.place(key), content)
        except OSError as error:
            self.refused(error.strerror or str(error))


class _Place(_CacheLocator):
    """The place that numba has for a function's files; it looks in no other."""

    def __init__(self, line: int) -> None:
        self.line = line

    @classmethod
    def from_function(cls, py_func: Callable, py_file: str) -> _Place:  # noqa: ARG003 - numba's
        return cls(py_func.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        pass

    def get_cache_path(self) -> str:
        return ""

    def get_source_stamp(self) -> str:
        return ""

    def get_disambiguator(self) -> str:
        return str(self.line)


class _Results(CompileResultCacheImpl):
    _locator_classes = (_Place,)


class KernelCache(FunctionCache):
    """numba's cache of a function, in the files of `KernelFiles`."""

    _impl_class = _Results

    def __init__(self, function: Callable, folder: Path, refused: Callable[[str], None]) -> None:
        super().__init__(function)
        self._cache_file = KernelFiles(folder, self._impl.filename_base, refused)
