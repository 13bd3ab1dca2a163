"""A convolution over frames and linear prediction, with sums of a fixed order: see
`fixed_order.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.jit import kernel
from vqwave.decode.cpu.matmul import multiply
from vqwave.decode.cpu.microkernels import place
from vqwave.decode.plan import Floats

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]


@kernel
def convolve(weights: Floats, depth: int, panel: int, x: Floats, y: Floats) -> None:
    """y (F, O) += the convolution of x (F + taps - 1, C); depth: taps C.

    weights: panels of (depth, at most `panel` outputs), one after another.
    """
    rows, width = y.shape
    at = first = 0
    while first < width:
        count = min(panel, width - first)
        multiply(
            place(weights, at), depth, count, rows, place(x, 0), x.shape[1], place(y, first), width
        )
        at += depth * count
        first += count


@kernel
def predict(
    level: Doubles,
    bands: Integers,
    shares: Doubles,
    cosines: Doubles,
    autocorrelation: Doubles,
    coefficients: Doubles,
    reversed_: Doubles,
) -> None:
    """level (F, M) of the bands -> autocorrelation (F, P + 1) and coefficients (F, P).

    Bin b lies between bands[b, 0] and bands[b, 1], which have shares[b] of it; cosines (bins, P +
    1) make the lags of the power spectrum. reversed_ (P,) is working memory.
    """
    order = coefficients.shape[1]
    for f in range(len(level)):
        r, a = autocorrelation[f], coefficients[f]
        r[:] = 0.0
        for b in range(len(bands)):
            x = level[f, bands[b, 0]] * shares[b, 0] + level[f, bands[b, 1]] * shares[b, 1]
            power = math.exp(2.0 * x)
            for k in range(order + 1):
                r[k] += power * cosines[b, k]
        error = r[0]
        for i in range(order):
            reflection = r[i + 1]
            for k in range(i):
                reflection -= a[k] * r[i - k]
                reversed_[k] = a[i - 1 - k]
            reflection /= error
            for k in range(i):
                a[k] -= reflection * reversed_[k]
            a[i] = reflection
            error *= 1.0 - reflection * reflection
