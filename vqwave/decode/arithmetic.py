"""Matrix products and the gate, out of `vector.py`'s tiles. Widths are multiples of 16; see there for the order of sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.compiled import inlined, kernel
from vqwave.decode.vector import LANES, WIDE, accumulate, broadcast, gated, larger, load, store

Floats = NDArray[np.float32]
Weights = NDArray[np.float32] | NDArray[np.uint16]  # the latter are bfloat16

# Rows x vectors of the largest register tiles. 16 sums fit beside their operands in 32 registers of AVX-512; with narrower
# or fewer registers a vector takes several of them, and larger tiles would spill.
MANY = 8 if WIDE else 4


@kernel
def one_row(
    weights: Weights,
    at: int,
    width: int,
    x: Floats,
    x_at: int,
    depth: int,
    y: Floats,
    y_at: int,
) -> None:
    """One stream: as many outputs at a time as fit, so that weights stream through once, in order."""
    j = 0
    if WIDE:
        while width - j >= 16 * LANES:
            accumulate(1, 16, weights, at + j, width, x, x_at, depth, y, y_at + j)
            j += 16 * LANES
        while width - j >= 8 * LANES:
            accumulate(1, 8, weights, at + j, width, x, x_at, depth, y, y_at + j)
            j += 8 * LANES
    while width - j >= 4 * LANES:
        accumulate(1, 4, weights, at + j, width, x, x_at, depth, y, y_at + j)
        j += 4 * LANES
    while width - j >= 2 * LANES:
        accumulate(1, 2, weights, at + j, width, x, x_at, depth, y, y_at + j)
        j += 2 * LANES
    while width - j >= LANES:
        accumulate(1, 1, weights, at + j, width, x, x_at, depth, y, y_at + j)
        j += LANES


@kernel
def two_rows(
    weights: Weights,
    at: int,
    width: int,
    x: Floats,
    x_at: int,
    depth: int,
    y: Floats,
    y_at: int,
) -> None:
    j = 0
    if WIDE:
        while width - j >= 8 * LANES:
            accumulate(2, 8, weights, at + j, width, x, x_at, depth, y, y_at + j)
            j += 8 * LANES
    while width - j >= 2 * LANES:
        accumulate(2, 2, weights, at + j, width, x, x_at, depth, y, y_at + j)
        j += 2 * LANES
    while width - j >= LANES:
        accumulate(2, 1, weights, at + j, width, x, x_at, depth, y, y_at + j)
        j += LANES


@kernel
def many_rows(
    weights: Weights,
    at: int,
    width: int,
    x: Floats,
    x_at: int,
    depth: int,
    y: Floats,
    y_at: int,
) -> None:
    """`MANY` streams: a weight that was loaded once serves them all."""
    j = 0
    if WIDE:
        while width - j >= 2 * LANES:
            accumulate(MANY, 2, weights, at + j, width, x, x_at, depth, y, y_at + j)
            j += 2 * LANES
    while width - j >= LANES:
        accumulate(MANY, 1, weights, at + j, width, x, x_at, depth, y, y_at + j)
        j += LANES


@kernel
def product(
    weights: Weights,
    at: int,
    depth: int,
    width: int,
    x: Floats,
    x_from: int,
    y: Floats,
    y_from: int,
) -> None:
    """y[:, y_from : y_from + width] += x[:, x_from : x_from + depth] @ W for all rows of x (B, ...) and y (B, ...).

    W (depth, width) stands row by row in weights from `at` on.
    """
    rows, x_row, y_row = x.shape[0], x.shape[1], y.shape[1]
    row = 0
    while rows - row >= MANY:
        many_rows(weights, at, width, x, row * x_row + x_from, depth, y, row * y_row + y_from)
        row += MANY
    while rows - row >= 2:
        two_rows(weights, at, width, x, row * x_row + x_from, depth, y, row * y_row + y_from)
        row += 2
    if rows - row:
        one_row(weights, at, width, x, row * x_row + x_from, depth, y, row * y_row + y_from)


@inlined
def copy(source: Floats, source_at: int, target: Floats, target_at: int, count: int) -> None:
    """target.flat[target_at:] = source.flat[source_at:], `count` numbers."""
    for i in range(0, count, LANES):
        store(target, target_at + i, load(source, source_at + i))


@inlined
def fill_rows(row: Floats, target: Floats) -> None:
    """target[:] = row, for target (B, C) and row of C numbers."""
    for b in range(target.shape[0]):
        copy(row, 0, target, b * target.shape[1], target.shape[1])


@inlined
def rectify(x: Floats) -> None:
    """x = max(x, 0), for x (B, C)."""
    zeros = broadcast(np.float32(0.0))
    for i in range(0, x.size, LANES):
        store(x, i, larger(load(x, i), zeros))


@inlined
def gate(a: Floats, units: Floats, units_from: int) -> None:
    """units[:, units_from : units_from + G] = tanh(a[:, :G]) sigmoid(a[:, G:]) for a (B, 2G)."""
    G = a.shape[1] // 2
    for b in range(a.shape[0]):
        for i in range(0, G, LANES):
            at = b * a.shape[1] + i
            store(units, b * units.shape[1] + units_from + i, gated(load(a, at), load(a, at + G)))
