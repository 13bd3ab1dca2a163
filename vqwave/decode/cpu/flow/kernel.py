"""A student's flow over a tile of columns: layer after layer, so that a tile's activations stay in
the second-level cache.

A column is a block of squeezed time, or a sample. Every layer keeps its past inputs in a window of
rows, one column a row, time upwards; a tile is written after those before it, and when the
window is full its last span of rows moves to the front. Rows are counted up to a multiple of
`ROWS`; what is computed for the rows beyond a tile is never read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.flow.microkernel import (
    PAIRS,
    ROWS,
    VECTORS,
    Conditions,
    Convolution,
    Integers,
    Taps,
    Target,
    gate_tile,
)
from vqwave.decode.cpu.flow.plan import FlowPlan, Matrix
from vqwave.decode.cpu.head_sampling import uniforms
from vqwave.decode.cpu.jit import inlined, kernel
from vqwave.decode.cpu.matmul import Floats, copy, fill_rows, product
from vqwave.decode.cpu.microkernels import move, put, tile
from vqwave.decode.cpu.simd import LANES, add, broadcast, exp_scaled, larger, load, store
from vqwave.decode.plan import aligned


class Memory(NamedTuple):
    """The past inputs of the layers of one flow of one stream, in the precision of its matrices."""

    # (rows, R): a window a layer, each of its span, a tile and some rows of padding
    windows: Matrix
    begins: Integers  # (L,) first row of each window
    used: Integers  # (L,) rows that each window holds beyond its span

    @staticmethod
    def silent(plan: FlowPlan, columns: int) -> Memory:
        spans = (plan.kernel - 1) * plan.dilations
        rows = spans + padded_rows(columns)
        begins = np.concatenate([[0], np.cumsum(rows)])
        windows = aligned((int(begins[-1]), len(plan.input_bias)), plan.dilated.dtype.type)
        return Memory(windows, begins[:-1].astype(np.int64), np.zeros(len(spans), np.int64))


class Scratch(NamedTuple):
    """Scratch for the activations of a tile in one thread."""

    units: Matrix  # (rows, G)
    rectified: Matrix  # (ROWS, R)
    hidden: Floats  # (ROWS, H)
    # (1 + rows, 16): of each block, its n locations, after those of the block that was known before
    locations: Floats
    scales: Floats  # (1 + rows, 16): its n scales, from lane n on

    @staticmethod
    def of(plan: FlowPlan, columns: int) -> Scratch:
        kind = plan.dilated.dtype.type
        return Scratch(
            aligned((padded_rows(columns), plan.gate), kind),
            aligned((ROWS, len(plan.input_bias)), kind),
            aligned((ROWS, len(plan.hidden_bias)), np.float32),
            *(aligned((1 + padded_rows(columns), LANES), np.float32) for _ in range(2)),
        )


def padded_rows(count: int) -> int:
    """Rows of as many register tiles as hold `count` columns."""
    return -(-count // ROWS) * ROWS


@kernel
def project(plan: FlowPlan, features: Floats, conditions: Floats) -> None:
    """features (F, condition channels) -> conditions (F, L 2G): every layer's projection
    of the condition, plus its bias.
    """
    fill_rows(plan.dilated_bias, conditions)
    depth, width = plan.projection.shape
    product(plan.projection, 0, depth, width, features, 0, conditions, 0)


@inlined
def add_products(weights: Matrix, at: int, x: Matrix, x_at: int, y: Floats, row: int) -> None:
    """y[row : row + ROWS] += x W, for as many rows of x (..., C) from x_at on."""
    width, depth, y_at, j = y.shape[1], x.shape[1], row * y.shape[1], 0
    while width - j >= VECTORS * LANES:
        tile(ROWS, VECTORS, weights, at, width, j, x, x_at, depth, y, y_at)
        j += VECTORS * LANES
    while width - j >= 2 * LANES:
        tile(ROWS, 2, weights, at, width, j, x, x_at, depth, y, y_at)
        j += 2 * LANES
    if width - j:
        tile(ROWS, 1, weights, at, width, j, x, x_at, depth, y, y_at)


@inlined
def rectify_rows(x: Floats, x_at: int, y: Matrix) -> None:
    """y = max(x, 0), for all of y, and as much of x from x_at on."""
    zeros = broadcast(np.float32(0.0))
    for i in range(0, y.size, LANES):
        put(y, i, larger(load(x, x_at + i), zeros))


@kernel
def enter(plan: FlowPlan, blocks: Floats, x: Floats) -> None:
    """blocks (rows, n) of samples, or (rows, 2 n) with a harmonic source's after them -> x (rows,
    R), the residual channels of the first layer.
    """
    fill_rows(plan.input_bias, x)
    for row in range(0, len(blocks), ROWS):
        add_products(plan.input_weights, 0, blocks, row * blocks.shape[1], x, row)


@kernel
def append(memory: Memory, layer: int, span: int, x: Floats, bias: Floats, count: int) -> int:
    """Write a tile into a layer's window -> the row that its first column stands in.

    x gets the residual's bias on the way.
    """
    windows, width, begin = memory.windows, x.shape[1], memory.begins[layer]
    capacity = (
        (memory.begins[layer + 1] if layer + 1 < len(memory.begins) else len(windows))
        - begin
        - span
    )
    if memory.used[layer] + (count + ROWS - 1) // ROWS * ROWS > capacity:
        for i in range(begin * width, (begin + span) * width, LANES):
            move(windows, i + memory.used[layer] * width, windows, i)
        memory.used[layer] = 0
    first = begin + span + memory.used[layer]
    for row in range(count):
        for j in range(0, width, LANES):
            entered = load(x, row * width + j)
            put(windows, (first + row) * width + j, entered)
            store(x, row * width + j, add(entered, load(bias, layer * width + j)))
    memory.used[layer] += count
    return first


@kernel
def gate_rows(
    plan: FlowPlan,
    memory: Memory,
    scratch: Scratch,
    layer: int,
    oldest: int,
    conditions: Floats,
    columns: Integers,
    rows: int,
) -> None:
    """A layer's gated units, of all rows of a tile whose oldest tap begins in row `oldest` of the
    windows.
    """
    x, z = memory.windows, scratch.units
    depth, width, gate = x.shape[1], 2 * plan.gate, plan.gate
    at, reach, j = layer * plan.kernel * depth * width, plan.dilations[layer] * depth, 0
    while width - j >= VECTORS * LANES:
        weights = Convolution(plan.dilated, at, width, j)
        for row in range(0, rows, ROWS):
            taps = Taps(x, (oldest + row) * depth, reach, plan.kernel)
            begin = Conditions(conditions, columns, row, layer * width + j)
            gate_tile(ROWS, PAIRS, weights, taps, begin, Target(z, row * gate + j // 2))
        j += VECTORS * LANES
    while width - j >= 2 * LANES:
        weights = Convolution(plan.dilated, at, width, j)
        for row in range(0, rows, ROWS):
            taps = Taps(x, (oldest + row) * depth, reach, plan.kernel)
            begin = Conditions(conditions, columns, row, layer * width + j)
            gate_tile(ROWS, 1, weights, taps, begin, Target(z, row * gate + j // 2))
        j += 2 * LANES


@kernel
def pass_layers(
    plan: FlowPlan,
    memory: Memory,
    scratch: Scratch,
    conditions: Floats,
    columns: Integers,
    x: Floats,
    count: int,
    first: int,
    last: int,
) -> None:
    """Layers `first` to `last` - 1 over x (rows, R), `count` of whose rows are columns; columns
    (rows,) are places in conditions.flat.
    """
    rows, matrix = (count + ROWS - 1) // ROWS * ROWS, plan.gate * x.shape[1]
    for layer in range(first, last):
        span = (plan.kernel - 1) * plan.dilations[layer]
        present = append(memory, layer, span, x, plan.residual_bias, count)
        gate_rows(plan, memory, scratch, layer, present - span, conditions, columns, rows)
        for row in range(0, rows, ROWS):
            add_products(plan.residual, layer * matrix, scratch.units, row * plan.gate, x, row)


@kernel
def leave(plan: FlowPlan, scratch: Scratch, x: Floats) -> None:
    """x (rows, R) after the last layer -> locations and scales in scratch, all but those of
    row 0.
    """
    floor, shift, factor = broadcast(np.float32(plan.floor)), np.float32(0.0), np.float32(1.0)
    for row in range(0, len(x), ROWS):
        rectify_rows(x, row * x.shape[1], scratch.rectified)
        fill_rows(plan.hidden_bias, scratch.hidden)
        add_products(plan.hidden, 0, scratch.rectified, 0, scratch.hidden, 0)
        rectify_rows(scratch.hidden, 0, scratch.hidden)
        for i in range(1 + row, 1 + row + ROWS):
            copy(plan.out_bias, 0, scratch.locations, i * LANES, LANES)
        add_products(plan.out, 0, scratch.hidden, 0, scratch.locations, 1 + row)
    for i in range(LANES, (1 + len(x)) * LANES, LANES):
        store(
            scratch.scales, i, exp_scaled(larger(load(scratch.locations, i), floor), shift, factor)
        )


@kernel
def scale(plan: FlowPlan, scratch: Scratch, first: int, z: Floats, x: Floats) -> None:
    """x = z s + mu, for samples (count,) of which the first is sample `first` of the
    scratch's blocks.
    """
    for i in range(len(z)):
        row, lane = divmod(first + i, plan.squeeze)
        x[i] = z[i] * scratch.scales[row, plan.squeeze + lane] + scratch.locations[row, lane]


@kernel
def noise(
    seed: np.uint64,
    stream: int,
    time: int,
    gaussian: bool,
    scales: NDArray[np.float64],
    z: Floats,
) -> None:
    """White noise z (count,) of the student's base from sample `time` on, times scales (count,).

    `Mixture.standard_sample` of the stream's uniforms.
    """
    for i in range(len(z)):
        u = uniforms(seed, stream, time + i)
        if gaussian:
            standard = math.sqrt(-2.0 * math.log(u[1])) * math.cos(2.0 * math.pi * u[2])
        else:
            standard = math.log(u[1] / (1.0 - u[1]))
        z[i] = scales[i] * standard
