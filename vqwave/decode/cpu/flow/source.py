"""The harmonic source of one stream under way: blocks of it for as many columns as are given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from vqwave.decode.plan import Floats
from vqwave.nn.condition import Condition
from vqwave.nn.harmonic_source import SourceState, harmonic_source


class SourceStream:
    """`nn.harmonic_source` between arrays: the very numbers that PyTorch's flows are given."""

    def __init__(self, squeeze: int) -> None:
        self.squeeze, self.state = squeeze, SourceState()

    def blocks(self, periods: Floats, hold: int, first: int) -> Floats:
        """periods (F,) of the columns from column `first` on -> (blocks, squeeze)."""
        columns = torch.from_numpy(periods.copy())[None, None]
        source = harmonic_source(Condition(columns, hold, first * hold), self.squeeze, self.state)
        return np.ascontiguousarray(source.features[0].T.numpy())

    def state_dict(self) -> dict[str, NDArray]:
        phases = self.state.phases
        assert phases is not None  # a stream has a condition from its beginning on
        return {"column": np.array(self.state.column), "phases": phases.numpy().copy()}

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `state_dict`."""
        phases = torch.from_numpy(np.array(arrays["phases"]))
        self.state = SourceState(int(arrays["column"]), phases)
