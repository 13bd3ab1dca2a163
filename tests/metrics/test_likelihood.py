"""Bits a sample and their baselines: exact where exactness is possible, near the true entropy of
known sources elsewhere.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vqwave.distributions import (
    Gaussian,
    Head,
    LinearBins,
    LogisticMixture,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.metrics import likelihood

HEADS = [
    MuLaw(),
    MuLaw(classes=160),
    LinearBins(classes=200),
    MixtureOfLogistics(),
    MixtureOfLogistics(sample_bits=8),
    Gaussian(),
]
SCALE = 0.01


def on_grid(x: np.ndarray) -> likelihood.Samples:
    return (np.clip(np.round(x * 32768), -32768, 32767) / 32768).astype(np.float32)


def logistic(N: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).logistic(0.0, SCALE, N)


def ar2(N: int, seed: int) -> likelihood.Samples:
    """A resonance driven by logistic noise of scale `SCALE`."""
    x, noise = np.zeros(N), logistic(N, seed)
    for t in range(N):
        x[t] = 1.6 * x[t - 1] - 0.8 * x[t - 2] + noise[t] if t > 1 else noise[t]
    return on_grid(x)


def cells(head: Head) -> np.ndarray:
    """One sample in each cell."""
    if isinstance(head, MuLaw | LinearBins):
        return head.decode(torch.arange(head.classes)).float().numpy()
    return (np.arange(2 ** int(head.bits)) / 2 ** (head.bits - 1) - 1).astype(np.float32)


@pytest.mark.parametrize("head", HEADS)
def test_uniform_is_exact(head: Head) -> None:
    found = likelihood.baselines(head, [ar2(400, 0)], [ar2(300, 1)])
    assert found["uniform"] == math.log2(len(cells(head)))
    assert set(found) == {"uniform", "marginal histogram", "linear predictor"}


@pytest.mark.parametrize("head", HEADS)
def test_the_histogram_is_a_distribution(head: Head) -> None:
    """Over all cells, whatever the number of classes, its masses sum to one."""
    every = cells(head)
    masses = [
        2 ** -likelihood.histogram_bits(head, on_grid(logistic(2000, 0)), every[i : i + 1])
        for i in range(min(len(every), 300))
    ]
    if len(every) > 300:  # 16 bits: the outer cells were never seen, and all cost the same
        assert len(set(np.round(masses[:10], 15))) == 1
        return
    assert sum(masses) == pytest.approx(1, abs=1e-9)


def test_the_histogram_approaches_the_entropy_of_its_source() -> None:
    head, rng = LinearBins(classes=32), np.random.default_rng(0)
    p = rng.dirichlet(np.ones(32))
    train, test = (
        head.decode(torch.from_numpy(rng.choice(32, 200_000, p=p))).float().numpy()
        for _ in range(2)
    )
    assert likelihood.histogram_bits(head, train, test) == pytest.approx(
        -(p * np.log2(p)).sum(), abs=0.01
    )


@pytest.mark.parametrize("head", [MixtureOfLogistics(), Gaussian()])
def test_the_linear_predictor_approaches_the_entropy_of_its_source(head: Head) -> None:
    """An AR(2) process of logistic noise costs ln s + 2 nats of density a sample, once its past is
    known.
    """
    found = likelihood.linear_predictor_bits(
        head, [ar2(40_000, 0)], [ar2(20_000, 1), ar2(20_000, 2)]
    )
    assert found == pytest.approx((math.log(SCALE) + 2) / math.log(2) + 15, abs=0.02)
    ignorant = likelihood.histogram_bits(head, ar2(40_000, 0), ar2(40_000, 1))
    assert ignorant > found + 1


@pytest.mark.parametrize("head", HEADS)
def test_the_linear_predictor_is_a_distribution(head: Head) -> None:
    """Its masses over all cells of the last sample, given one past, sum to one: both tails
    included.
    """
    every, train = cells(head), [ar2(500, 0)]
    past = np.tile(on_grid(np.array([0.02, -0.01, 0.03])), 1)

    def total(i: int) -> float:
        """Bits of the past and then of cell i."""
        return 4 * likelihood.linear_predictor_bits(
            head, train, [np.append(past, every[i]).astype(np.float32)], order=2
        )

    chosen = range(len(every)) if len(every) <= 300 else range(32768 - 5000, 32768 + 5000, 50)
    alone = 3 * likelihood.linear_predictor_bits(head, train, [past], order=2)
    masses = [2 ** (alone - total(i)) for i in chosen]
    assert sum(masses) * getattr(chosen, "step", 1) == pytest.approx(1, abs=2e-3)


def test_far_outliers_cost_what_their_tail_says() -> None:
    """A click 300 scales away costs its distance in nats, not the floor of a cancelled
    difference.
    """
    head, train = MixtureOfLogistics(), [ar2(20_000, 0)]
    quiet = on_grid(logistic(64, 5) * 0.0)
    costs = []
    for height in (0.9, -0.9):
        click = quiet.copy()
        click[-1] = height
        costs.append(
            64
            * (
                likelihood.linear_predictor_bits(head, train, [click])
                - likelihood.linear_predictor_bits(head, train, [quiet])
            )
        )
    assert costs[0] == pytest.approx(costs[1], rel=1e-3)  # both tails alike
    # -ln p falls by |x| / s in the tail; at the mode it is ln 4 s, so the difference is |x| / s -
    # ln 4
    assert costs[0] == pytest.approx((0.9 / SCALE - math.log(4)) / math.log(2), rel=0.1)


def test_bits_of_a_model_stand_beside_the_baselines() -> None:
    """The true density, as a head, costs what the linear predictor finds for white noise."""
    x = on_grid(logistic(20_000, 3))
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    truth = LogisticMixture(zero, zero, zero + math.log(SCALE))
    head = Gaussian()
    mine = likelihood.bits(head, truth, torch.from_numpy(x).double()[None]).mean().item()
    assert mine == pytest.approx(likelihood.linear_predictor_bits(head, [x], [x]), abs=0.01)


@pytest.mark.parametrize("head", [head for head in HEADS if not head.continuous])
def test_a_uniform_head_costs_the_uniform_baseline(head: Head) -> None:
    distribution = head(torch.zeros(1, head.channels, 50, dtype=torch.float64))
    x = torch.from_numpy(on_grid(logistic(50, 0))).double()[None]
    assert likelihood.bits(head, distribution, x).mean().item() == pytest.approx(head.bits)


def test_units_are_named() -> None:
    assert MixtureOfLogistics().cost_unit == Gaussian().cost_unit == "bits per 16-bit sample"
    assert MixtureOfLogistics(sample_bits=8).cost_unit == "bits per 8-bit sample"
    assert MuLaw(classes=64).cost_unit == "bits per sample of 64 classes"
