"""What an evaluation shows of its progress, and what it says where something cannot be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[float], object]
Stage = Callable[[str, float, str], AbstractContextManager[Advance]]


class NotApplicable(Exception):
    """A measure that this model or corpus does not allow, and why."""


@contextmanager
def silent(name: str, total: float, unit: str) -> Iterator[Advance]:
    """A stage that shows nothing."""
    yield lambda amount: None
