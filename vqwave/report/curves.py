"""Training curves: a chart for each quantity that was logged, and for each unit that it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from vqwave.report.figures import Line, chart
from vqwave.report.numbers import hundredths, spoken
from vqwave.report.run import Run
from vqwave.report.units import axes

# title and unit of what is logged under these names; other names are shown as they are
QUANTITIES = {
    "bits": ("negative log-likelihood", "bits per sample"),
    "nll": ("negative log-likelihood", "nats per sample"),
    "kl": ("divergence from the teacher", "nats per sample"),
    "perplexity": ("codebook perplexity", "codes"),
    "codes_used": ("codes in use", "codes"),
    "level_db": ("level", "dBFS"),
    "lr": ("learning rate", ""),
    "total": ("weighted sum of the losses", ""),
    "time/loader_share": ("waiting for data", "% of a step"),
}
FIRST = ("bits", "nll", "kl")  # the charts that one wants to see first, in this order
HELD_OUT = ("valid", "test", "eval")
SPEED = "time/"  # milliseconds of a step
DIFFERING = ("total",)  # quantities whose meaning depends on the settings: runs of one kind share


@dataclass(frozen=True)
class Chart:
    """A small chart; `picture` is SVG."""

    title: str
    unit: str
    picture: Markup


@dataclass(frozen=True)
class Training:
    """The section of the page; `speed` are charts that few want to see."""

    charts: list[Chart]
    speed: list[Chart]


@dataclass(frozen=True)
class Axis:
    """What is drawn in one chart: a quantity in a unit, of runs whose settings give it one
    meaning.
    """

    quantity: str
    unit: str
    meaning: str = ""


def training(runs: Sequence[Run]) -> Training | None:
    """A chart for each quantity that was logged more than once: all runs in it whose figures are
    comparable, in training and held out. None where nothing was logged.
    """
    lines: dict[Axis, list[Line]] = {}
    owners: dict[Axis, dict[str, None]] = {}
    for index, run in enumerate(runs):
        for name, points in run.series.items():
            part, _, quantity = name.rpartition("/")
            shown, reference = _chart_of(quantity)
            axis = _axis(runs, index, name if part + "/" == SPEED else shown)
            x, y = np.array(points, np.float64).T
            y = 100 * y if axis.unit.startswith("%") else y
            style = "reference" if reference else "held-out" if part in HELD_OUT else "train"
            line = Line(x, y, f"run-{index % 4} {style}", reference)
            lines.setdefault(axis, []).append(line)
            owners.setdefault(axis, {})[run.name] = None
    drawn = [axis for axis, each in lines.items() if any(len(line.x) > 1 for line in each)]
    drawn.sort(key=_place)
    titles = [(_title(axis), axis.unit) for axis in drawn]
    charts: list[Chart] = []
    speed: list[Chart] = []
    for axis, title in zip(drawn, titles, strict=True):
        alike = titles.count(title) > 1
        named = f"{title[0]}: {', '.join(owners[axis])}" if alike else title[0]
        more = _predictor(runs, axis, lines[axis]) if axis.quantity == "bits" else []
        picture = chart(named, [*lines[axis], *more], "training steps", axis.unit, below=0.98)
        (speed if axis.quantity.startswith(SPEED) else charts).append(
            Chart(named, axis.unit, picture)
        )
    return Training(charts, speed) if drawn else None


def _axis(runs: Sequence[Run], index: int, quantity: str) -> Axis:
    unit = axes(runs, quantity)[index] or QUANTITIES.get(quantity, ("", ""))[1]
    if not unit and quantity.startswith(SPEED):
        unit = "ms per step"
    run = runs[index]
    meaning = ""
    if quantity in DIFFERING:
        losses = run.tree.get("losses")
        meaning = f"{run.experiment}, {losses}"
    return Axis(quantity, unit, meaning)


def _place(axis: Axis) -> tuple[int, str, str, str]:
    name = axis.quantity
    order = FIRST.index(name) if name in FIRST else len(FIRST)
    return order, name, axis.unit, axis.meaning


def _title(axis: Axis) -> str:
    name = axis.quantity
    return QUANTITIES.get(name, (spoken(name.removeprefix(SPEED)), ""))[0]


def _chart_of(quantity: str) -> tuple[str, str]:
    """The chart that a quantity belongs to, and its name there if it is a reference to another
    one.

    >>> [_chart_of(name) for name in ("bits", "bits_shuffled_codes", "level_db_data")]
    [('bits', ''), ('bits', 'shuffled codes'), ('level_db', 'recordings')]
    """
    if quantity.endswith("_data"):
        return quantity.removesuffix("_data"), "recordings"
    shown, shuffled, what = quantity.partition("_shuffled_")
    return shown, spoken(f"shuffled {what}") if shuffled else ""


def _predictor(runs: Sequence[Run], axis: Axis, lines: Sequence[Line]) -> list[Line]:
    """The cost of a linear predictor, as a level line; nothing where the runs of this axis differ
    in it.
    """
    name = "linear predictor"
    known = [
        run.evaluation.likelihood.baselines
        for run, unit in zip(runs, axes(runs, "bits"), strict=True)
        if unit == axis.unit and run.evaluation and run.evaluation.likelihood
    ]
    values = {
        hundredths(baselines[name]): baselines[name] for baselines in known if name in baselines
    }
    if len(values) != 1:
        return []
    ends = np.array([min(line.x[0] for line in lines), max(line.x[-1] for line in lines)])
    return [Line(ends, np.full(2, next(iter(values.values()))), "level", name)]
