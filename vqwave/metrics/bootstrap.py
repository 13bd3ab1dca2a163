"""How far a figure may be trusted: bootstrap over utterances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[np.float64]
CHUNK = 1 << 22  # numbers of resampled sums held at once


@dataclass(frozen=True)
class Estimate:
    """A figure, its 95 % interval, and of how many utterances it is."""

    value: float
    low: float
    high: float
    count: int


def bootstrap(
    sums: Sums,
    figure: Callable[[Sums], Sums],
    *,
    resamples: int = 1000,
    seed: int = 0,
    centred: bool = False,
) -> Estimate:
    """`figure` of the sum over utterances, and its percentile interval over sums of utterances that
    are resampled with replacement.

    sums (N, S): what each of N utterances adds; figure: sums (R, S) -> figures (R,). Figures that
    are NaN (a draw without a single voiced frame) are left out of the interval. `centred` moves it
    so that its middle draw is the figure: entropies of draws, in which utterances repeat, are all
    too low.

    Reference: Efron and Tibshirani, 1993, "An introduction to the bootstrap", sec. 13.3.
    """
    sums = np.asarray(sums, np.float64)
    count = len(sums)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure(sums.sum(0, keepdims=True))[0])
        if count < 2:
            return Estimate(value, value, value, count)
        rng, figures = np.random.default_rng(seed), []
        step = max(1, CHUNK // max(sums.shape[1], count))
        for first in range(0, resamples, step):
            counts = rng.multinomial(
                count, np.full(count, 1 / count), size=min(step, resamples - first)
            )
            figures.append(figure(counts @ sums))
    draws = np.concatenate(figures)
    draws = draws[np.isfinite(draws)]
    if centred and len(draws):
        draws = draws + (value - np.median(draws))
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), count)


def mean(
    values: Sums, weights: Sums | None = None, *, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """The (weighted) mean of one value an utterance (N,), with its interval.

    >>> mean(np.array([1.0, 0.0, 1.0, 1.0])).value
    0.75
    """
    values = np.asarray(values, np.float64)
    weight = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    return bootstrap(np.stack([values * weight, weight], 1), ratio, resamples=resamples, seed=seed)


def ratio(sums: Sums) -> Sums:
    """The first sum over the second, (R, 2) -> (R,)."""
    return sums[:, 0] / sums[:, 1]
