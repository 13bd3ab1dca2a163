"""Held-out likelihood in bits a sample, and what it must beat: uniform, a marginal histogram, a
linear predictor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.distributions import Distribution, Head
from vqwave.models import WaveNet
from vqwave.models.wavenet import WaveNetState
from vqwave.nn.causal import shift_right
from vqwave.nn.condition import Condition

Samples = NDArray[np.float32]
SCORED = 16384  # samples whose likelihood is computed at once


@dataclass(frozen=True)
class Score:
    """Bits a sample of a recording costs, their unit, and how many samples it has."""

    bits: float
    unit: str
    samples: int


def score(decoder: WaveNet, condition: Condition | None, x: Tensor) -> Score:
    """The likelihood of a recording x (1, T), of any length, under a WaveNet and its condition."""
    projected, state = decoder.project(condition), WaveNetState()
    before, total = shift_right(x), 0.0
    for chunk, past in zip(x.split(SCORED, 1), before.split(SCORED, 1), strict=True):
        costs = bits(decoder.head, decoder.step(past, projected, state), chunk)
        total += float(costs.sum(dtype=torch.float64))
    return Score(total / x.shape[1], decoder.head.cost_unit, x.shape[1])


def bits_per_sample(distribution: Distribution, x: Tensor, bits: int = 16) -> Tensor:
    r"""Bits that a sample costs at a resolution of `bits`, whatever the head:
    :math:`-\log_2(p(x)\,2/2^{bits})`. (B, T)
    """
    return -(distribution.log_density(x) + math.log(2.0 / 2**bits)) / math.log(2.0)


def bits(head: Head, distribution: Distribution, x: Tensor) -> Tensor:
    """Bits that each sample costs: at 16-bit resolution for continuous heads, in its own classes
    for a categorical. (B, T)
    """
    if head.continuous and head.bits == 16:
        return bits_per_sample(distribution, x)
    return -distribution.log_prob(x) / math.log(2.0)


def bits_of(head: Head, nats: Tensor) -> Tensor:
    """A mean negative log-likelihood in nats -> in this head's bits, in which training curves and
    held-out curves are comparable.
    """
    # a density costs ln(2 / 2^16) more as a 16-bit mass
    return (nats - (0.0 if head.discrete else math.log(2.0 / 2**16))) / math.log(2.0)


def costs(
    total: Mapping[str, float], comparable: tuple[bool, bool], clips: str, labels: str
) -> tuple[float, float | None, float | None]:
    """Sums by name -> the cost of a sample; with another clip's codes or frames; with other labels.

    clips, labels: the names of the last two sums; comparable: whether there are others. None where
    there are not: the model would be compared with itself.
    """
    bits, codes, others = (total[name] / total["samples"] for name in ("bits", clips, labels))
    return bits, codes if comparable[0] else None, others if comparable[1] else None


def measured(scalars: Mapping[str, float | None]) -> dict[str, float]:
    """Without those that were not measured."""
    return {name: value for name, value in scalars.items() if value is not None}


def _codes(head: Head, x: Samples) -> NDArray[np.int64]:
    """Which cell each sample is in: the head's class, or the level of its grid."""
    return head.cells(torch.from_numpy(x)).numpy()


def _cells(head: Head, x: Samples) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and upper amplitude of the cell that each sample is in; the outermost cells take
    the tails.
    """
    codes, edges = _codes(head, x), head.cell_edges().numpy()
    edges[0], edges[-1] = -np.inf, np.inf
    return edges[codes], edges[codes + 1]


def histogram_bits(head: Head, train: Samples, test: Samples) -> float:
    """Bits a test sample costs under the smoothed histogram of the training samples, each on its
    own.
    """
    size = len(head.cell_edges()) - 1
    counts = np.bincount(_codes(head, train), minlength=size) + 0.1
    return float(-np.log2(counts / counts.sum())[_codes(head, test)].mean())


def linear_predictor_bits(
    head: Head, train: list[Samples], test: list[Samples], order: int = 16
) -> float:
    """Bits a test sample costs under one linear predictor with a logistic residual, both fitted on
    the training recordings.

    The mass is that of the cell which holds the sample, so that the figure is comparable with the
    head's own.
    """
    history, target = _regression(train, order)
    weights = np.linalg.lstsq(
        history.T @ history + 1e-8 * np.eye(order), history.T @ target, rcond=None
    )[0]
    residual = target - history @ weights
    candidates = np.std(residual) * np.geomspace(0.02, 2.0, 60)
    scale = min(
        candidates,
        key=lambda s: (
            np.log(s)
            + 2 * np.logaddexp(0, -np.abs(residual) / s).mean()
            + np.abs(residual).mean() / s
        ),
    )
    history, target = _regression(test, order)
    low, high = _cells(head, np.concatenate(test))
    centre = history @ weights
    a, b = (high - centre) / scale, (low - centre) / scale
    # ln[sigma(a) - sigma(b)] as in DiscretisedLogisticMixture: exact in both tails, where a
    # difference would be zero
    log_mass = -np.logaddexp(0, -a) - np.logaddexp(0, b) + np.log(-np.expm1(b - a))
    return float(-log_mass.mean() / np.log(2))


def _regression(
    recordings: list[Samples], order: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The `order` samples before each sample (N, order), and the samples (N,); silence stands
    before a recording.
    """
    histories = []
    for x in recordings:
        padded = np.concatenate([np.zeros(order), x])
        histories.append(np.lib.stride_tricks.sliding_window_view(padded[:-1], order))
    return np.concatenate(histories), np.concatenate(recordings).astype(np.float64)


def baselines(head: Head, train: list[Samples], test: list[Samples]) -> dict[str, float]:
    """Bits a test sample costs without a network, by name."""
    return {
        "uniform": float(head.bits),
        "marginal histogram": histogram_bits(head, np.concatenate(train), np.concatenate(test)),
        "linear predictor": linear_predictor_bits(head, train, test),
    }
