"""The CUDA kernel: one program keeps a tile of streams from their first sample to their last, and
nothing is launched between.

A program reads its weights from the second-level cache, once a sample for all its streams; its
activations never leave the chip; each layer's past lies in a ring in global memory. A barrier a
sample is all that its threads wait for: within a sample no ring slot is both read and written. A
stream's arithmetic depends neither on its place in the tile nor on the others. What a linear
predictor adds is in `prediction.py`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from vqwave.decode import plan
from vqwave.decode.cuda.packing import Weights
from vqwave.decode.cuda.prediction import add_inputs, commit, predict, shift_locations
from vqwave.decode.cuda.state import ChunkIO, ConditionWindow, State

CATEGORICAL = tl.constexpr(plan.CATEGORICAL)
GAUSSIAN = tl.constexpr(plan.GAUSSIAN)
# 1.5 * 2**23: adding and taking it away rounds to the nearest integer, ties to even
TO_EVEN = tl.constexpr(12582912.0)


@triton.jit
def product(x: tl.tensor, w: tl.tensor, y: tl.tensor, tuning: tl.constexpr) -> tl.tensor:
    """y + x w: x rounded to the weights' type, summed in float32."""
    x = x.to(w.dtype)
    if tuning.interpreted:
        x = x.to(tl.float32)
        w = w.to(tl.float32)
    return tl.dot(x, w, y, input_precision=tuning.precision)


@triton.jit
def matrix(start: tl.tensor, rows: tl.constexpr, columns: tl.constexpr) -> tl.tensor:
    """(rows, columns), stored one row after another."""
    return tl.load(start + tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :])


@triton.jit
def embed_input(weights: Weights, last: tl.tensor, shape: tl.constexpr) -> tl.tensor:
    """last (tile,) class numbers or amplitudes -> the residual channels that enter the first layer,
    (tile, R); a predictor adds its own.
    """
    r = tl.arange(0, shape.residual)
    if shape.family == CATEGORICAL:
        return tl.load(
            weights.input_weights + last.to(tl.int32)[:, None] * shape.residual + r[None, :]
        )
    else:
        weight, bias = (
            tl.load(weights.input_weights + r),
            tl.load(weights.input_weights + shape.inputs * shape.residual + r),
        )
        return last[:, None] * weight[None, :] + bias[None, :]


@triton.jit
def gated(a: tl.tensor, tile: tl.constexpr, gate: tl.constexpr) -> tl.tensor:
    """tanh(f) sigmoid(g), of f and g side by side: (tile, 2G) -> (tile, G).

    van den Oord et al., 2016, eq. 5.
    """
    f, g = tl.split(tl.reshape(a, (tile, gate, 2)))
    return (2.0 * tl.sigmoid(2.0 * f) - 1.0) * tl.sigmoid(g)


@triton.jit
def layer(
    weights: Weights,
    number: tl.tensor,
    rings: tl.tensor,
    column: tl.tensor,
    x: tl.tensor,
    skip: tl.tensor,
    now: tl.tensor,
    alive: tl.tensor,
    shape: tl.constexpr,
    tuning: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """One layer: x (tile, R), the sum of skips (tile, S) before -> after; rings and column (tile,
    1) point to each stream's.
    """
    R: tl.constexpr = shape.residual
    W: tl.constexpr = 2 * shape.gate
    dilation = 1 << (number % shape.cycle)
    # dilations of the layers before
    before = number // shape.cycle * ((1 << shape.cycle) - 1) + dilation - 1
    ring = rings + before * shape.span * R + tl.arange(0, R)[None, :]
    last_slot = dilation * shape.span - 1  # a mask: all ones
    taps = weights.dilated + number * shape.kernel * R * W
    a = tl.load(column + number * W + tl.arange(0, W)[None, :], mask=alive, other=0.0).to(
        tl.float32
    )
    for tap in tl.static_range(shape.kernel - 1):
        slot = (now - (shape.kernel - 1 - tap) * dilation) & last_slot
        past = tl.load(ring + slot[:, None] * R, mask=alive, other=0.0)
        a = product(past, matrix(taps + tap * R * W, R, W), a, tuning)
    a = product(x, matrix(taps + (shape.kernel - 1) * R * W, R, W), a, tuning)
    if shape.kernel > 1:
        tl.store(ring + (now & last_slot)[:, None] * R, x.to(rings.dtype.element_ty), mask=alive)
    # Triton passes tensors as pointers, whose dtype has an element's
    z = gated(a, tuning.tile, shape.gate).to(weights.residual.dtype.element_ty)  # type: ignore[attr-defined]
    bias = tl.load(weights.residual_bias + number * R + tl.arange(0, R))
    x = product(
        z,
        matrix(weights.residual + number * shape.gate * R, shape.gate, R),
        x + bias[None, :],
        tuning,
    )
    if shape.skip > 0:
        skip = product(
            z,
            matrix(weights.skip + number * shape.gate * shape.skip, shape.gate, shape.skip),
            skip,
            tuning,
        )
    return x, skip


@triton.jit
def output_layers(
    weights: Weights, x: tl.tensor, shape: tl.constexpr, tuning: tl.constexpr
) -> tl.tensor:
    """ReLU - 1x1 - ReLU - 1x1: (tile, S or R) -> the head's parameters (tile, C); some hidden
    channels at a time.
    """
    x = tl.maximum(x, 0.0).to(weights.hidden.dtype.element_ty)  # type: ignore[attr-defined]
    i, h, c = tl.arange(0, shape.read), tl.arange(0, tuning.hidden), tl.arange(0, shape.out)
    out = (
        tl.full((tuning.tile, shape.out), 0.0, tl.float32) + tl.load(weights.out_bias + c)[None, :]
    )
    for first in tl.range(0, shape.hidden, tuning.hidden, num_stages=tuning.stages):
        bias = tl.load(weights.hidden_bias + first + h)
        hidden = tl.full((tuning.tile, tuning.hidden), 0.0, tl.float32) + bias[None, :]
        hidden = product(
            x,
            tl.load(weights.hidden + i[:, None] * shape.hidden + (first + h)[None, :]),
            hidden,
            tuning,
        )
        out = product(
            tl.maximum(hidden, 0.0),
            matrix(weights.out + first * shape.out, tuning.hidden, shape.out),
            out,
            tuning,
        )
    return out


@triton.jit
def unit(word: tl.tensor) -> tl.tensor:
    """23 bits of a 32-bit word, at the middle of their interval: in (0, 1)."""
    return ((word >> 9).to(tl.float32) + 0.5) * (1.0 / 8388608.0)


@triton.jit
def choose(weight: tl.tensor, u: tl.tensor, choices: tl.constexpr) -> tl.tensor:
    """Inverse CDF: weights (tile, C) of the choices, zero for padding, and u (tile,) -> a choice
    each, int32.
    """
    reached = tl.cumsum(weight, 1)
    threshold = u * tl.sum(weight, 1)
    return tl.minimum(tl.sum((reached <= threshold[:, None]).to(tl.int32), 1), choices - 1)


@triton.jit
def pick(params: tl.tensor, channel: tl.tensor, channels: tl.constexpr) -> tl.tensor:
    """params (tile, C), channel (tile,) -> that channel of each row."""
    return tl.sum(tl.where(tl.arange(0, channels)[None, :] == channel[:, None], params, 0.0), 1)


@triton.jit
def draw(
    params: tl.tensor,
    chunk: ChunkIO,
    stream: tl.tensor,
    time: tl.tensor,
    temperature: tl.tensor,
    scale: tl.tensor,
    shape: tl.constexpr,
) -> tl.tensor:
    """Each stream's next sample, (tile,) float32: as in `distributions.py`, from the words of
    `philox.py`; scale, one for all or (tile,), is a factor on the component's.
    """
    high = (stream >> 32).to(tl.int32)
    a, b, c, _ = tl.philox(
        tl.load(chunk.seed),
        time.to(tl.int32),
        stream.to(tl.int32),
        (time >> 32).to(tl.int32),
        high,
    )
    channel = tl.arange(0, shape.out)[None, :]
    location = tl.zeros_like(high)
    if shape.choices > 1:
        logits = tl.where(channel < shape.choices, params, -1e30)
        weight = tl.exp((logits - tl.max(logits, 1)[:, None]) / temperature)
        location = choose(weight, unit(a), shape.choices)
    if shape.family == CATEGORICAL:
        return location.to(tl.float32)
    else:
        if shape.choices > 1:
            location += shape.choices
        log_scale = tl.maximum(
            pick(params, location + shape.choices, shape.out), shape.min_log_scale
        )
        if shape.family == GAUSSIAN:
            standard = tl.sqrt(-2.0 * tl.log(unit(b))) * tl.cos(6.283185307179586 * unit(c))
        else:
            standard = tl.log(unit(b) / (1.0 - unit(b)))
        x = pick(params, location, shape.out) + tl.exp(log_scale) * scale * standard
        x = tl.minimum(tl.maximum(x, -1.0), 1.0)
        if shape.level > 0.0:
            x = tl.minimum(
                (x * (1.0 / shape.level) + TO_EVEN - TO_EVEN) * shape.level, 1.0 - shape.level
            )
        return x


# else another batch or length would be compiled anew
@triton.jit(do_not_specialize=["B", "T", "N", "hold"])
def decode(
    weights: Weights,
    state: State,
    conditions: ConditionWindow,
    chunk: ChunkIO,
    B: int,
    T: int,
    N: int,
    hold: int,
    slots: int,
    temperature: float,
    scale: float,
    voiced: float,
    shape: tl.constexpr,
    task: tl.constexpr,
    tuning: tl.constexpr,
) -> None:
    """Advances B streams by T samples, or by fewer where fewer are left; the condition has N
    columns of `hold` samples each. The factor on scales is `voiced` in voiced frames, else `scale`.
    """
    b = tl.program_id(0) * tuning.tile + tl.arange(0, tuning.tile)
    inside = b < B
    row = b.to(tl.int64)
    last = tl.load(state.last + b, mask=inside, other=0.0)
    time = tl.load(state.time + b, mask=inside, other=0)
    left = tl.minimum(tl.load(chunk.left + b, mask=inside, other=0), T)
    stream = tl.load(chunk.streams + b, mask=inside, other=0)
    place = tl.load(conditions.place + b, mask=inside, other=0)
    rings = state.rings + (row * slots * shape.residual)[:, None]
    for t in range(T):
        alive = t < left
        x = embed_input(weights, last, shape)
        index = tl.minimum((place + t) // hold, N - 1)
        at = row * N + index
        column = conditions.columns + (at * (shape.layers * 2 * shape.gate))[:, None]
        now = (time + t).to(tl.int32)
        if shape.order > 0:
            period = tl.zeros_like(last)
            if shape.pitch_taps > 0:
                period = tl.load(conditions.periods + (index * B + b), mask=alive, other=0.0)
            prediction = predict(state, conditions, b, B, index, now, alive, shape)
            x = add_inputs(weights, state, b, B, now, alive, period, prediction, x, shape)
        skip = (
            tl.full((tuning.tile, shape.read), 0.0, tl.float32)
            + tl.load(weights.skip_bias + tl.arange(0, shape.read))[None, :]
        )
        for number in tl.range(0, shape.layers, num_stages=tuning.stages):
            x, skip = layer(
                weights, number, rings, column, x, skip, now, alive[:, None], shape, tuning
            )
        if shape.skip == 0:
            skip = x
        params = output_layers(weights, skip, shape, tuning)
        if shape.order > 0:
            params = shift_locations(params, prediction, shape)
        if task.keep:
            c = tl.arange(0, shape.out)
            tl.store(
                chunk.params + ((row * T + t) * shape.out)[:, None] + c[None, :],
                params,
                mask=alive[:, None],
            )
        if task.forced:
            following = tl.load(chunk.given + row * T + t, mask=alive, other=0.0)
        else:
            factor = scale
            if shape.pitch_taps > 0:
                factor = tl.where(period > 0, voiced, scale)
            following = draw(params, chunk, stream, time + t, temperature, factor, shape)
            tl.store(chunk.sampled + row * T + t, following, mask=alive)
        last = tl.where(alive, following, last)
        if shape.order > 0:
            commit(state, b, B, now, alive, following, prediction, shape)
        # what this sample put into the rings, the next one reads in other threads
        tl.debug_barrier()
    tl.store(state.last + b, last, mask=inside)
    tl.store(state.time + b, time + left, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def project(
    features: tl.tensor,
    projection: tl.tensor,
    bias: tl.tensor,
    columns: tl.tensor,
    rows: int,
    width: int,
    depth: tl.constexpr,
    tile: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """features (rows, depth) -> columns (rows, width): every layer's projection plus its bias,
    whatever else is in the batch.
    """
    row = (tl.program_id(0) * tile + tl.arange(0, tile)).to(tl.int64)
    w = tl.program_id(1) * block + tl.arange(0, block)
    inside = row[:, None] < rows
    y = tl.full((tile, block), 0.0, tl.float32) + tl.load(bias + w)[None, :]
    for first in range(0, depth, 16):
        k = first + tl.arange(0, 16)
        x = tl.load(features + row[:, None] * depth + k[None, :], mask=inside, other=0.0)
        y = tl.dot(
            x, tl.load(projection + k[:, None] * width + w[None, :]), y, input_precision="ieee"
        )
    tl.store(
        columns + row[:, None] * width + w[None, :], y.to(columns.dtype.element_ty), mask=inside
    )


@triton.jit(do_not_specialize=["words", "turns"])
def fetch(numbers: tl.tensor, sums: tl.tensor, words: int, turns: int, block: tl.constexpr) -> None:
    """Reads all `numbers` (words,) int32 `turns` times, from the second-level cache: what bringing
    weights costs by itself.
    """
    total = tl.full((block,), 0, tl.int32)
    for _ in range(turns):
        for first in range(0, words, block):
            total += tl.load(numbers + first + tl.arange(0, block), cache_modifier=".cg")
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))
