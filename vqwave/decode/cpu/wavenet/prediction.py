r"""Linear prediction in the sample loop: `nn.linear_prediction`, a sample of a stream at a time.

.. math:: p_t = \sum_{k=1}^{P} a_k(t)\, x_{t-k}, \qquad e_t = x_t - p_t

x_t is the sample as it was emitted: clipped and rounded. All of it is float32, whatever the
precision of the weights. p_t is one chain of fused multiply-adds from zero, k ascending. The first
layer's input is one chain from its bias, over x_{t-1}, e_{t-1}, the pitch taps from the oldest on,
and p_t. p_t is added to each location that the output layers made. So the bits depend on no batch,
thread or chunk.
"""

from __future__ import annotations

import numpy as np

from vqwave.decode.cpu.jit import inlined
from vqwave.decode.cpu.matmul import Floats
from vqwave.decode.cpu.microkernels import put
from vqwave.decode.cpu.simd import LANES, broadcast, fused, fused_scalar, load
from vqwave.decode.cpu.wavenet.state import State
from vqwave.decode.plan import Plan


@inlined
def predict(state: State, columns: Floats, b: int, column: int) -> None:
    """Adds the last sample x_{t-1} of stream b to its past, and predicts x_t.

    columns (B, n, P or P + 1): coefficients and, with pitch taps, the period in samples.
    """
    slots, last = state.residuals.shape[1], state.last[b]
    state.residuals[b, (state.time[b] + slots - 1) % slots] = last - state.prediction[b, 0]
    prediction = np.float32(0.0)
    for k in range(state.samples.shape[1]):
        prediction = fused_scalar(columns[b, column, k], last, prediction)
        last, state.samples[b, k] = state.samples[b, k], last
    state.prediction[b, 0] = prediction


@inlined
def voiced(plan: Plan, columns: Floats, b: int, column: int) -> bool:
    """Whether a column is of a voiced frame; never without pitch taps. columns as in `predict`."""
    if plan.predictor.pitch_taps == 0:
        return False
    return columns[b, column, plan.predictor.order] > 0


@inlined
def residual_before(state: State, b: int, lag: int) -> np.float32:
    """e_{t - lag}. The ring holds lags from 1 to its length; others are clamped to these."""
    slots = state.residuals.shape[1]
    return state.residuals[b, (state.time[b] + slots - max(min(lag, slots), 1)) % slots]


@inlined
def add_input(plan: Plan, row: int, value: np.float32, present: Floats, b: int) -> None:
    """present[b] += row `row` of the first layer's input weights times value."""
    width, lanes = plan.input_weights.shape[1], broadcast(value)
    for i in range(0, width, LANES):
        sums = load(present, b * width + i)
        put(present, b * width + i, fused(load(plan.input_weights, row * width + i), lanes, sums))


@inlined
def add_prediction(
    plan: Plan,
    state: State,
    columns: Floats,
    b: int,
    column: int,
    present: Floats,
) -> None:
    """The inputs after x_{t-1}, added to stream b of present (B, R); columns as in `predict`."""
    predict(state, columns, b, column)
    taps = plan.predictor.pitch_taps
    add_input(plan, 1, residual_before(state, b, 1), present, b)
    if taps > 0:
        period = columns[b, column, plan.predictor.order]
        oldest = np.int64(period) + taps // 2
        for tap in range(taps):
            e = residual_before(state, b, oldest - tap) if period > 0 else np.float32(0.0)
            add_input(plan, 2 + tap, e, present, b)
    add_input(plan, 2 + taps, state.prediction[b, 0], present, b)


@inlined
def shift_locations(plan: Plan, prediction: np.float32, out: Floats, b: int) -> None:
    """Adds the prediction to all locations of out[b], a location-scale head's parameters."""
    components = plan.head.choices
    first = components if components > 1 else 0
    for c in range(first, first + components):
        out[b, c] += prediction
