"""The state of WaveNet streams between samples, and the other arrays that the kernels are given."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.plan import Floats, Numbers, Plan, aligned

Integers = NDArray[np.int64]

SAVED_NAMES = {"last": "heard"}  # of a field in saved streams, where it is another
# numbers between two signals, so that none shares a cache line, or its neighbour, with another
APART = 16
AHEAD = 8  # samples whose past taps are multiplied together, at the most
# of two threads: layers whose units are complete, samples drawn
UNITS, DRAWN = 0, 1
SIGNALS = 2


def ring_slots(taps: int, dilation: int) -> int:
    """Slots of a layer's ring; one even where a single tap needs none."""
    return max((taps - 1) * dilation, 1)


class State(NamedTuple):
    """The state of B streams between samples; stream b's is in row b of every array."""

    # (B, slots, R): for each layer its last (k - 1) d inputs, the input of sample t in slot t mod
    # (k - 1) d
    rings: Numbers
    last: Floats  # (B,) the last sample: a class number or an amplitude
    time: Integers  # (B,) samples so far
    samples: Floats  # (B, P) of a linear predictor: the samples before the last one, newest first
    residuals: Floats  # (B, slots): e of sample t in slot t mod slots, from the longest lag on
    prediction: Floats  # (B, 1) of the last sample; these three are (B, 0) without a predictor

    @staticmethod
    def silent(plan: Plan, silence: float, streams: int) -> State:
        """Before the first sample: zeros in all rings; the network's first input is `silence`."""
        slots = sum(ring_slots(plan.kernel, int(d)) for d in plan.dilations)
        predictor = plan.predictor
        return State(
            aligned((streams, slots, plan.input_weights.shape[1]), plan.operand.dtype.type),
            np.full(streams, silence, np.float32),
            np.zeros(streams, np.int64),
            np.zeros((streams, predictor.order), np.float32),
            np.zeros((streams, predictor.slots), np.float32),
            np.zeros((streams, min(predictor.order, 1)), np.float32),
        )

    def clear(self, row: int, silence: float) -> None:
        """Stream `row` as before its first sample."""
        for array in self:
            array[row] = 0
        self.last[row] = silence

    def named(self) -> dict[str, NDArray]:
        """The arrays by the names that they have in saved streams."""
        return {SAVED_NAMES.get(name, name): array for name, array in self._asdict().items()}


class Buffers(NamedTuple):
    """Activations of one sample of B streams.

    Operands are what products read, in the plan's kind of number.
    """

    taps: Numbers  # (B, L k R) operand: the inputs of each layer, oldest first
    units: Numbers  # (B, L G), of the plan's kind of unit
    read: Numbers  # (B, S or R) operand: what the output layers read
    hidden_read: Numbers  # (B, H) operand
    present: Floats  # (B, R) residual channels
    activation: Floats  # (B, 2G)
    inner: Floats  # (B, R) sums of integers
    skip: Floats  # (B, S)
    hidden: Floats  # (B, H)
    out: Floats  # (B, C)
    scratch: Floats  # (C,)
    column: Integers  # (B,) which column of the condition each stream is in

    @staticmethod
    def of(plan: Plan, streams: int) -> Buffers:
        residual, (layers, activation) = plan.input_weights.shape[1], plan.dilated_bias.shape
        skip, hidden, out = len(plan.skip_bias), len(plan.hidden_bias), len(plan.out_bias)
        operand, unit = plan.operand.dtype.type, plan.units.dtype.type
        return Buffers(
            taps=aligned((streams, layers * plan.kernel * residual), operand),
            units=aligned((streams, layers * activation // 2), unit),
            read=aligned((streams, skip or residual), operand),
            hidden_read=aligned((streams, hidden), operand),
            present=aligned((streams, residual), np.float32),
            activation=aligned((streams, activation), np.float32),
            inner=aligned((streams, residual), np.float32),
            skip=aligned((streams, skip), np.float32),
            hidden=aligned((streams, hidden), np.float32),
            out=aligned((streams, out), np.float32),
            scratch=aligned((out,), np.float32),
            column=np.zeros(streams, np.int64),
        )


class ConditionWindow(NamedTuple):
    """The condition of B streams over a chunk of time: columns from number `first` on, each held;
    the last one for all that follows.
    """

    columns: Floats  # (B, n, L 2G): projected, with the bias of the dilated convolution
    first: Integers  # (B,) number of the first column
    hold: int  # samples a column
    predictors: Floats  # (B, n, P, with pitch taps P + 1): see `prediction.py`; (B, n, 0) without


class PastTapCache(NamedTuple):
    """The sums over past taps of samples to come.

    Nothing that outlives a call: `precompute_all` makes it anew.
    """

    sums: Floats  # (L AHEAD, 2G)
    past: Numbers  # (AHEAD, (k - 1) R) operand
    slot: Integers  # (L,) where in its ring, which begins at `ring`, a layer puts its present
    ring: Integers  # (L,)

    @staticmethod
    def of(plan: Plan) -> PastTapCache:
        (layers, width), residual = plan.dilated_bias.shape, plan.input_weights.shape[1]
        spans = [ring_slots(plan.kernel, int(d)) for d in plan.dilations]
        return PastTapCache(
            aligned((layers * AHEAD, width), np.float32),
            aligned((AHEAD, (plan.kernel - 1) * residual), plan.operand.dtype.type),
            np.zeros(layers, np.int64),
            np.concatenate([[0], np.cumsum(spans[:-1])]).astype(np.int64),
        )


def signals(count: int) -> Integers:
    """Zeros; signal i stands at i APART."""
    return aligned((count * APART,), np.int64)
