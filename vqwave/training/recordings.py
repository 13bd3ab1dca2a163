"""Recordings of a corpus as an experiment uses them: for statistics, and one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.data import Corpus
from vqwave.data.frame_tracks import Track
from vqwave.nn.condition import Conditioner


class Conditioned(Protocol):
    """A network with a conditioner: a WaveNet, a student, a network over codes."""

    conditioner: Conditioner


class Recordings:
    """The recordings of a corpus, with the frames of `tracks`."""

    def __init__(self, corpus: Corpus, tracks: Sequence[Track]) -> None:
        self.corpus, self.tracks = corpus, tracks

    def waves(self, count: int = 200) -> list[Tensor]:
        """Complete training recordings (T,), spread over the split, for statistics."""
        return [torch.from_numpy(self.corpus.read(row)) for row in self._training_rows(count)]

    def frames(self, count: int = 200) -> list[dict[str, Tensor]]:
        """The tracks' frames (C, F) of the same recordings."""
        return [
            {track.name: torch.from_numpy(self._all_frames(track, row)) for track in self.tracks}
            for row in self._training_rows(count)
        ]

    def vectors(self, decoder: Conditioned, row: int) -> dict[str, Any]:
        """The given vectors of an utterance that condition a decoder."""
        return {name: self.corpus.vectors[name][row] for name in decoder.conditioner.vector_sizes}

    def stored_frames(self, row: int) -> dict[str, Any]:
        """The tracks' frames of an utterance, as `SpeechModel` takes them."""
        return {track.name: track.stored(self.corpus, row) for track in self.tracks}

    def _training_rows(self, count: int) -> list[int]:
        rows = self.corpus.of("train")
        count = min(count, len(rows))
        return [rows[k * len(rows) // count] for k in range(count)]

    def _all_frames(self, track: Track, row: int) -> NDArray[Any]:
        return track.read(self.corpus, row, 0, -(-self.corpus.utterances[row].frames // track.hop))
