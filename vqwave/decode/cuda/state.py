"""The state of the CUDA kernel's streams between samples, and what else it is given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

SAVED_NAMES = {"last": "heard"}  # of a field in saved streams, where it is another


class State(NamedTuple):
    """The state of B streams between samples; stream b's is in row b of every tensor."""

    # (B, slots, R) in the weights' type: for each layer its last inputs, that of sample t in slot t
    # mod length
    rings: Tensor
    last: Tensor  # (B,) float32, the last sample: a class number or an amplitude
    time: Tensor  # (B,) int64, samples so far
    # (B, slots) float32 of a linear predictor, stored slot by slot: x and e of sample t in slot t
    # mod slots; without one (B, 0)
    samples: Tensor
    residuals: Tensor

    def named(self) -> dict[str, Tensor]:
        """The tensors by the names that they have in saved streams, without those that this network
        leaves empty.
        """
        fields = self._asdict().items()
        return {SAVED_NAMES.get(name, name): x for name, x in fields if 0 not in x.shape[1:]}


class ConditionWindow(NamedTuple):
    """The condition of B streams over a chunk of time."""

    # (B, N, L 2G) float32, projected, with the bias of the dilated convolution; the last one holds
    # for all that follows
    columns: Tensor
    place: Tensor  # (B,) int32, how many samples ago each stream's first column began
    coefficients: Tensor  # (N, P, B) float32 of the linear predictor; without one (N, 0, B)
    # (N, B) float32, pitch periods in samples, 0 where unvoiced; without pitch taps (N, 0, B)
    periods: Tensor


class ChunkIO(NamedTuple):
    """What goes in and comes out over T samples."""

    left: Tensor  # (B,) int32, samples that each stream still takes, of T
    streams: Tensor  # (B,) int64, numbers of the streams
    seed: Tensor  # (1,) int64
    given: Tensor  # (B, T) float32 to go over, read if forced
    sampled: Tensor  # (B, T) float32
    params: Tensor  # (B, T, C) float32, written if kept
