"""From codes to phones (or other labels of frames): each code stands for the label that is most
frequent with it.

Reference: van den Oord et al., 2017, sec. 4.3 (49.3 % of 41 phones from 128 codes at 25 Hz).
arXiv:1711.00937
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqwave.data.manifest import Phones

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class CodeMap:
    """counts (L, C): how often each label goes with each kind of frame in training; `kinds` are the
    frames' codes (C, Q).
    """

    labels: list[str]
    kinds: Codes
    counts: NDArray[np.int64]

    @classmethod
    def fit(cls, codes: Sequence[Codes], labels: Sequence[Sequence[str]]) -> CodeMap:
        """Codes (Q, F) of training utterances, and the label of each of their frames."""
        names = sorted({label for row in labels for label in row})
        place = {name: i for i, name in enumerate(names)}
        kinds, index = np.unique(np.concatenate(codes, 1).T, axis=0, return_inverse=True)
        counts = np.zeros((len(names), len(kinds)), np.int64)
        rows = np.array([place[label] for row in labels for label in row], np.int64)
        np.add.at(counts, (rows, index.ravel()), 1)
        return cls(names, kinds, counts)

    @property
    def commonest(self) -> str:
        """The label of most training frames: predicted for combinations of codes that training has
        not.
        """
        return self.labels[int(self.counts.sum(1).argmax())]

    def read(self, codes: Codes) -> list[str]:
        """Codes (Q, F) -> a label for each frame."""
        known = {
            tuple(kind): self.labels[best]
            for kind, best in zip(self.kinds.tolist(), self.counts.argmax(0), strict=True)
        }
        return [known.get(tuple(frame), self.commonest) for frame in codes.T.tolist()]


def frame_labels(phones: Phones, frames: int, hop: int) -> list[str]:
    """The phone at the middle of each frame; `phones` are (first sample, label) in order, the first
    at 0.
    """
    starts = np.array([start for start, _ in phones])
    middles = np.arange(frames) * hop + hop // 2
    return [phones[i][1] for i in np.searchsorted(starts, middles, side="right") - 1]
