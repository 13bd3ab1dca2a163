"""Compiling kernels once: numba's disk cache, in a folder that changes with the sources it was made from.

numba looks only at the file of the function that it caches, not at those that this one calls; so the name of the folder is
a hash of all kernel sources and of the versions that compiled them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite
import numba

SOURCES = ("compiled.py", "vector.py", "arithmetic.py", "draws.py", "kernels.py", "plan.py")


@cache
def folder() -> Path | None:
    """Where compiled kernels are kept (below NUMBA_CACHE_DIR or the user's cache), or None where nothing can be written."""
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for name in SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "vqwave" / f"kernels-{digest.hexdigest()[:12]}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path if os.access(path, os.W_OK) else None


def kernel(function: Callable, *, inline: bool = False) -> Callable:
    """numba.njit without lock, bounds checks, fast maths and allocation; cached on disk where that is possible.

    Without allocation (numba's `_nrt`) no reference is counted: that alone would cost a layer as much as its gate does.
    """
    options = {
        "nogil": True,
        "boundscheck": False,
        "error_model": "numpy",
        "fastmath": False,
        "forceinline": inline,
        "_nrt": False,
    }
    path = folder()
    if path is None:
        return numba.njit(**options)(function)
    usual, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(path)
    try:
        return numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = usual


def inlined(function: Callable) -> Callable:
    """A kernel that is copied to where it is called: for those whose many arguments cost more than their work."""
    return kernel(function, inline=True)
