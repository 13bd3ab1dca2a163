"""The figures as a table: for a terminal, and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vqwave.evaluation.result import COLUMNS, MetricValue, Result, Row

HEADINGS = {
    "mu-law": "8-bit mu-law",
    "griffin-lim": "Griffin-Lim, true frames",
    "frames": "Griffin-Lim, own frames",
}


def digits(figure: MetricValue | None) -> str:
    """A figure in about three significant digits, with its interval.

    >>> digits(MetricValue(93.333, 88.21, 97.5)), digits(MetricValue(4.6021)), digits(None)
    ('93.3 [88.2, 97.5]', '4.602', '')
    """
    if figure is None:
        return ""
    if figure.low is None or figure.high is None or figure.low == figure.high:
        return _number(figure.value)
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "n/a"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value == int(value) and abs(value) >= 10:
        return f"{value:.0f}"
    return (
        f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.3f}"
        if abs(value) >= 0.0005 or value == 0
        else f"{value:.1e}"
    )


def columns_of(rows: Sequence[Row]) -> list[str]:
    """The columns in which there is anything."""
    return [name for name in COLUMNS if any(name in row.figures for row in rows)]


def label(row: Row) -> str:
    """The measure, its unit, and an arrow to the better side."""
    arrow = {"higher": " ↑", "lower": " ↓", "": ""}[row.better]
    return f"{row.measure}{', ' + row.unit if row.unit else ''}{arrow}"


def text_table(result: Result) -> str:
    """For a terminal; what could not be measured stands beneath it."""
    columns = columns_of(result.rows)
    lines = [["", *(HEADINGS.get(name, name) for name in columns)]]
    lines += [
        [label(row), *(digits(row.figures.get(name)) for name in columns)] for row in result.rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    notes = [f"{row.measure}: {row.note}" for row in result.rows if row.note]
    missing = [f"not measured: {name}: {why}" for name, why in result.skipped.items()]
    return "\n".join([*text, *(["", *dict.fromkeys(notes + missing)] if notes or missing else [])])


def markdown_table(rows: Sequence[Row], names: Mapping[str, str]) -> str:
    """For a page; `names`: headings of columns."""
    columns = columns_of(rows)
    head = ["measure", *(names.get(name, HEADINGS.get(name, name)) for name in columns)]
    lines = [head, ["---", *("---:" for _ in columns)]]
    lines += [[label(row), *(digits(row.figures.get(name)) for name in columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
