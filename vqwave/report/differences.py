"""In which settings runs of one experiment differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from vqwave import config
from vqwave.report.numbers import Table
from vqwave.report.run import Run

PLACES = ("run",)  # settings that say where a run is, and not what it is
FEW = 3  # differences that are written out in a sentence
ABSENT = "—"


def differences(runs: Sequence[Run]) -> list[Table]:
    """A table for each experiment of which there are several runs: the settings in which they
    differ, a column each; without rows where they have the same.
    """
    groups: dict[tuple[str, bool], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.experiment, run.is_run), []).append(run)
    result = []
    for (experiment, _), group in groups.items():
        if len(group) > 1:
            keys = different_keys([run.tree for run in group])
            rows = [(key, [_value(run.tree, key) for run in group]) for key in keys]
            result.append(Table(experiment or "settings", [run.name for run in group], rows))
    return result


def different_keys(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys at which trees differ from the first, those of places left out.

    Where one key begins another (a part that a tree does not have), the shorter stands for both.
    """
    first, *others = trees
    keys = dict.fromkeys(
        key for other in others for key in config.differences(first, other) if key not in PLACES
    )
    return [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]


def sentence(table: Table) -> str:
    """The differences in words."""
    names = ", ".join(table.columns)
    if not table.rows:
        return f"{names}: the same settings."
    if len(table.rows) > FEW:
        return f"{names}: {len(table.rows)} settings differ."
    parts = [f"{key} ({', '.join(values)})" for key, values in table.rows]
    return f"{names}: the settings differ in {'; '.join(parts)}."


def _value(tree: Mapping[str, Any], key: str) -> str:
    value: Any = tree
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return ABSENT
        value = value[name]
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 20
    )
    return text.removesuffix("\n").removesuffix("\n...")
