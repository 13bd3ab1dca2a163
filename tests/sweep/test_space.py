"""Draws of parameters follow their laws, by wandb's names."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vqwave.sweep.space import draw, grid, read_parameters

DRAWS = 2000


@pytest.mark.parametrize(
    ("entry", "law"),
    [
        ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
        ({"distribution": "uniform", "min": -1, "max": 3}, stats.uniform(-1, 4)),
        (
            {"distribution": "log_uniform", "min": -3.0, "max": 1.0},
            stats.loguniform(np.exp(-3), np.exp(1)),
        ),
        (
            {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
            stats.loguniform(1e-5, 1e-2),
        ),
        (
            {"distribution": "inv_log_uniform_values", "min": 1e-5, "max": 1e-2},
            stats.loguniform(1e-5, 1e-2),
        ),
        (
            {"distribution": "inv_log_uniform", "min": -1.0, "max": 3.0},
            stats.loguniform(np.exp(-3), np.exp(1)),
        ),
        ({"distribution": "normal", "mu": 2.0, "sigma": 0.5}, stats.norm(2.0, 0.5)),
        ({"distribution": "log_normal", "sigma": 0.5}, stats.lognorm(0.5)),
        ({"distribution": "beta", "a": 2.0, "b": 5.0}, stats.beta(2.0, 5.0)),
    ],
)
def test_draws_follow_their_law(entry: dict[str, Any], law: stats.rv_continuous) -> None:
    parameters = read_parameters({"x": entry})
    drawn = [draw(parameters, 0, trial)["x"] for trial in range(DRAWS)]
    assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    assert len(set(drawn)) == DRAWS


@pytest.mark.parametrize(
    ("entry", "shares"),
    [
        ({"values": ["a", "b"]}, {"a": 0.5, "b": 0.5}),
        (
            {"values": [True, None, 3], "probabilities": [0.1, 0.6, 0.3]},
            {True: 0.1, None: 0.6, 3: 0.3},
        ),
        ({"min": 3, "max": 6}, dict.fromkeys(range(3, 7), 0.25)),
        (
            {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5},
            {0.0: 0.25, 0.5: 0.5, 1.0: 0.25},
        ),
        ({"value": 7}, {7: 1.0}),
    ],
)
def test_choices_come_in_their_shares(entry: dict[str, Any], shares: dict[object, float]) -> None:
    parameters = read_parameters({"x": entry})
    found = Counter(draw(parameters, 1, trial)["x"] for trial in range(DRAWS))
    assert found.keys() == shares.keys()
    for value, share in shares.items():
        assert abs(found[value] / DRAWS - share) < 4.5 * np.sqrt(share * (1 - share) / DRAWS) + 1e-9


@pytest.mark.parametrize("name", ["q_normal", "q_log_normal", "q_log_uniform_values", "q_beta"])
def test_steps_are_multiples(name: str) -> None:
    entry = {"distribution": name, "q": 0.25} | (
        {"min": 0.5, "max": 8.0} if "uniform" in name else {}
    )
    drawn = [draw(read_parameters({"x": entry}), 0, trial)["x"] for trial in range(200)]
    assert all(value % 0.25 == 0 for value in drawn)
    assert len(set(drawn)) > 3


def test_a_trial_depends_on_seed_number_and_name_alone() -> None:
    one = read_parameters({"a": {"min": 0.0, "max": 1.0}})
    two = read_parameters({"a": {"min": 0.0, "max": 1.0}, "b": {"min": 0.0, "max": 1.0}})
    assert draw(one, 0, 5)["a"] == draw(two, 0, 5)["a"] != draw(two, 0, 5)["b"]
    assert len({draw(one, seed, trial)["a"] for seed in (0, 1) for trial in (0, 1)}) == 4


def test_a_grid_is_every_combination_and_nests() -> None:
    parameters = read_parameters(
        {
            "b": {"values": [1, 2]},
            "a": {"parameters": {"x": {"min": 0, "max": 1}, "y": {"value": "k"}}},
            "c": {"value": 5},
        }
    )
    assert grid(parameters) == [
        {"a": {"x": x, "y": "k"}, "b": b, "c": 5} for x in (0, 1) for b in (1, 2)
    ]
    steps = read_parameters({"x": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25}})
    # as wandb's own engine has it
    assert [row["x"] for row in grid(steps)] == np.arange(0.0, 1.0, 0.25).tolist()
