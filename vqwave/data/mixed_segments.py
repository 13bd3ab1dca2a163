"""Crops of which a fixed share is of chosen speakers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from vqwave.data.corpus import Corpus
from vqwave.data.frame_tracks import Track
from vqwave.data.sampler import StepSampler
from vqwave.data.segments import Crop, Segments


class MixedSegments(Segments):
    """`Segments` of which the share `share` is of speakers other than `speakers`, evenly over the
    positions: of one half, every second.

    Within either group segments come as in `StepSampler`: each once, in an order of its own, before
    any comes again. A corpus with one group alone has no share.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        frames: int,
        seed: int = 0,
        tracks: Sequence[Track] = (),
        *,
        speakers: Collection[str],
        share: float,
    ) -> None:
        super().__init__(corpus, split, frames, seed, tracks)
        chosen = np.array([corpus.utterances[row].speaker in speakers for row in self.rows], bool)
        own, other = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        self.share = share if len(own) and len(other) else float(len(other) > 0)
        self.groups = tuple(_Turns(places, seed) for places in (own, other))

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        position, _ = key
        others = int(position * self.share)  # before this position
        other = int((position + 1) * self.share) > others
        place = self.groups[other].at(others if other else position - others)
        return super().__getitem__((position, place))


class _Turns:
    """Places of segments (n,), each once in an epoch of n."""

    def __init__(self, places: NDArray[np.int64], seed: int) -> None:
        self.places = places
        self.sampler = StepSampler(max(1, len(places)), 1, seed=seed)
        self.epoch, self.order = -1, np.zeros(0, np.int64)

    def at(self, turn: int) -> int:
        epoch, within = divmod(turn, len(self.places))
        if epoch != self.epoch:
            self.epoch, self.order = epoch, self.sampler.permutation(epoch).numpy()
        return int(self.places[self.order[within]])
