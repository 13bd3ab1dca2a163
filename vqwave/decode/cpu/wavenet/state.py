"""The state of WaveNet streams between samples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.jit import kernel
from vqwave.decode.cpu.matmul import Floats, Numbers
from vqwave.decode.plan import Plan, aligned

Integers = NDArray[np.int64]

SAVED_NAMES = {"last": "heard"}  # of a field in saved streams, where it is another


@kernel
def span(taps: int, dilation: int) -> int:
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
        slots = sum(span(plan.kernel, int(d)) for d in plan.dilations)
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
