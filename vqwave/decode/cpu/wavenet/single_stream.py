"""The sample loop of one stream: weights stream through once a sample, and those of past taps once
in eight.

The past taps of a layer of dilation d are available d samples ahead. So their products are made
for up to eight samples at a time, for which the weights are read once; each layer at another time,
so that no sample waits for all. An output stays one chain of multiply-adds: past taps from zero,
then the present, as `batch_kernel.step` has them.
"""

from __future__ import annotations

import numpy as np

from vqwave.decode.cpu.jit import inlined, kernel
from vqwave.decode.cpu.matmul import (
    Floats,
    clear,
    convert,
    copy,
    fill_rows,
    gate,
    multiply,
    row_product,
)
from vqwave.decode.cpu.microkernels import place
from vqwave.decode.cpu.wavenet.batch_kernel import (
    add_residual,
    commit_sample,
    dequantize_skips,
    embed_input,
    output_layers,
    select_column,
    span,
    words,
)
from vqwave.decode.cpu.wavenet.state import (
    AHEAD,
    Buffers,
    ConditionWindow,
    Integers,
    PastTapCache,
    State,
)
from vqwave.decode.plan import Plan
from vqwave.decode.sampling import Temperatures


@inlined
def reach(dilation: int) -> int:
    """Samples for which a layer's past taps are made together: the largest power of two up to AHEAD
    that all of them allow.
    """
    if dilation >= 8:
        return 8
    return 4 if dilation >= 4 else max(min(dilation, 2), 1)


@inlined
def precompute(
    plan: Plan, state: State, cache: PastTapCache, layer: int, at: int, time: int, count: int
) -> None:
    """Sums over the past taps of a layer for `count` samples from `time` on, whose weights begin at
    `at`.
    """
    R, width, dilation = (
        plan.input_weights.shape[1],
        plan.dilated_bias.shape[1],
        plan.dilations[layer],
    )
    length, depth = span(plan.kernel, dilation), (plan.kernel - 1) * R
    for i in range(count):
        past = (time + i) % length
        for tap in range(plan.kernel - 1):
            copy(state.rings, (cache.ring[layer] + past) * R, cache.past, i * depth + tap * R, R)
            past += dilation
            past -= length if past >= length else 0
    y = (layer * AHEAD + (time + layer) % reach(dilation)) * width
    clear(cache.sums, y, count * width)
    weights, x, sums = place(plan.weights, at), place(cache.past, 0), place(cache.sums, y)
    multiply(weights, depth, width, count, x, depth, sums, width)


@inlined
def precompute_due(plan: Plan, state: State, cache: PastTapCache, time: int) -> None:
    """The layers whose turn comes with the sample at `time`."""
    G, R, at = plan.dilated_bias.shape[1] // 2, plan.input_weights.shape[1], 0
    for layer in range(len(plan.dilations)):
        count = reach(plan.dilations[layer])
        if (time + layer) % count == 0:
            precompute(plan, state, cache, layer, at, time, count)
        at += plan.kernel * R * 2 * G + words(plan, G * R)


@kernel
def precompute_all(plan: Plan, state: State, cache: PastTapCache) -> None:
    """The sums that earlier samples would have made, and the slot of each layer in its ring."""
    G, R, at, time = plan.dilated_bias.shape[1] // 2, plan.input_weights.shape[1], 0, state.time[0]
    for layer in range(len(plan.dilations)):
        count = reach(plan.dilations[layer])
        precompute(plan, state, cache, layer, at, time, count - (time + layer) % count)
        cache.slot[layer] = time % span(plan.kernel, plan.dilations[layer])
        at += plan.kernel * R * 2 * G + words(plan, G * R)


@inlined
def residual_at(plan: Plan, layer: int) -> int:
    """Where the weights of a layer's residual begin."""
    R, width = plan.input_weights.shape[1], plan.dilated_bias.shape[1]
    return layer * (plan.kernel * R * width + words(plan, width // 2 * R)) + plan.kernel * R * width


@kernel
def run_layer(
    plan: Plan,
    state: State,
    buffers: Buffers,
    conditions: ConditionWindow,
    cache: PastTapCache,
    layer: int,
    time: int,
) -> None:
    """One layer, from its input in buffers.present to its units."""
    width, R = plan.dilated_bias.shape[1], plan.input_weights.shape[1]
    G, dilation = width // 2, plan.dilations[layer]
    at = residual_at(plan, layer) - R * width  # of the present tap
    slot, sums = cache.slot[layer], (layer * AHEAD + (time + layer) % reach(dilation)) * width
    x = (cache.ring[layer] + slot) * R
    convert(buffers.present, 0, state.rings, x, R)
    cache.slot[layer] = slot + 1 if slot + 1 < span(plan.kernel, dilation) else 0
    row_product(plan.weights, at, R, width, state.rings, x, cache.sums, sums)
    condition_at = buffers.column[0] * conditions.columns.shape[2] + layer * width
    gate(cache.sums, sums, conditions.columns, condition_at, buffers.units, layer * G, G)


@kernel
def skips_at(plan: Plan) -> int:
    """Where the weights of the skips begin."""
    layers, width = plan.dilated_bias.shape
    R, last = plan.input_weights.shape[1], 1 if plan.skip_bias.shape[0] > 0 else 0
    return layers * plan.kernel * R * width + (layers - last) * words(plan, (width // 2) * R)


@kernel
def decode_one(
    plan: Plan,
    state: State,
    buffers: Buffers,
    conditions: ConditionWindow,
    cache: PastTapCache,
    streams: Integers,
    seed: np.uint64,
    temperatures: Temperatures,
    given: Floats,
    sampled: Floats,
    params: Floats,
) -> None:
    """`batch_kernel.decode` for one stream, bit for bit."""
    (layers, width), S, at = plan.dilated_bias.shape, plan.skip_bias.shape[0], skips_at(plan)
    precompute_all(plan, state, cache)
    for t in range(sampled.shape[1]):
        select_column(conditions, state, buffers.column)
        embed_input(plan, state, conditions, buffers.column, buffers.present)
        for layer in range(layers):
            run_layer(plan, state, buffers, conditions, cache, layer, state.time[0])
            if layer < layers - 1 or S == 0:
                add_residual(plan, buffers, layer, residual_at(plan, layer))
        if S > 0:
            fill_rows(plan.skip_bias, buffers.skip)
            row_product(
                plan.weights, at, layers * (width // 2), S, buffers.units, 0, buffers.skip, 0
            )
            dequantize_skips(plan, buffers)
        output_layers(plan, buffers, at + words(plan, layers * (width // 2) * S))
        commit_sample(
            plan,
            state,
            buffers,
            conditions,
            0,
            t,
            streams,
            seed,
            temperatures,
            given,
            sampled,
            params,
        )
        precompute_due(plan, state, cache, state.time[0])
