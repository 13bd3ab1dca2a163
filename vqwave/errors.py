"""The error for an input that cannot be used.

The one module below all others: every level may raise `UserInputError`; `cli.py` and
`experiment.py` turn it into one line on standard error and exit status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserInputError(ValueError):
    """A file, key or name that cannot be used.

    The message is one line: the culprit, what was found, what is expected.
    """


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


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """`"; did you mean a, b?"`, or an empty string where nothing known is close to `name`."""
    close = difflib.get_close_matches(name, list(known), count, 0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""
