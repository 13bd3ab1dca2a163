"""Matrix products and the gate, out of `microkernels.py`'s tiles.

Widths: multiples of 16; see `simd.py` for the order of sums.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.jit import inlined, kernel
from vqwave.decode.cpu.microkernels import beyond, move, place, put, tile_at
from vqwave.decode.cpu.processor import WIDE
from vqwave.decode.cpu.simd import LANES, add, broadcast, gated, larger, load

Floats = NDArray[np.float32]
Numbers = NDArray[np.float32] | NDArray[np.uint16]  # the latter are bfloat16

Place = Any  # the address of a row of numbers: see `microkernels.place`


@kernel
def one_row(
    weights: Place, depth: int, width: int, x: Place, x_row: int, y: Place, y_row: int
) -> None:
    """One stream: as many outputs at a time as fit, so that weights stream through once, in
    order.
    """
    j = 0
    if WIDE:
        while width - j >= 16 * LANES:
            tile_at(1, 16, weights, width, j, depth, x, x_row, y, y_row)
            j += 16 * LANES
        while width - j >= 8 * LANES:
            tile_at(1, 8, weights, width, j, depth, x, x_row, y, y_row)
            j += 8 * LANES
    while width - j >= 4 * LANES:
        tile_at(1, 4, weights, width, j, depth, x, x_row, y, y_row)
        j += 4 * LANES
    while width - j >= 2 * LANES:
        tile_at(1, 2, weights, width, j, depth, x, x_row, y, y_row)
        j += 2 * LANES
    while width - j >= LANES:
        tile_at(1, 1, weights, width, j, depth, x, x_row, y, y_row)
        j += LANES


@kernel
def two_rows(
    weights: Place, depth: int, width: int, x: Place, x_row: int, y: Place, y_row: int
) -> None:
    """Two streams."""
    j = 0
    if WIDE:
        while width - j >= 8 * LANES:
            tile_at(2, 8, weights, width, j, depth, x, x_row, y, y_row)
            j += 8 * LANES
    while width - j >= 2 * LANES:
        tile_at(2, 2, weights, width, j, depth, x, x_row, y, y_row)
        j += 2 * LANES
    while width - j >= LANES:
        tile_at(2, 1, weights, width, j, depth, x, x_row, y, y_row)
        j += LANES


@kernel
def four_rows(
    weights: Place, depth: int, width: int, x: Place, x_row: int, y: Place, y_row: int
) -> None:
    """Four streams."""
    j = 0
    if WIDE:
        while width - j >= 4 * LANES:
            tile_at(4, 4, weights, width, j, depth, x, x_row, y, y_row)
            j += 4 * LANES
    while width - j >= LANES:
        tile_at(4, 1, weights, width, j, depth, x, x_row, y, y_row)
        j += LANES


@kernel
def eight_rows(
    weights: Place, depth: int, width: int, x: Place, x_row: int, y: Place, y_row: int
) -> None:
    """Eight streams: a weight that was loaded once serves them all.

    For wide registers alone: elsewhere it would spill.
    """
    j = 0
    while width - j >= 2 * LANES:
        tile_at(8, 2, weights, width, j, depth, x, x_row, y, y_row)
        j += 2 * LANES
    while width - j >= LANES:
        tile_at(8, 1, weights, width, j, depth, x, x_row, y, y_row)
        j += LANES


@kernel
def multiply(
    weights: Place, depth: int, width: int, rows: int, x: Place, x_row: int, y: Place, y_row: int
) -> None:
    """y (rows, width) += x (rows, depth) W (depth, width); rows of x and y follow each other by
    x_row and y_row numbers.
    """
    if WIDE:
        while rows >= 8:
            eight_rows(weights, depth, width, x, x_row, y, y_row)
            x, y, rows = beyond(x, 8 * x_row), beyond(y, 8 * y_row), rows - 8
    while rows >= 4:
        four_rows(weights, depth, width, x, x_row, y, y_row)
        x, y, rows = beyond(x, 4 * x_row), beyond(y, 4 * y_row), rows - 4
    if rows >= 2:
        two_rows(weights, depth, width, x, x_row, y, y_row)
        x, y, rows = beyond(x, 2 * x_row), beyond(y, 2 * y_row), rows - 2
    if rows:
        one_row(weights, depth, width, x, x_row, y, y_row)


@inlined
def product(
    weights: Numbers,
    at: int,
    depth: int,
    width: int,
    x: Numbers,
    x_from: int,
    y: Floats,
    y_from: int,
) -> None:
    """y[:, y_from : y_from + width] += x[:, x_from : x_from + depth] @ W for all rows of x (B, ...)
    and y (B, ...).

    W (depth, width) stands row by row in weights from `at` on.
    """
    multiply(
        place(weights, at),
        depth,
        width,
        x.shape[0],
        place(x, x_from),
        x.shape[1],
        place(y, y_from),
        y.shape[1],
    )


@inlined
def row_product(
    weights: Numbers, at: int, depth: int, width: int, x: Numbers, x_at: int, y: Floats, y_at: int
) -> None:
    """y.flat[y_at : y_at + width] += x.flat[x_at : x_at + depth] @ W."""
    one_row(place(weights, at), depth, width, place(x, x_at), depth, place(y, y_at), width)


@inlined
def copy(source: Numbers, source_at: int, target: Numbers, target_at: int, count: int) -> None:
    """target.flat[target_at:] = source.flat[source_at:], `count` numbers of the same kind."""
    for i in range(0, count, LANES):
        move(source, source_at + i, target, target_at + i)


@inlined
def convert(source: Floats, source_at: int, target: Numbers, target_at: int, count: int) -> None:
    """The same, rounded to the target's kind of number."""
    for i in range(0, count, LANES):
        put(target, target_at + i, load(source, source_at + i))


@inlined
def clear(target: Floats, target_at: int, count: int) -> None:
    """target.flat[target_at:] = 0, `count` numbers."""
    zeros = broadcast(np.float32(0.0))
    for i in range(0, count, LANES):
        put(target, target_at + i, zeros)


@inlined
def fill_rows(row: Floats, target: Floats) -> None:
    """target[:] = row, for target (B, C) and row of C numbers."""
    for b in range(target.shape[0]):
        copy(row, 0, target, b * target.shape[1], target.shape[1])


@inlined
def rectify(source: Floats, target: Numbers) -> None:
    """target = max(source, 0), both (B, C)."""
    zeros = broadcast(np.float32(0.0))
    for i in range(0, source.size, LANES):
        put(target, i, larger(load(source, i), zeros))


@inlined
def gate(
    a: Floats, a_at: int, h: Floats, h_at: int, units: Numbers, units_at: int, width: int
) -> None:
    """units = tanh(a + h) sigmoid(a' + h'): `width` units; a and the projected condition h hold
    the filter's numbers, then the gate's.
    """
    for i in range(0, width, LANES):
        filtered = add(load(a, a_at + i), load(h, h_at + i))
        passed = add(load(a, a_at + width + i), load(h, h_at + width + i))
        put(units, units_at + i, gated(filtered, passed))
