"""The folder of a corpus appears complete or not at all.

Unlike a folder of `atomic_files`, an older corpus that a killed process was replacing is put back.
"""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vqwave.atomic_files import remove
from vqwave.data.corpus import is_corpus
from vqwave.errors import located


@contextmanager
def all_or_nothing(out: Path) -> Iterator[Path]:
    """A new folder next to `out` that takes its place at the end; after any error nothing of it is
    left.
    """
    out = out.resolve()
    with temporary_next_to(out) as partial:
        yield partial
        if is_corpus(out):
            old = partial.with_suffix(".old")
            out.replace(old)
            try:
                partial.replace(out)
            except BaseException:
                old.replace(out)
                raise
            remove(old)
        else:
            partial.replace(out)


@contextmanager
def temporary_next_to(out: Path) -> Iterator[Path]:
    """A new folder next to `out`, of a name that cannot be known beforehand; at the end it is gone,
    or has another name. What a killed process left there is cleared first.
    """
    with located(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _tidy(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(8)}.partial")
    with located(out, partial):
        try:
            partial.mkdir()
            yield partial
        finally:
            remove(partial)


def _tidy(out: Path) -> None:
    """Remove what a killed process left next to `out`; if it died while it was replacing `out`, put
    the older one back.
    """
    for path in out.parent.glob(f".{glob.escape(out.name)}.*"):
        process, _, kind = path.name.removeprefix(f".{out.name}.").partition(".")
        number = process.partition("-")[0]
        if (
            kind not in ("partial", "old")
            or path.is_symlink()
            or not path.is_dir()
            or not number.isdecimal()
            or (int(number) != os.getpid() and _runs(int(number)))
        ):
            continue
        if kind == "old" and not out.exists():
            path.replace(out)
        else:
            remove(path)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
