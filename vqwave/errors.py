"""The error for an input that cannot be used.

The one module below all others: every level may raise `UserInputError`; `failures` turns it, and
every other exception, into one line on standard error and an exit status.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class UserInputError(ValueError):
    """A file, key or name that cannot be used.

    The message is one line: the culprit, what was found, what is expected.
    """


class SilenceError(UserInputError):
    """A recording is silent."""


class UnavailableError(UserInputError):
    """An optional library, or its weights, that is not here: which one, and how to get it."""


class Note(UserWarning):
    """What a person wants to know though nothing is wrong, such as why a slower way is taken.

    The command prints it as a line.
    """


@contextmanager
def under(name: str) -> Iterator[None]:
    """Puts the name of a setting before what is wrong with the settings below it."""
    try:
        yield
    except UserInputError as error:
        raise UserInputError(f"{name}: {error}") from None


@contextmanager
def located(path: Path | str, instead: Path | None = None) -> Iterator[None]:
    """What the system refuses within names `path`, where it names no file, or the file or folder
    `instead`, which only stands for it.
    """
    try:
        yield
    except OSError as error:
        given = error.filename
        if error.errno is None:  # a library's, with a text of its own
            pass
        elif given is None:
            error.filename = str(path)
        elif instead is not None and isinstance(given, str | bytes):
            inner = Path(os.fsdecode(given))
            if inner.is_relative_to(instead):
                error.filename = str(Path(path, inner.relative_to(instead)))
        raise


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """`"; did you mean a, b?"`, or an empty string where nothing known is close to `name`."""
    close = difflib.get_close_matches(name, list(known), count, 0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
