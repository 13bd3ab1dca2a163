"""Where compiled kernels are kept: a file each in the user's cache, named by all that its code
depends on.

The name has a hash of the kernel's sources (its file, and all that this one imports from
`vqwave.decode`), of the versions that compiled it, of the processor, and of the kinds of its
arguments. A file appears complete, is sealed (`kernel_files.py`) and read at once. So, whatever
other processes do meanwhile, a process has all of a kernel or compiles it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from vqwave import atomic_files
from vqwave.decode.cpu import kernel_files, processor
from vqwave.errors import Note

PACKAGE = Path(__file__).parents[2]
IMPORT = re.compile(r"^from vqwave\.(decode\.[\w.]+) import (\([^)]+\)|.+)", re.MULTILINE)
COMPILER = Path(__file__).with_name("jit.py")
HASH = hashlib.sha256

DAY = 86400.0  # seconds
UNUSED = 30 * DAY  # what nobody has used for so long is removed
MOST = 256 << 20  # bytes; beyond them, what nobody has used for longest
SPARED = DAY / 24  # but never what somebody has used within an hour


@cache
def sources(file: Path) -> frozenset[Path]:
    """The files that a kernel depends on: its own, its imports from `vqwave.decode`, and so on.

    >>> sorted(path.name for path in sources(Path(__file__).with_name("simd.py")))
    ['processor.py', 'simd.py']
    """
    known: set[Path] = set()
    new = {file}
    while new:
        known |= new
        texts = [path.read_text(encoding="utf-8") for path in new]
        imports = {found for text in texts for found in IMPORT.findall(text)}
        new = {path for module, names in imports for path in _files(module, names)} - known
    return frozenset(known)


def _files(module: str, names: str) -> set[Path]:
    """The file of a module of which names are imported; or the files of modules of a package."""
    path = PACKAGE / module.replace(".", "/")
    if not path.is_dir():
        return {path.with_name(f"{path.name}.py")}
    return {path / f"{name}.py" for name in re.findall(r"\w+", names.partition("#")[0])}


@cache
def _origin(file: Path) -> bytes:
    """All that the code of a file's kernels depends on, but for the kinds of their arguments."""
    versions = " ".join(metadata.version(name) for name in ("numba", "llvmlite"))
    digest = HASH(f"{versions} {processor.description()}".encode())
    for source in sorted(sources(file) | {COMPILER}):
        digest.update(HASH(source.read_bytes()).digest())
    return digest.digest()


def folder() -> Path:
    """Below NUMBA_CACHE_DIR, or else the user's cache. Raises RuntimeError without a home."""
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    base = Path(given) if given else Path.home() / ".cache"
    return base / "vqwave" / "kernels"


def place(file: Path, kernel: str, kinds: str) -> Path | None:
    """Where a kernel of a file is kept, for arguments of these kinds; None where there is no such
    place, with a Note.
    """
    name = HASH(_origin(file) + kinds.encode()).hexdigest()[:20]
    try:
        path = folder() / f"{file.stem}.{kernel}-{name}.o"
        path.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        _warn_unkept(getattr(error, "strerror", None) or str(error))
        return None
    return path


@cache
def _warn_unkept(reason: str) -> None:
    """Once for all kernels."""
    where = "expected NUMBA_CACHE_DIR to be a folder that can be written"
    warnings.warn(
        f"compiled kernels cannot be kept ({reason}), each process makes its own: {where}",
        Note,
        stacklevel=2,
    )


def load(path: Path) -> bytes | None:
    """The code of a kernel, which is noted as used now; None where there is none that can be
    trusted.
    """
    code = kernel_files.read_sealed(path)
    if code is None:
        return None
    with suppress(OSError):  # of another user, or on a disk that cannot be written
        os.utime(path)
    return code


def store(path: Path, code: bytes) -> None:
    """Keep the code of a kernel, if that is possible, and remove what is no longer used."""
    try:
        kernel_files.write_sealed(path, code)
    except OSError as error:
        _warn_unkept(error.strerror or str(error))
        return
    prune(path.parent)


@contextmanager
def compiling(path: Path) -> Iterator[None]:
    """Within, no other process compiles the same kernel; a Note where one has to be waited for.

    What a process holds ends with it. Nothing is held where a file system has no locks.
    """
    file = kernel_files.open_lock(path.with_suffix(".lock"))
    if file is None:  # `store` reports what is wrong
        yield
        return
    with file:
        if not atomic_files.lock(file, wait=False):
            text = "another process is compiling the decoder for this machine: waiting for it"
            warnings.warn(text, Note, stacklevel=2)
            atomic_files.lock(file, wait=True)
        yield


def prune(kernels: Path) -> None:
    """Remove kernels that nobody has used for `UNUSED` seconds, and those used longest ago beyond
    `MOST` bytes. Folders next to `kernels`, as older versions made them, count as one each.
    """
    older = [path for path in kernels.parent.glob("kernels-*") if path.is_dir()]
    kept = [
        (*_used(path), path) for path in [*kernels.glob("*.o"), *kernels.glob("*.lock"), *older]
    ]
    now, total = time.time(), 0
    for used, size, path in sorted(kept, reverse=True):
        total += size
        if now - used > UNUSED or (total > MOST and now - used > SPARED):
            _remove(path)


def _used(path: Path) -> tuple[float, int]:
    """When a file, or any in a folder, was last used, and its bytes; 0.0 for what has gone."""
    with suppress(OSError):
        about = [each.stat() for each in (path, *path.rglob("*"))]
        return max(each.st_mtime for each in about), sum(each.st_size for each in about)
    return 0.0, 0


def _remove(path: Path) -> None:
    """A folder goes under another name first, so that no process finds half of it."""
    with suppress(OSError):
        if not path.is_dir():
            path.unlink()
            return
        hidden = path.rename(atomic_files.hidden(path))
        shutil.rmtree(hidden, ignore_errors=True)
