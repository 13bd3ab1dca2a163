"""Crops of which a fixed share is of chosen speakers."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from vqwave.data.corpus import Corpus
from vqwave.data.frame_tracks import Track
from vqwave.data.segments import Crop, Segments


class MixedSegments(Segments):
    """`Segments` of which the share `share` is of speakers other than `speakers`, evenly over the
    positions: of one half, every second.

    Within either group minutes are sampled evenly. A corpus with one group alone has no share.
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
        self.groups = (np.flatnonzero(chosen), np.flatnonzero(~chosen))
        self.share = share

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        position, segment = key
        other = int((position + 1) * self.share) > int(position * self.share)
        places = self.groups[other] if len(self.groups[other]) else np.arange(len(self.rows))
        return super().__getitem__((position, int(places[segment % len(places)])))
