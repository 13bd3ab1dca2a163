"""The sample loop of many streams: every layer of each, one sample after another, with nothing
allocated and no lock held.
"""

from __future__ import annotations

import numpy as np

from vqwave.decode.cpu.head_sampling import draw
from vqwave.decode.cpu.jit import inlined, kernel
from vqwave.decode.cpu.matmul import (
    Floats,
    Numbers,
    clear,
    convert,
    copy,
    fill_rows,
    gate,
    product,
    rectify,
)
from vqwave.decode.cpu.microkernels import put
from vqwave.decode.cpu.simd import LANES, add, broadcast, fused, load, load_integers
from vqwave.decode.cpu.wavenet.prediction import add_prediction, shift_locations, voiced
from vqwave.decode.cpu.wavenet.state import (
    Buffers,
    ConditionWindow,
    Integers,
    State,
    ring_slots,
)
from vqwave.decode.plan import CATEGORICAL, Plan
from vqwave.decode.sampling import Temperatures

span = kernel(ring_slots)


@kernel
def project(plan: Plan, features: Floats, columns: Floats) -> None:
    """features (N, condition channels) -> columns (N, L 2G): every layer's projection plus its
    bias.
    """
    layers, depth, width = plan.projection.shape
    fill_rows(plan.dilated_bias, columns)
    for layer in range(layers):
        product(
            plan.projection,
            layer * depth * width,
            depth,
            width,
            features,
            0,
            columns,
            layer * width,
        )


@inlined
def embed_input(
    plan: Plan, state: State, conditions: ConditionWindow, column: Integers, present: Floats
) -> None:
    """The last sample of each stream -> what enters the first layer, present (B, R).

    column (B,): see `select_column`.
    """
    width = plan.input_weights.shape[1]
    bias = plan.input_weights.size - width
    for b in range(present.shape[0]):
        if plan.head.family == CATEGORICAL:
            copy(plan.input_weights, np.int64(state.last[b]) * width, present, b * width, width)
        else:
            amplitude = broadcast(state.last[b])
            for i in range(0, width, LANES):
                entered = fused(
                    load(plan.input_weights, i), amplitude, load(plan.input_weights, bias + i)
                )
                put(present, b * width + i, entered)
            if plan.predictor.order > 0:
                add_prediction(plan, state, conditions.predictors, b, column[b], present)


@kernel
def gather_taps(plan: Plan, state: State, taps: Numbers) -> None:
    """Every layer's past taps, from the rings; all at once, so that waits for memory overlap."""
    slots, width = state.rings.shape[1], state.rings.shape[2]
    for b in range(taps.shape[0]):
        ring, at = b * slots * width, b * taps.shape[1]
        for dilation in plan.dilations:
            length = span(plan.kernel, dilation)
            past = state.time[b] % length
            for _ in range(plan.kernel - 1):
                copy(state.rings, ring + past * width, taps, at, width)
                at += width
                past += dilation
                past -= length if past >= length else 0
            at += width
            ring += length * width


@kernel
def push_taps(plan: Plan, state: State, taps: Numbers) -> None:
    """Every layer's present, the last of its taps, into its ring, in place of the oldest."""
    slots, width = state.rings.shape[1], state.rings.shape[2]
    for b in range(taps.shape[0]):
        ring, at = b * slots * width, b * taps.shape[1] + (plan.kernel - 1) * width
        for dilation in plan.dilations:
            length = span(plan.kernel, dilation)
            copy(taps, at, state.rings, ring + state.time[b] % length * width, width)
            at += plan.kernel * width
            ring += length * width


@inlined
def select_column(conditions: ConditionWindow, state: State, column: Integers) -> None:
    """Which column of the condition holds at each stream's time."""
    for b in range(len(column)):
        column[b] = min(
            state.time[b] // conditions.hold - conditions.first[b], conditions.columns.shape[1] - 1
        )


@kernel
def words(plan: Plan, numbers: int) -> int:
    """Array elements that so many weights of units take."""
    return numbers // 2 if plan.residual_scale.shape[0] > 0 else numbers


@inlined
def add_residual(plan: Plan, buffers: Buffers, layer: int, at: int) -> None:
    """The next layer's input: the present one plus the residual of this layer's units, whose
    weights begin at `at`.
    """
    (B, R), G = buffers.present.shape, plan.dilated_bias.shape[1] // 2
    if plan.residual_scale.shape[0] == 0:
        for b in range(B):
            for i in range(0, R, LANES):
                put(
                    buffers.present,
                    b * R + i,
                    add(load(buffers.present, b * R + i), load(plan.residual_bias, layer * R + i)),
                )
        product(plan.weights, at, G, R, buffers.units, layer * G, buffers.present, 0)
        return
    for b in range(B):
        copy(plan.residual_bias, layer * R, buffers.inner, b * R, R)
    product(plan.weights, at, G, R, buffers.units, layer * G, buffers.inner, 0)
    for b in range(B):
        for i in range(0, R, LANES):
            begun = add(
                load(buffers.present, b * R + i), load(plan.residual_scale, (2 * layer + 1) * R + i)
            )
            residual = fused(
                load_integers(buffers.inner, b * R + i),
                load(plan.residual_scale, 2 * layer * R + i),
                begun,
            )
            put(buffers.present, b * R + i, residual)


@inlined
def dequantize_skips(plan: Plan, buffers: Buffers) -> None:
    """Sums of integers, once they are complete, become skips."""
    if plan.skip_scale.shape[0] > 0:
        B, S = buffers.skip.shape
        for b in range(B):
            for i in range(0, S, LANES):
                total = load_integers(buffers.skip, b * S + i)
                put(
                    buffers.skip,
                    b * S + i,
                    fused(total, load(plan.skip_scale, i), load(plan.skip_scale, S + i)),
                )


@kernel
def step(plan: Plan, state: State, buffers: Buffers, conditions: ConditionWindow) -> None:
    """One sample of every stream: from the last sample to the head's parameters, in
    buffers.out.
    """
    layers, width = plan.dilated_bias.shape
    R, G, S = plan.input_weights.shape[1], width // 2, plan.skip_bias.shape[0]
    # width of a layer's taps; place in the weights
    B, taps, at = buffers.out.shape[0], plan.kernel * R, 0
    row = conditions.columns.shape[2]
    gather_taps(plan, state, buffers.taps)
    select_column(conditions, state, buffers.column)
    embed_input(plan, state, conditions, buffers.column, buffers.present)
    for layer in range(layers):
        for b in range(B):
            convert(buffers.present, b * R, buffers.taps, (b * layers + layer + 1) * taps - R, R)
        clear(buffers.activation, 0, buffers.activation.size)
        product(plan.weights, at, taps, width, buffers.taps, layer * taps, buffers.activation, 0)
        at += taps * width
        for b in range(B):
            condition_at = (
                b * conditions.columns.shape[1] + buffers.column[b]
            ) * row + layer * width
            gate(
                buffers.activation,
                b * width,
                conditions.columns,
                condition_at,
                buffers.units,
                (b * layers + layer) * G,
                G,
            )
        if layer < layers - 1 or S == 0:
            add_residual(plan, buffers, layer, at)
            at += words(plan, G * R)
    push_taps(plan, state, buffers.taps)
    if S > 0:
        fill_rows(plan.skip_bias, buffers.skip)
        product(plan.weights, at, layers * G, S, buffers.units, 0, buffers.skip, 0)
        dequantize_skips(plan, buffers)
        at += words(plan, layers * G * S)
    output_layers(plan, buffers, at)


@inlined
def output_layers(plan: Plan, buffers: Buffers, at: int) -> None:
    """The output layers, whose weights begin at `at`: ReLU - 1x1 - ReLU - 1x1, from the skips or
    else the last residual.
    """
    H, C = plan.hidden_bias.shape[0], plan.out_bias.shape[0]
    if buffers.skip.shape[1] > 0:
        rectify(buffers.skip, buffers.read)
    else:
        rectify(buffers.present, buffers.read)
    fill_rows(plan.hidden_bias, buffers.hidden)
    depth = buffers.read.shape[1]
    product(plan.weights, at, depth, H, buffers.read, 0, buffers.hidden, 0)
    rectify(buffers.hidden, buffers.hidden_read)
    fill_rows(plan.out_bias, buffers.out)
    product(plan.weights, at + depth * H, H, C, buffers.hidden_read, 0, buffers.out, 0)


@kernel
def decode(
    plan: Plan,
    state: State,
    buffers: Buffers,
    conditions: ConditionWindow,
    streams: Integers,
    seed: np.uint64,
    temperatures: Temperatures,
    given: Floats,
    sampled: Floats,
    params: Floats,
) -> None:
    """Advances B streams by the T samples of sampled (B, T), which it fills with class numbers or
    amplitudes.

    While t < given.shape[1], sample t is given (B, n); then it is drawn. While t < params.shape[1],
    the head's parameters go to params (B, n, C).
    """
    B, T = sampled.shape
    for t in range(T):
        step(plan, state, buffers, conditions)
        for b in range(B):
            commit_sample(
                plan,
                state,
                buffers,
                conditions,
                b,
                t,
                streams,
                seed,
                temperatures,
                given,
                sampled,
                params,
            )


@inlined
def commit_sample(
    plan: Plan,
    state: State,
    buffers: Buffers,
    conditions: ConditionWindow,
    b: int,
    t: int,
    streams: Integers,
    seed: np.uint64,
    temperatures: Temperatures,
    given: Floats,
    sampled: Floats,
    params: Floats,
) -> None:
    """Sample t of stream b, given or drawn, becomes its last one; see `decode`."""
    if plan.predictor.order > 0:
        shift_locations(plan, state.prediction[b, 0], buffers.out, b)
    if t < params.shape[1]:
        for c in range(params.shape[2]):
            params[b, t, c] = buffers.out[b, c]
    if t < given.shape[1]:
        x = np.float64(given[b, t])
    else:
        periodic = voiced(plan, conditions.predictors, b, buffers.column[b])
        scale = temperatures.voiced if periodic else temperatures.scale
        choice, now = temperatures.choice, state.time[b]
        x = draw(plan.head, buffers.out, b, buffers.scratch, choice, scale, seed, streams[b], now)
    sampled[b, t] = x
    state.last[b] = x
    state.time[b] += 1
