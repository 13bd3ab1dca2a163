"""Sweep files: what is wrong with one is a line; the brackets of hyperband."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sweep_plans import plan_of

from vqwave.errors import UserInputError


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "gird"}, "method 'gird', expected grid, random or bayes"),
        ({"early_terminate": {"type": "hyperban"}}, "early_terminate: expected {type: hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "expected min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "eta": 1}}, "early_terminate.eta: 1, expected"),
        ({"early_terminate": {"type": "hyperband", "mini": 1}}, "mini: no such.*min_iter"),
        (
            {"early_terminate": {"type": "hyperband", "min_iter": 9, "max_iter": 3}},
            "max_iter 3 is below min_iter 9",
        ),
        ({"metric": None}, "no metric"),
        ({"metric": {"name": "x", "goal": "up"}}, "metric.goal"),
        ({"metrics": {}}, "metrics: no such key.*metric"),
        ({"parameters": {}}, "parameters: expected names"),
        ({"parameters": {"optim.lr": {"max": 1e-3}}}, r"parameters.optim.lr: found max"),
        (
            {"parameters": {"lr": {"min": "1e-4", "max": 1.0}}},
            r"lr.min: found '1e-4'.*YAML wants a dot",
        ),
        ({"parameters": {"lr": {"min": 2.0, "max": 1.0}}}, "min 2.0 is not below max 1.0"),
        (
            {"parameters": {"lr": {"distribution": "log_uniform_values", "min": 0.0, "max": 1.0}}},
            "above zero",
        ),
        (
            {"parameters": {"lr": {"distribution": "unifrom", "min": 0.0, "max": 1.0}}},
            "no distribution 'unifrom'; did you mean",
        ),
        ({"parameters": {"lr": {"values": [1, 2], "probabilities": [0.5, 0.6]}}}, "probabilities"),
        (
            {"parameters": {"lr": {"values": [1, 2], "mu": 3}}},
            "lr.mu: categorical has no such setting",
        ),
        ({"command": ["python", "x.py"]}, "holds no"),
        ({"run_cap": 0}, "run_cap"),
    ],
)
def test_a_bad_file_is_answered_in_one_line(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserInputError, match=message) as error:
        plan_of(tmp_path, **changes)
    assert "\n" not in str(error.value)
    assert "sweep.yaml" in str(error.value)


def test_grids_of_ranges_and_endless_draws_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match=r"x: a grid takes values.*found uniform"):
        plan_of(tmp_path, parameters={"x": {"min": 0.0, "max": 1.0}}).trials(None, 0)
    random = plan_of(tmp_path, method="random")
    with pytest.raises(UserInputError, match="--count"):
        random.trials(None, 0)
    with pytest.raises(UserInputError, match="bayes has no end; expected --count N"):
        plan_of(tmp_path, method="bayes").trials(None, 0)
    assert len(plan_of(tmp_path, method="random", run_cap=3).trials(None, 0)) == 3


def test_brackets_of_hyperband_are_wandbs(tmp_path: Path) -> None:
    """min_iter, or the s brackets below max_iter; eta is 3 unless given."""
    assert plan_of(tmp_path).hyperband is None
    wanted: list[tuple[dict[str, int], tuple[int, int | str, int]]] = [
        ({"min_iter": 4}, (4, "auto", 3)),
        ({"min_iter": 4, "max_iter": 64, "eta": 2}, (4, 64, 2)),
        ({"max_iter": 27, "s": 2}, (3, 27, 3)),
        ({"max_iter": 5, "s": 3}, (1, 5, 3)),
    ]
    for entry, settings in wanted:
        plan = plan_of(tmp_path, early_terminate={"type": "hyperband", **entry})
        assert plan.hyperband is not None
        assert tuple(plan.hyperband.values()) == settings
