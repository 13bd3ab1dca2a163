"""Rows of several corpora as one, with the labels of a trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.data.corpus import Corpus, Utterance
from vqwave.errors import UserInputError, nearest


@dataclass(frozen=True)
class Part:
    """Rows of a corpus, and the splits, by row, of those that leave their own."""

    corpus: Corpus
    rows: Sequence[int]
    splits: Mapping[int, str]

    def utterance(self, row: int, labels: Sequence[str]) -> Utterance:
        """A row, with the label columns that are asked for."""
        utterance = self.corpus.utterances[row]
        return replace(
            utterance,
            split=self.splits.get(row, utterance.split),
            labels={name: utterance.labels.get(name, "") for name in labels},
        )


class JoinedCorpus(Corpus):
    """Utterances of `parts`, in their order; samples and F0 are read from the parts' folders.

    Label ids are the places in `labels`, which a model was built with.
    """

    def __init__(self, parts: Sequence[Part], labels: Mapping[str, Sequence[str]]) -> None:
        """Raises UserInputError for parts of different rates, and for a label that is none of
        `labels`.
        """
        first = parts[0].corpus
        _check(parts, labels)
        self.places = [(part.corpus, row) for part in parts for row in part.rows]
        header: dict[str, Any] = {
            "name": first.name,
            "sample_rate": first.sample_rate,
            "labels": {name: list(values) for name, values in labels.items()},
            "level_db": first.level_db,
            "source": " + ".join(part.corpus.source for part in parts),
        }
        rows = [part.utterance(row, list(labels)) for part in parts for row in part.rows]
        super().__init__(first.folder, header, rows, vectors=_vectors(parts))
        self.pitch = first.pitch

    def seconds_of(self, speaker: str, split: str) -> float:
        """Total duration of a speaker's utterances in a split, in seconds."""
        rows = (u for u in self.utterances if u.speaker == speaker and u.split == split)
        return sum(u.frames for u in rows) / self.sample_rate

    def read(self, i: int, start: int = 0, frames: int | None = None) -> Wave:
        corpus, row = self.places[i]
        return corpus.read(row, start, frames)

    def f0(self, i: int) -> NDArray[np.float32]:
        corpus, row = self.places[i]
        return corpus.f0(row)


def _check(parts: Sequence[Part], labels: Mapping[str, Sequence[str]]) -> None:
    first = parts[0].corpus
    for part in parts:
        corpus = part.corpus
        if corpus.sample_rate != first.sample_rate:
            raise UserInputError(
                f"{corpus.folder}: at {corpus.sample_rate} Hz, expected the {first.sample_rate} Hz"
                f" of {first.folder}"
            )
        for name, values in labels.items():
            known = set(values)
            for row in part.rows:
                value = corpus.utterances[row].labels.get(name, "")
                if value not in known:
                    raise UserInputError(
                        f"{corpus.folder}: {name} {value!r} of {corpus.utterances[row].id!r} is"
                        f" none of the model's{nearest(value, values)}"
                    )


def _vectors(parts: Sequence[Part]) -> dict[str, NDArray[np.float32]]:
    """The vectors that all parts have, with a row an utterance."""
    names = set(parts[0].corpus.vectors).intersection(*(part.corpus.vectors for part in parts))
    return {
        name: np.concatenate([part.corpus.vectors[name][list(part.rows)] for part in parts])
        for name in sorted(names)
    }
