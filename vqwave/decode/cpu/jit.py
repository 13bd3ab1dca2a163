"""Compiling kernels once: files of theirs, in a folder that changes with the sources they were made
from.

numba looks only at the file of the function that it caches, not at those that this one calls; so
the name of the folder is a hash of that file and of all that it imports from `vqwave.decode`, and
of the versions that compiled them.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import numba

from vqwave.decode.cpu.kernel_files import KernelCache
from vqwave.errors import Note

PACKAGE = Path(__file__).parents[2]
IMPORT = re.compile(r"^from vqwave\.(decode\.[\w.]+) import", re.MULTILINE)


@cache
def sources(file: Path) -> frozenset[Path]:
    """The files that a kernel depends on: its own, its imports from `vqwave.decode`, and so on.

    >>> sorted(path.name for path in sources(Path(__file__).parent / "simd.py"))
    ['processor.py', 'simd.py']
    """
    known: set[Path] = set()
    new = {file}
    while new:
        known |= new
        texts = [path.read_text(encoding="utf-8") for path in new]
        modules = {module for text in texts for module in IMPORT.findall(text)}
        new = {PACKAGE / f"{module.replace('.', '/')}.py" for module in modules} - known
    return frozenset(known)


@cache
def folder(file: Path) -> Path | None:
    """Where a file's kernels are kept: below NUMBA_CACHE_DIR, or the user's cache.

    None, with a Note, where there is no such place (HOME is not set) or nothing can be written.
    """
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for source in sorted(sources(file) | {Path(__file__)}):
        digest.update(source.read_bytes())
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(given) if given else Path.home() / ".cache"
        path = base / "vqwave" / f"kernels-{digest.hexdigest()[:12]}"
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:  # a full disk does not show in the modes
            probe.write(b"0")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        _warn_uncached(getattr(error, "strerror", None) or str(error))
        return None
    return path


@cache
def _warn_uncached(reason: str) -> None:
    """Once for all files."""
    where = "expected NUMBA_CACHE_DIR to be a folder that can be written"
    warnings.warn(
        f"compiled kernels cannot be kept ({reason}), each process makes its own: {where}",
        Note,
        stacklevel=2,
    )


def kernel(function: Callable, *, inline: bool = False) -> Callable:
    """numba.njit without lock, bounds checks, fast maths and allocation; cached on disk where that
    is possible.

    Without allocation (numba's `_nrt`) no reference is counted: that alone would cost a layer as
    much as its gate does.
    """
    options = {
        "nogil": True,
        "boundscheck": False,
        "error_model": "numpy",
        "fastmath": False,
        "forceinline": inline,
        "no_cfunc_wrapper": True,
        "_nrt": False,
    }
    compiled = numba.njit(**options)(function)
    path = folder(Path(function.__code__.co_filename))
    if path is not None:
        compiled._cache = KernelCache(function, path, _warn_uncached)
    return compiled


def inlined(function: Callable) -> Callable:
    """A kernel that is copied to where it is called: for those whose many arguments cost more than
    their work.
    """
    return kernel(function, inline=True)
