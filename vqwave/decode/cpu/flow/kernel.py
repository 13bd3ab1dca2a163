"""A student's flow over a tile of columns: strip after strip of them, each through all layers, so
that a strip's activations stay in the first-level cache and a flow's weights in the second.

A column is a block of squeezed time, or a sample. Every layer keeps its past inputs in a window of
rows, one column a row, time upwards; a strip is written after those before it, and when the
window is full its last span of rows moves to the front. Rows are counted up to a multiple of
`ROWS`; what is computed for the rows beyond a strip is never read.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.flow.microkernel import (
    PAIRS,
    VECTORS,
    Conditions,
    Convolution,
    Product,
    Residual,
    Taps,
    Target,
    gate_tile,
    residual_tile,
)
from vqwave.decode.cpu.flow.plan import PANEL, FlowPlan, Matrix
from vqwave.decode.cpu.flow.state import ROWS, STRIP, Columns, Memory, Samples, Scratch
from vqwave.decode.cpu.head_sampling import uniforms
from vqwave.decode.cpu.jit import inlined, kernel
from vqwave.decode.cpu.matmul import copy, fill_rows, product
from vqwave.decode.cpu.microkernels import move, put, tile
from vqwave.decode.cpu.simd import (
    LANES,
    broadcast,
    exp_scaled,
    fused_scalar,
    larger,
    load,
    store,
)
from vqwave.decode.plan import Floats


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
    while VECTORS > 2 and width - j >= 2 * LANES:
        tile(ROWS, 2, weights, at, width, j, x, x_at, depth, y, y_at)
        j += 2 * LANES
    if VECTORS > 1 and width - j:
        tile(ROWS, 1, weights, at, width, j, x, x_at, depth, y, y_at)


@inlined
def rectify_rows(x: Floats, x_at: int, y: Matrix) -> None:
    """y = max(x, 0), for all of y, and as much of x from x_at on."""
    zeros = broadcast(np.float32(0.0))
    for i in range(0, y.size, LANES):
        put(y, i, larger(load(x, x_at + i), zeros))


@inlined
def row_of(columns: Columns, start: int) -> int:
    """Which row of x is column `start`: where one stage is the entire flow, x is one strip."""
    return 0 if len(columns.x) <= STRIP else start


@kernel
def enter(plan: FlowPlan, columns: Columns, first: int, rows: int) -> None:
    """Rows `first` .. of blocks -> of x, the residual channels of the first layer."""
    blocks, x, at = columns.blocks, columns.x, row_of(columns, first)
    for row in range(at, at + rows):
        copy(plan.input_bias, 0, x, row * x.shape[1], x.shape[1])
    for row in range(0, rows, ROWS):
        place = (first + row) * blocks.shape[1]
        add_products(plan.input_weights, 0, blocks, place, x, at + row)


@kernel
def reserve(memory: Memory, layer: int, span: int, count: int) -> int:
    """Space for `count` rows in a layer's window -> the row that the first stands in."""
    windows, width, begin = memory.windows, memory.windows.shape[1], memory.begins[layer]
    capacity = memory.begins[layer + 1] - begin - span
    if memory.used[layer] + (count + ROWS - 1) // ROWS * ROWS > capacity:
        for i in range(begin * width, (begin + span) * width, LANES):
            move(windows, i + memory.used[layer] * width, windows, i)
        memory.used[layer] = 0
    first = begin + span + memory.used[layer]
    memory.used[layer] += count
    return first


@kernel
def gate_rows(
    plan: FlowPlan,
    memory: Memory,
    scratch: Scratch,
    layer: int,
    oldest: int,
    columns: Columns,
    start: int,
    rows: int,
) -> None:
    """A layer's gated units, of rows `start` .. of a tile; the oldest tap of the first is row
    `oldest` of the windows.
    """
    x, z, units = memory.windows, scratch.units, plan.gate
    depth, width, taps = x.shape[1], 2 * units, plan.kernel
    at, reach, j = layer * taps * depth * width, plan.dilations[layer] * depth, 0
    while j < width:
        panel, inside = min(PANEL, width - j), 0
        while panel - inside >= 2 * PAIRS * LANES:
            weights, begin = (
                Convolution(plan.dilated, at, panel, inside),
                layer * width + j + inside,
            )
            for row in range(0, rows, ROWS):
                inputs = Taps(x, (oldest + row) * depth, reach, taps)
                given = Conditions(columns.conditions, columns.places, start + row, begin)
                target = Target(z, row * units + (j + inside) // 2)
                gate_tile(ROWS, PAIRS, weights, inputs, given, target)
            inside += 2 * PAIRS * LANES
        while PAIRS > 1 and panel - inside >= 2 * LANES:
            weights, begin = (
                Convolution(plan.dilated, at, panel, inside),
                layer * width + j + inside,
            )
            for row in range(0, rows, ROWS):
                inputs = Taps(x, (oldest + row) * depth, reach, taps)
                given = Conditions(columns.conditions, columns.places, start + row, begin)
                target = Target(z, row * units + (j + inside) // 2)
                gate_tile(ROWS, 1, weights, inputs, given, target)
            inside += 2 * LANES
        at, j = at + panel * taps * depth, j + panel


@kernel
def add_residual(
    plan: FlowPlan,
    memory: Memory,
    scratch: Scratch,
    layer: int,
    present: int,
    x: Floats,
    first: int,
    rows: int,
) -> None:
    """A layer's residual product is added to rows `first` .. of x, which are then written into the
    next layer's window, too, from row `present` on.
    """
    units, windows, depth, width = scratch.units, memory.windows, plan.gate, x.shape[1]
    at, j = layer * depth * width, 0
    while width - j >= VECTORS * LANES:
        for row in range(0, rows, ROWS):
            product = Product(plan.residual, at, width, j, units, row * depth)
            place, to = (first + row) * width, (present + row) * width
            into = Residual(x, place, plan.residual_bias, layer * width, windows, to)
            residual_tile(ROWS, VECTORS, product, into)
        j += VECTORS * LANES
    while VECTORS > 2 and width - j >= 2 * LANES:
        for row in range(0, rows, ROWS):
            product = Product(plan.residual, at, width, j, units, row * depth)
            place, to = (first + row) * width, (present + row) * width
            into = Residual(x, place, plan.residual_bias, layer * width, windows, to)
            residual_tile(ROWS, 2, product, into)
        j += 2 * LANES
    if VECTORS > 1 and width - j:
        for row in range(0, rows, ROWS):
            product = Product(plan.residual, at, width, j, units, row * depth)
            place, to = (first + row) * width, (present + row) * width
            into = Residual(x, place, plan.residual_bias, layer * width, windows, to)
            residual_tile(ROWS, 1, product, into)


@kernel
def pass_layers(
    plan: FlowPlan,
    memory: Memory,
    scratch: Scratch,
    columns: Columns,
    start: int,
    count: int,
    first: int,
    last: int,
) -> None:
    """Layers `first` to `last` - 1 over `count` rows of a tile from row `start` on, at most
    STRIP.
    """
    x, width, kernel = columns.x, columns.x.shape[1], plan.kernel
    rows, at = (count + ROWS - 1) // ROWS * ROWS, row_of(columns, start)
    present = reserve(memory, first, (kernel - 1) * plan.dilations[first], count)
    for i in range(0, rows * width, LANES):
        put(memory.windows, present * width + i, load(x, at * width + i))
    for layer in range(first, last):
        oldest = present - (kernel - 1) * plan.dilations[layer]
        gate_rows(plan, memory, scratch, layer, oldest, columns, start, rows)
        present = memory.begins[len(plan.dilations)]
        if layer + 1 < last:
            span = (kernel - 1) * plan.dilations[layer + 1]
            present = reserve(memory, layer + 1, span, count)
        add_residual(plan, memory, scratch, layer, present, x, at, rows)


@kernel
def leave(plan: FlowPlan, scratch: Scratch, columns: Columns, first: int, rows: int) -> None:
    """Rows `first` .. of x after the last layer -> locations and scales in scratch, a row later."""
    floor, shift, factor = broadcast(np.float32(plan.floor)), np.float32(0.0), np.float32(1.0)
    locations, scales, width = scratch.locations, scratch.scales, scratch.locations.shape[1]
    x, at = columns.x, row_of(columns, first) - first
    for row in range(first, first + rows, ROWS):
        rectify_rows(x, (at + row) * x.shape[1], scratch.rectified)
        fill_rows(plan.hidden_bias, scratch.hidden)
        add_products(plan.hidden, 0, scratch.rectified, 0, scratch.hidden, 0)
        rectify_rows(scratch.hidden, 0, scratch.hidden)
        for i in range(1 + row, 1 + row + ROWS):
            copy(plan.out_bias, 0, locations, i * width, width)
        add_products(plan.out, 0, scratch.hidden, 0, locations, 1 + row)
    for i in range((1 + first) * width, (1 + first + rows) * width, LANES):
        store(scales, i, exp_scaled(larger(load(locations, i), floor), shift, factor))


@kernel
def scale(plan: FlowPlan, scratch: Scratch, first: int, z: Floats, x: Floats) -> None:
    """x = z s + mu, for samples (count,) of which the first is sample `first` of the
    scratch's blocks.
    """
    row, lane = divmod(first, plan.squeeze)
    for i in range(len(z)):
        x[i] = z[i] * scratch.scales[row, plan.squeeze + lane] + scratch.locations[row, lane]
        lane += 1
        if lane == plan.squeeze:
            row, lane = row + 1, 0


@kernel
def condition(plan: FlowPlan, columns: Columns) -> None:
    """Each row's column of the condition, and these columns for all layers."""
    projected, places = columns.conditions, columns.places
    project(plan, columns.features, projected)
    for i in range(len(places)):
        column = (columns.number + i) // columns.hold - columns.first
        places[i] = max(0, min(column, len(projected) - 1)) * projected.shape[1]


@kernel
def advance(
    plan: FlowPlan,
    memory: Memory,
    scratch: Scratch,
    columns: Columns,
    samples: Samples,
    first: int,
    last: int,
) -> None:
    """A tile's columns through layers `first` to `last` - 1: into the first layer before them, out
    of the last one after them, when its samples go through the flow.
    """
    if first == 0:
        condition(plan, columns)
    for start in range(0, columns.total, STRIP):
        count = min(STRIP, columns.total - start)
        rows = (count + ROWS - 1) // ROWS * ROWS
        if first == 0:
            enter(plan, columns, start, rows)
        pass_layers(plan, memory, scratch, columns, start, count, first, last)
        if last == len(plan.dilations):
            leave(plan, scratch, columns, start, rows)
    if last == len(plan.dilations):
        width, known, count = scratch.scales.shape[1], samples.known, columns.total
        copy(known, 0, scratch.locations, 0, width)
        copy(known, width, scratch.scales, 0, width)
        scale(plan, scratch, samples.first, samples.z, samples.x)
        copy(scratch.locations, count * width, known, 0, width)
        copy(scratch.scales, count * width, known, width, width)


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


@kernel
def synthesise(coefficients: Floats, hold: int, start: int, x: Floats) -> None:
    """x (P + n): P samples, and n residuals which become samples; the first is sample `start` of
    column 0.

    coefficients (F, P): each column holds for `hold` samples, the last one for all that follow.
    """
    columns, order = coefficients.shape
    for t in range(order, len(x)):
        column = min((start + t - order) // hold, columns - 1)
        sample = x[t]
        for k in range(order):
            sample = fused_scalar(coefficients[column, k], x[t - 1 - k], sample)
        x[t] = sample
