"""The sample loop: every layer of every stream, one sample after another, with nothing allocated and no lock held."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.arithmetic import Floats, copy, fill_rows, gate, product, rectify
from vqwave.decode.compiled import inlined, kernel
from vqwave.decode.draws import draw
from vqwave.decode.plan import CATEGORICAL, Plan, aligned
from vqwave.decode.vector import LANES, add, broadcast, fused, load, store

Integers = NDArray[np.int64]


class State(NamedTuple):
    """All that B streams must remember between samples; each stream's part stands alone, in row b of every array."""

    rings: Floats  # (B, slots, R): for each layer its last (k - 1) d inputs, the input of sample t in slot t mod (k - 1) d
    heard: Floats  # (B,) the last sample: a class number or an amplitude
    time: Integers  # (B,) samples heard

    @staticmethod
    def silent(plan: Plan, silence: float, streams: int) -> State:
        """Before the first sample: zeros in all rings; the network hears `silence` first."""
        slots = sum(span(plan.kernel, int(d)) for d in plan.dilations)
        rings = aligned((streams, slots, plan.heard.shape[1]), np.float32)
        return State(rings, np.full(streams, silence, np.float32), np.zeros(streams, np.int64))


class Buffers(NamedTuple):
    """Room for the activations of one sample of B streams."""

    taps: Floats  # (B, L k R): what each layer hears, oldest first; the present tap is the residual channels
    last: Floats  # (B, R) residual of the last layer
    activation: Floats  # (B, 2G)
    units: Floats  # (B, L G)
    skip: Floats  # (B, S)
    hidden: Floats  # (B, H)
    out: Floats  # (B, C)
    scratch: Floats  # (C,)
    column: Integers  # (B,) which column of the condition each stream is in

    @staticmethod
    def of(plan: Plan, streams: int) -> Buffers:
        residual, (layers, activation) = plan.heard.shape[1], plan.dilated_bias.shape
        widths = (
            layers * plan.kernel * residual,
            residual,
            activation,
            layers * activation // 2,
            len(plan.skip_bias),
            len(plan.hidden_bias),
            len(plan.out_bias),
        )
        rows = [aligned((streams, width), np.float32) for width in widths]
        return Buffers(*rows, aligned((len(plan.out_bias),), np.float32), np.zeros(streams, np.int64))


class Told(NamedTuple):
    """What B streams are told over a stretch of time: columns that begin at `first` and hold; the last one for ever."""

    columns: Floats  # (B, n, L 2G): projected, with the bias of the dilated convolution
    first: Integers  # (B,) number of the first column
    hold: int  # samples a column


@kernel
def span(taps: int, dilation: int) -> int:
    """Slots of a layer's ring; one even where a single tap needs none."""
    return max((taps - 1) * dilation, 1)


@kernel
def project(plan: Plan, features: Floats, columns: Floats) -> None:
    """features (N, condition channels) -> columns (N, L 2G): every layer's projection plus its bias."""
    layers, depth, width = plan.projection.shape
    fill_rows(plan.dilated_bias, columns)
    for layer in range(layers):
        product(plan.projection, layer * depth * width, depth, width, features, 0, columns, layer * width)


@kernel
def listen(plan: Plan, state: State, taps: Floats) -> None:
    """The last sample of each stream -> the residual channels that enter the first layer."""
    width = plan.heard.shape[1]
    for b in range(taps.shape[0]):
        at = b * taps.shape[1] + (plan.kernel - 1) * width
        if plan.head.family == CATEGORICAL:
            copy(plan.heard, np.int64(state.heard[b]) * width, taps, at, width)
        else:
            amplitude = broadcast(state.heard[b])
            for i in range(0, width, LANES):
                store(taps, at + i, fused(load(plan.heard, i), amplitude, load(plan.heard, width + i)))


@kernel
def recall(plan: Plan, state: State, taps: Floats) -> None:
    """Every layer's past taps, from the rings; all at once, so that one wait for memory is the wait for all."""
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
def remember(plan: Plan, state: State, taps: Floats) -> None:
    """Every layer's present, the last of its taps, into its ring, where the oldest stood."""
    slots, width = state.rings.shape[1], state.rings.shape[2]
    for b in range(taps.shape[0]):
        ring, at = b * slots * width, b * taps.shape[1] + (plan.kernel - 1) * width
        for dilation in plan.dilations:
            length = span(plan.kernel, dilation)
            copy(taps, at, state.rings, ring + state.time[b] % length * width, width)
            at += plan.kernel * width
            ring += length * width


@kernel
def tell(told: Told, column: Integers, layer: int, activation: Floats) -> None:
    """activation = the condition's projection for this layer, from each stream's column."""
    count, row, width = told.columns.shape[1], told.columns.shape[2], activation.shape[1]
    for b in range(activation.shape[0]):
        copy(told.columns, (b * count + column[b]) * row + layer * width, activation, b * width, width)


@kernel
def locate(told: Told, state: State, column: Integers) -> None:
    """Which column of the condition holds at each stream's time."""
    for b in range(len(column)):
        column[b] = min(state.time[b] // told.hold - told.first[b], told.columns.shape[1] - 1)


@inlined
def residual(plan: Plan, layer: int, at: int, buffers: Buffers, x_from: int, y: Floats, y_from: int) -> None:
    """y = x + residual(units): the next layer's present, from this one's."""
    R, G = plan.residual_bias.shape[1], plan.dilated_bias.shape[1] // 2
    for b in range(y.shape[0]):
        for i in range(0, R, LANES):
            x = load(buffers.taps, b * buffers.taps.shape[1] + x_from + i)
            store(y, b * y.shape[1] + y_from + i, add(x, load(plan.residual_bias, layer * R + i)))
    product(plan.weights, at, G, R, buffers.units, layer * G, y, y_from)


@kernel
def step(plan: Plan, state: State, buffers: Buffers, told: Told) -> None:
    """One sample of every stream: from the last sample heard to the head's parameters, in buffers.out."""
    layers, width = plan.dilated_bias.shape
    R, G, S = plan.heard.shape[1], width // 2, plan.skip_bias.shape[0]
    H, C = plan.hidden_bias.shape[0], plan.out_bias.shape[0]
    taps, at = plan.kernel * R, 0  # width of a layer's taps; place in the weights
    recall(plan, state, buffers.taps)
    listen(plan, state, buffers.taps)
    locate(told, state, buffers.column)
    for layer in range(layers):
        tell(told, buffers.column, layer, buffers.activation)
        product(plan.weights, at, taps, width, buffers.taps, layer * taps, buffers.activation, 0)
        at += taps * width
        gate(buffers.activation, buffers.units, layer * G)
        present, following = (layer + 1) * taps - R, (layer + 2) * taps - R
        if layer < layers - 1:
            residual(plan, layer, at, buffers, present, buffers.taps, following)
            at += G * R
        elif S == 0:
            residual(plan, layer, at, buffers, present, buffers.last, 0)
            at += G * R
    remember(plan, state, buffers.taps)
    read = buffers.last
    if S > 0:
        read = buffers.skip
        fill_rows(plan.skip_bias, read)
        product(plan.weights, at, layers * G, S, buffers.units, 0, read, 0)
        at += layers * G * S
    rectify(read)
    fill_rows(plan.hidden_bias, buffers.hidden)
    product(plan.weights, at, read.shape[1], H, read, 0, buffers.hidden, 0)
    at += read.shape[1] * H
    rectify(buffers.hidden)
    fill_rows(plan.out_bias, buffers.out)
    product(plan.weights, at, H, C, buffers.hidden, 0, buffers.out, 0)


@kernel
def decode(
    plan: Plan,
    state: State,
    buffers: Buffers,
    told: Told,
    streams: Integers,
    seed: np.uint64,
    temperature: float,
    given: Floats,
    heard: Floats,
    params: Floats,
) -> None:
    """Moves B streams on by the T samples of heard (B, T), which it fills with class numbers or amplitudes.

    While t < given.shape[1], sample t is given (B, n); then it is drawn. While t < params.shape[1], the head's parameters go
    to params (B, n, C).
    """
    B, T = heard.shape
    for t in range(T):
        step(plan, state, buffers, told)
        for b in range(B):
            if t < params.shape[1]:
                for c in range(params.shape[2]):
                    params[b, t, c] = buffers.out[b, c]
            if t < given.shape[1]:
                x = np.float64(given[b, t])
            else:
                x = draw(plan.head, buffers.out, b, buffers.scratch, temperature, seed, streams[b], state.time[b])
            heard[b, t] = x
            state.heard[b] = x
            state.time[b] += 1
