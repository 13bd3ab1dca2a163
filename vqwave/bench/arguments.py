"""The types of the suites' options: numbers above 0, and below what would measure for ever."""

from __future__ import annotations

import argparse
import math

LONGEST, MOST = 86_400.0, 1 << 30


def duration(text: str) -> float:
    """A time to measure for.

    >>> duration("0.5")
    0.5
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r}, expected seconds above 0, at most a day")
    return number


def whole_number(text: str) -> int:
    """A number of streams, threads, vectors or samples.

    >>> whole_number("8")
    8
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 0 < number <= MOST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r}, expected a whole number from 1 on")
    return number
