"""How an evaluation reports its progress, and that a measure cannot be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from vqwave.errors import UnavailableError

Advance = Callable[[float], object]
"""Called with the amount that was done since the last call."""
ProgressFactory = Callable[[str, float, str], AbstractContextManager[Advance]]
"""Name of a step, its total amount and the unit of that -> a context manager."""


class NotApplicable(Exception):  # noqa: N818
    """A measure that this model or corpus does not allow, and why."""


@contextmanager
def installed() -> Iterator[None]:
    """A measure whose library is not installed is one that cannot be taken."""
    try:
        yield
    except UnavailableError as error:
        raise NotApplicable(str(error)) from None


@contextmanager
def silent(_name: str, _total: float, _unit: str) -> Iterator[Advance]:
    """Progress that is not shown."""
    yield lambda _: None
