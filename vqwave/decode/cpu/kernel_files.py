"""Compiled kernels on disk, each in a file that names what it is and is sealed with its digest.

A kernel is machine code: one byte of it changed is a crash, or other samples. numba unpickles
whatever lies in its cache. Here nothing is unpickled, and a file is read only if it is a regular
file of this user (or of root) that nobody else may write, and the SHA-256 in its first bytes is
that of its folder's name, its own name and its content. Any other one is compiled again and
replaced.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import IO

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


def open_lock(path: Path) -> IO[str] | None:
    """A file to lock, made if need be; None where it cannot be, and for what is planted there: a
    link, which would be followed, and a pipe, which would be waited for.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags, 0o600)
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "r+", encoding="utf-8")
    os.close(handle)
    return None


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file for this user alone, completely or not at all. Raises OSError."""
    with new_file(path) as temporary:
        temporary.chmod(0o600)
        temporary.write_bytes(seal(path, content) + content)
