r"""Linear prediction in the CUDA kernel: `nn.linear_prediction`, a sample of a tile of streams at a
time.

.. math:: p_t = \sum_{k=1}^{P} a_k(t)\, x_{t-k}, \qquad e_t = x_t - p_t

x_t is the sample as it was emitted: clipped and rounded. All of it is float32, whatever the type of
the weights, in the order of the CPU kernels. p_t is one chain of fused multiply-adds from zero, k
ascending: a compiler may lay out the tile as it likes, the bits stay. The first layer's input goes
on from bias and x_{t-1} by one more chain, over e_{t-1}, the pitch taps from the oldest on, and
p_t. Both rings have a slot more than is read: what a sample writes is not read before the barrier
at its end.

A tensor here holds a number of all streams side by side, so that a tile reads neighbours.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vqwave.decode.cuda.packing import Weights
from vqwave.decode.cuda.state import ConditionWindow, State


@triton.jit
def predict(
    state: State,
    conditions: ConditionWindow,
    b: tl.tensor,
    B: tl.tensor,
    column: tl.tensor,
    now: tl.tensor,
    alive: tl.tensor,
    shape: tl.constexpr,
) -> tl.tensor:
    """p_t of streams b of B, (tile,); column and time `now` of each, (tile,)."""
    order: tl.constexpr = shape.order
    a = conditions.coefficients + (column * order * B + b)
    prediction = tl.zeros_like(now).to(tl.float32)
    for k in tl.static_range(order):
        slot = (now - (k + 1)) & (shape.sample_slots - 1)
        x = tl.load(state.samples + (slot * B + b), mask=alive, other=0.0)
        prediction = tl.fma(tl.load(a, mask=alive, other=0.0), x, prediction)
        a += B
    return prediction


@triton.jit
def residual_before(
    state: State,
    b: tl.tensor,
    B: tl.tensor,
    now: tl.tensor,
    lag: tl.tensor,
    there: tl.tensor,
    shape: tl.constexpr,
) -> tl.tensor:
    """e_{t - lag} of each stream, (tile,), or 0 where it is not `there`. The ring holds lags from 1
    to the longest; others are clamped to these.
    """
    lag = tl.minimum(tl.maximum(lag, 1), shape.longest_lag)
    slot = (now - lag) & (shape.residual_slots - 1)
    return tl.load(state.residuals + (slot * B + b), mask=there, other=0.0)


@triton.jit
def add_input(
    weights: Weights, number: tl.constexpr, value: tl.tensor, x: tl.tensor, shape: tl.constexpr
) -> tl.tensor:
    """x (tile, R) plus scalar input `number`, (tile,), times its weights."""
    weight = tl.load(weights.input_weights + number * shape.residual + tl.arange(0, shape.residual))
    return tl.fma(value[:, None], weight[None, :], x)


@triton.jit
def add_inputs(
    weights: Weights,
    state: State,
    b: tl.tensor,
    B: tl.tensor,
    now: tl.tensor,
    alive: tl.tensor,
    period: tl.tensor,
    prediction: tl.tensor,
    x: tl.tensor,
    shape: tl.constexpr,
) -> tl.tensor:
    """The first layer's input x (tile, R), of which bias and x_{t-1} are there, with the others.
    period (tile,) in samples, 0 where unvoiced.
    """
    taps: tl.constexpr = shape.pitch_taps
    newest = tl.zeros_like(now) + 1
    x = add_input(weights, 1, residual_before(state, b, B, now, newest, alive, shape), x, shape)
    voiced = alive & (period > 0)
    oldest = period.to(tl.int32) + taps // 2
    for tap in tl.static_range(taps):
        e = residual_before(state, b, B, now, oldest - tap, voiced, shape)
        x = add_input(weights, 2 + tap, e, x, shape)
    return add_input(weights, 2 + taps, prediction, x, shape)


@triton.jit
def shift_locations(params: tl.tensor, prediction: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    """params (tile, C) of a location-scale head, the prediction added to all locations."""
    first: tl.constexpr = shape.choices if shape.choices > 1 else 0
    channel = tl.arange(0, shape.out)[None, :]
    location = (channel >= first) & (channel < first + shape.choices)
    return tl.where(location, params + prediction[:, None], params)


@triton.jit
def commit(
    state: State,
    b: tl.tensor,
    B: tl.tensor,
    now: tl.tensor,
    alive: tl.tensor,
    x: tl.tensor,
    prediction: tl.tensor,
    shape: tl.constexpr,
) -> None:
    """Sample x_t (tile,) and its residual become the newest of their rings."""
    slot = now & (shape.sample_slots - 1)
    tl.store(state.samples + (slot * B + b), x, mask=alive)
    slot = now & (shape.residual_slots - 1)
    tl.store(state.residuals + (slot * B + b), x - prediction, mask=alive)
