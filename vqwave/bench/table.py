"""Rows of a benchmark: how they are measured, shown and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vqwave.atomic_files import write_text
from vqwave.errors import UserInputError
from vqwave.terminal import output

REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One measured thing; None where a key does not apply."""

    suite: str
    name: str  # network, corpus or case
    backend: str
    batch: int | None
    threads: int | None
    value: float  # median of several runs
    unit: str
    times_real_time: float | None = None
    # of what this machine could do at most, measured in the same run
    floor_share: float | None = None
    # how many times as good as the plain way; above 1 is better
    reference_ratio: float | None = None


COLUMNS: tuple[tuple[str, str, int, str], ...] = (
    ("name", "name", -22, ""),
    ("backend", "back-end", -26, ""),
    ("batch", "batch", 6, ",d"),
    ("threads", "threads", 8, "d"),
    ("value", "value", 12, ""),
    ("unit", "", -11, ""),
    ("times_real_time", "x real time", 12, ",.2f"),
    ("floor_share", "of floor", 9, ".2f"),
    ("reference_ratio", "x plain", 9, ",.1f"),
)
"""Key, title, width (below zero: to the left) and format of each printed column."""


def heading() -> str:
    """The titles of the table."""
    return " ".join(_cell(title, width) for _, title, width, _ in COLUMNS).rstrip()


def line(row: Row) -> str:
    """A row of the table.

    >>> line(Row("decode", "P", "numba", 1, 1, 16624.3, "samples/s", 1.04, 0.86, 57.0)).split()
    ['P', 'numba', '1', '1', '16,624', 'samples/s', '1.04', '0.86', '57.0']
    """
    cells = []
    for key, _, width, style in COLUMNS:
        value = getattr(row, key)
        text = (
            significant(value) if key == "value" else "" if value is None else format(value, style)
        )
        cells.append(_cell(text, width))
    return " ".join(cells).rstrip()


def significant(value: float) -> str:
    """A number as people read it: about four digits.

    >>> significant(16624.3), significant(3.14159), significant(0.01234)
    ('16,624', '3.142', '0.01234')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def show(rows: Iterable[Row]) -> list[Row]:
    """Prints each row as soon as it is measured; returns all of them."""
    output(f"{machine()}\n{heading()}", flush=True)
    shown = []
    for row in rows:
        shown.append(row)
        output(line(row), flush=True)
    return shown


def machine() -> str:
    """The processor and the versions that figures depend on, in a line."""
    import torch

    names = [
        text.partition(":")[2].strip() for text in _cpu_lines() if text.startswith("model name")
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [names[0] if names else platform.processor() or platform.machine(), f"{cores} cores"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}", f"Python {platform.python_version()}"])


def write(path: Path, rows: Sequence[Row]) -> None:
    """A list of rows as JSON, put in place in one go.

    Raises UserInputError where it cannot be written.
    """
    try:
        write_text(path, json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    except OSError as error:
        raise UserInputError(
            f"{path}: {error.strerror}, expected a file that can be written"
        ) from None


def seconds(work: Callable[[], object]) -> float:
    """What it takes once."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def taking_turns(
    works: Mapping[str, Callable[[], object]], duration: float, least: int = REPEATS
) -> dict[str, float]:
    """Median seconds of each, the contestants taking turns for `duration` seconds, so that a busy
    machine is as unfair to one as to the other.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    end = time.perf_counter() + duration
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, work in works.items():
            times[name].append(seconds(work))
    return {name: statistics.median(values) for name, values in times.items()}


def _cell(text: str, width: int) -> str:
    return f"{text:{'<' if width < 0 else '>'}{abs(width)}}"


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
