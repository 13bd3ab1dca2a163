r"""A student's synthesis filter: what `nn.synthesis_filter` solves over time, a sample after
another.

.. math:: x_t = e_t + \sum_{k=1}^{P} a_k(t)\, x_{t-k}

A sample is one chain of fused multiply-adds from e_t on, k ascending, in float32 whatever the
precision of the flows' weights. So its bits depend on no tile, chunk or thread, and on no other
stream. Samples are filtered unclipped.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.compiled import Compiled
from vqwave.decode.plan import Floats

synthesise = Compiled("vqwave.decode.cpu.flow.kernel", "synthesise")


class FilterStream:
    """The synthesis filter of one stream under way."""

    def __init__(self, order: int) -> None:
        self.past = np.zeros(order, np.float32)  # the last samples, oldest first
        self.time = 0

    def synthesize(self, residual: Floats, coefficients: Floats, hold: int, first: int) -> Floats:
        """The next residuals (n,) -> samples (n,).

        coefficients (F, P): columns from number `first` on, each held for `hold` samples, the last
        for all that follow.
        """
        order, last = len(self.past), len(coefficients) - 1
        begin, end = (min(t // hold - first, last) for t in (self.time, self.time + len(residual)))
        start = self.time - (first + begin) * hold
        x = np.concatenate([self.past, residual])
        synthesise(np.ascontiguousarray(coefficients[begin : end + 1]), hold, start, x)
        self.past, self.time = x[len(x) - order :], self.time + len(residual)
        return x[order:]

    def state_dict(self) -> dict[str, NDArray]:
        """Its state, by name."""
        return {"past": self.past.copy(), "time": np.array(self.time)}

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `state_dict`. Raises ValueError for another order."""
        if arrays["past"].shape != self.past.shape:
            raise ValueError(f"past {arrays['past'].shape}, expected {self.past.shape}")
        self.past, self.time = np.array(arrays["past"]), int(arrays["time"])
