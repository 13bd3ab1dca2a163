"""Recordings of the voices that a model has, which are trained further as a new one is added, so
that they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqwave import parsing
from vqwave.data import Corpus
from vqwave.data.corpus import is_corpus
from vqwave.data.joined import JoinedCorpus, Part
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard

LEVEL_SLACK = 0.5  # dB by which corpora may differ


@dataclass(frozen=True)
class Replay:
    """Corpora, and of each the rows of known voices in its splits `train` and `valid`."""

    corpora: list[Corpus]
    rows: list[list[int]]

    @classmethod
    def of(cls, paths: Sequence[Path], base: Path, known: Sequence[str], share: float) -> Replay:
        """paths: none: those of the run `base`, where they are there. share 0: none.

        Raises UserInputError for a corpus without recordings of the voices `known`.
        """
        if not share:
            return cls([], [])
        corpora = [Corpus.open(path) for path in paths or corpora_of_run(base)]
        rows = [_rows(corpus, set(known)) for corpus in corpora]
        for corpus, own in zip(corpora, rows, strict=True):
            if not own and paths:
                raise UserInputError(
                    f"replay: {corpus.folder} has no training recording of a voice of {base}"
                )
        kept = [pair for pair in zip(corpora, rows, strict=True) if pair[1]]
        return cls([corpus for corpus, _ in kept], [own for _, own in kept])

    @property
    def named(self) -> dict[str, Corpus]:
        """The corpora, as sources of a run."""
        return {f"replay {number}": corpus for number, corpus in enumerate(self.corpora)}

    def speakers(self, split: str) -> list[str]:
        """Those with recordings in a split."""
        names = {
            corpus.utterances[row].speaker
            for corpus, rows in zip(self.corpora, self.rows, strict=True)
            for row in rows
            if corpus.utterances[row].split == split
        }
        return sorted(names)

    def lines(self, base: str) -> list[str]:
        """What is replayed, as it is printed."""
        if self.corpora:
            folders = ", ".join(str(corpus.folder) for corpus in self.corpora)
            return [f"replayed, so that they stay: {len(self.speakers('train'))} voices, {folders}"]
        return [
            f"nothing is replayed: no corpus of the voices of {base} is at hand, they may change"
            " (replay=CORPUS, or --replay CORPUS of `vqwave adapt`, names one)"
        ]


def _rows(corpus: Corpus, known: set[str]) -> list[int]:
    rows = [
        row
        for row, utterance in enumerate(corpus.utterances)
        if utterance.speaker in known and utterance.split in ("train", "valid")
    ]
    return rows if any(corpus.utterances[row].split == "train" for row in rows) else []


def corpora_of_run(run: Path) -> list[Path]:
    """The corpora that a run was trained on, if `run` is a run folder and they are still there."""
    path = run / "config.yaml"
    if not path.is_file():
        return []
    tree = parsing.read_yaml(path, "the settings of a run")
    data: Any = tree.get("data")
    replayed: Any = tree.get("replay") or []
    named = [data.get("corpus") if isinstance(data, Mapping) else None]
    named += replayed if isinstance(replayed, list) else []
    return [Path(name) for name in named if isinstance(name, str) and is_corpus(Path(name))]


def join(
    own: Corpus,
    speaker: str,
    replay: Replay,
    labels: Mapping[str, Sequence[str]],
    card: ModelCard,
) -> JoinedCorpus:
    """The recordings of `speaker` in `own`, and what is replayed, with a model's labels.

    Raises UserInputError where there are fewer than two recordings of it, or at another level.
    """
    own.label_id("speaker", speaker)
    level_db = float(card.about.get("level_db", own.level_db))
    for corpus in (own, *replay.corpora):
        if abs(corpus.level_db - level_db) > LEVEL_SLACK:
            raise UserInputError(
                f"{corpus.folder}: at {corpus.level_db:g} dBFS, expected the model's"
                f" {level_db:g}: prepare it with --level {level_db:g}"
            )
    rows = [row for row, utterance in enumerate(own.utterances) if utterance.speaker == speaker]
    if len(rows) < 2:
        raise UserInputError(
            f"{own.folder}: one recording of {speaker}, expected two at least, of which one is"
            " held out"
        )
    parts = [Part(own, rows, _held_out(own, rows))]
    parts += [
        Part(corpus, replayed, {})
        for corpus, replayed in zip(replay.corpora, replay.rows, strict=True)
    ]
    return JoinedCorpus(parts, labels)


def _held_out(corpus: Corpus, rows: Sequence[int]) -> dict[int, str]:
    """Splits of rows that have no valid, or no training recording among them."""
    splits = {row: corpus.utterances[row].split for row in rows}
    moved: dict[int, str] = {}
    for wanted, source in (("train", "test"), ("train", "valid"), ("valid", "train")):
        there = [row for row in rows if (moved.get(row) or splits[row]) == wanted]
        spare = [row for row in rows if (moved.get(row) or splits[row]) == source]
        if not there and len(spare) > (source != "test"):
            moved[spare[-1]] = wanted
    return moved
