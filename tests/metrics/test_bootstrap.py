"""Intervals: what is known of a mean, and of sums that no utterance holds alone."""

from __future__ import annotations

import numpy as np
import pytest

from vqwave.metrics.bootstrap import bootstrap, mean, ratio


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    found = mean(values, resamples=4000)
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert found.count == 400


def test_intervals_hold_the_truth_about_nineteen_times_of_twenty() -> None:
    rng = np.random.default_rng(1)
    held = [
        (found := mean(rng.random(80) < 0.7, resamples=400, seed=k)).low <= 0.7 <= found.high
        for k in range(200)
    ]
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_ratio_is_of_sums() -> None:
    sums = np.array([[1.0, 1.0], [0.0, 9.0]])
    assert bootstrap(sums, ratio).value == pytest.approx(0.1)
    assert mean(np.array([1.0, 0.0]), np.array([1.0, 9.0])).value == pytest.approx(0.1)


def test_draws_that_are_undefined_are_left_out_and_one_utterance_has_no_interval() -> None:
    found = bootstrap(np.array([[1.0, 1.0], [0.0, 0.0]]), ratio)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    alone = mean(np.array([2.0]))
    assert (alone.low, alone.high, alone.count) == (2, 2, 1)


def test_an_entropy_lies_in_its_interval() -> None:
    counts = np.random.default_rng(0).multinomial(20, np.full(200, 1 / 200), size=60).astype(float)

    def entropy(sums: np.ndarray) -> np.ndarray:
        p = sums / sums.sum(1, keepdims=True)
        return -(p * np.log2(np.where(p > 0, p, 1))).sum(1)

    plain, centred = bootstrap(counts, entropy), bootstrap(counts, entropy, centred=True)
    assert plain.high < plain.value
    assert centred.low < centred.value < centred.high
