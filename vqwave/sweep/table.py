"""What the trials of a sweep came to: a row each, the best of them, and why a command failed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqwave.sweep.plan import Plan
from vqwave.training.tracking import flatten, metrics_rows

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def best_of(trials: Sequence[FrozenTrial], *, minimize: bool) -> FrozenTrial | None:
    """The completed trial with the best metric; the earlier one of two equals."""
    sign = 1 if minimize else -1
    ranked = [(sign * (t.value or 0.0), t.number) for t in trials if t.state.name == "COMPLETE"]
    return trials[min(ranked)[1]] if ranked else None


def outcome(trial: FrozenTrial) -> str:
    """The metric of a trial that has ended, or what went wrong."""
    if trial.value is None:
        return f"failed: {trial.user_attrs['reason']}"
    return f"{trial.value:.4f}" + (" (stopped early)" if trial.state.name == "PRUNED" else "")


def text_table(plan: Plan, trials: Sequence[FrozenTrial], folder: Path) -> str:
    """A line for each of the first trials, the best marked, then the best in a line of its own."""
    best = best_of(trials, minimize=plan.minimize)
    varied = [p for p in plan.parameters if p.distribution != "constant"]
    cells = [["", "trial", *(p.name for p in varied), plan.metric, "seconds"]]
    for trial in trials:
        mark, tree = "*" if trial is best else "", trial.user_attrs["values"]
        values, seconds = [_cell(tree, p.path) for p in varied], trial.user_attrs["seconds"]
        cells.append([mark, str(trial.number + 1), *values, outcome(trial), f"{seconds:.0f}"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = (zip(line, widths, strict=True) for line in cells)
    lines = ["  ".join(cell.ljust(width) for cell, width in row).rstrip() for row in rows]
    last = "no trial finished"
    if best is not None:
        run = folder / f"trial-{best.number + 1:03d}"
        last = f"best: trial {best.number + 1}, {plan.metric} {outcome(best)}, in {run}"
    return "\n".join([*lines, last])


def _cell(tree: Mapping[str, Any], path: Sequence[str]) -> str:
    """The value of a parameter, which may be a mapping."""
    value: Any = tree
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return one_line(value) if isinstance(value, Mapping) else short(value)


def reason_of(log: str) -> str:
    """Why the last command in a log ended: its `error:` or `stopped at` line, else its exception
    (not the launcher's).

    >>> log = "$ a\\nstopped at step 3\\n$ a\\nValueError: x\\nsubprocess.CalledProcessError: a"
    >>> reason_of(log)
    'ValueError: x'
    """
    lines = [
        line.strip() for line in f"\n{log}".rpartition("\n$ ")[2].splitlines()[1:] if line.strip()
    ]
    raised = [
        line
        for line in lines
        if re.match(r"[\w.]+(Error|Exception)\b", line) and "CalledProcessError" not in line
    ]
    final = [line for line in lines if line.startswith(("error: ", "stopped at "))]
    return (final or raised or lines or ["no output"])[-1]


def metrics_of(run: Path) -> dict[str, list[float]]:
    """The values of every number in a run's `metrics.jsonl`, by name."""
    series: dict[str, list[float]] = {}
    for row in metrics_rows(run / "metrics.jsonl"):
        for name, value in row.items():
            if isinstance(value, int | float):
                series.setdefault(name, []).append(value)
    return series


def one_line(values: Mapping[str, Any]) -> str:
    """Values in one line."""
    return ", ".join(f"{name}={short(value)}" for name, value in flatten(values).items())


def short(value: object) -> str:
    """A value in a cell of the table."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
