"""Which held-out recordings are measured, and which voices they are converted to.

Each choice is fixed: the same corpus and settings give the same utterances, targets and pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch

from vqwave.audio import Wave, mu_law_decode, mu_law_encode
from vqwave.data import Corpus
from vqwave.errors import UserInputError
from vqwave.evaluation.progress import NotApplicable
from vqwave.evaluation.settings import Settings

T = TypeVar("T")
ONE = "needs two utterances, and one is measured"
VOICE_RECORDINGS = 20  # training recordings that a speaker's voice is taken from
TARGET_SECONDS = 20.0  # training speech that a target speaker needs


class Utterances:
    """Utterances of a split, as float32 arrays (T,), and the choices made among them.

    known: values of each label that a model was trained on. required: labels whose values must be
    among the known ones.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: Settings,
        known: Mapping[str, Collection[str]],
        required: Sequence[str] = (),
        *,
        unseen_speakers: bool = False,
    ) -> None:
        """unseen_speakers: whether all utterances are taken where there is none of known labels.

        Raises `UserInputError` where no utterance is left.
        """
        self.corpus, self.settings, self.known = corpus, settings, known
        self.rate, self.unseen_speakers = corpus.sample_rate, False
        self.rows = self._select_rows(required, unseen_speakers=unseen_speakers)

    def need(self, condition: object, why: str) -> None:
        """Raises `NotApplicable` unless `condition` is true (or not empty)."""
        if not condition:
            raise NotApplicable(why)

    def _select_rows(self, required: Sequence[str], *, unseen_speakers: bool) -> list[int]:
        """Spread evenly over the split: a random order, cut, in the order of the corpus."""
        for name in self.settings.speakers:
            self.corpus.label_id("speaker", name)
        rows = self._rows_of(required)
        if unseen_speakers and not rows:
            rows, self.unseen_speakers = self._rows_of(()), True
        if not rows:
            raise UserInputError(self._why_empty(required))
        limit = self.settings.limit
        return rows if limit is None else _random_subset(rows, limit)

    def _rows_of(self, required: Sequence[str]) -> list[int]:
        """All of the split, with known values of these labels."""
        return [
            row
            for row in self.corpus.of(self.settings.split)
            if all(
                self.corpus.utterances[row].labels.get(name) in self.known[name]
                for name in required
            )
            and self._selected(self.corpus.utterances[row].speaker)
        ]

    def _why_empty(self, required: Sequence[str]) -> str:
        split = f"{self.corpus.folder}: no utterance of split {self.settings.split!r}"
        if self.settings.speakers:
            names = ", ".join(self.settings.speakers)
            return f"{split} by {names} that the model was trained on"
        return f"{split} has {', '.join(required)} that the model was trained on"

    def _selected(self, speaker: str) -> bool:
        return not self.settings.speakers or speaker in self.settings.speakers

    @cached_property
    def waves(self) -> list[Wave]:
        """The recordings."""
        return [self.read(row) for row in self.rows]

    def read(self, row: int) -> Wave:
        """A recording, cut after the seconds that are measured."""
        return self.corpus.read(row, 0, round(self.settings.seconds * self.rate))

    @cached_property
    def mu_law(self) -> list[Wave]:
        """Copies of the recordings in 8-bit mu-law."""
        return [mu_law_decode(mu_law_encode(torch.from_numpy(wave))).numpy() for wave in self.waves]

    def label(self, name: str) -> list[str]:
        """A label of each utterance."""
        return [self.corpus.utterances[row].labels[name] for row in self.rows]

    @property
    def several(self) -> bool:
        """Whether there is another utterance to each."""
        return len(self.rows) > 1

    def others(self) -> list[int]:
        """For each utterance another one: of another speaker and with another text, where there is
        one.

        Raises `NotApplicable` where there is a single utterance.
        """
        self.need(self.several, ONE)
        count, result = len(self.rows), []
        utterances = [self.corpus.utterances[row] for row in self.rows]
        for i, own in enumerate(utterances):
            places = [(i + count // 2 + k) % count for k in range(count)]
            mismatched = [
                j
                for j in places
                if utterances[j].speaker != own.speaker
                and (not own.text or utterances[j].text != own.text)
            ]
            rest = [j for j in places if j != i]
            result.append((mismatched or rest)[0])
        return result

    @cached_property
    def targets(self) -> list[str]:
        """Voices to convert to: speakers with enough training speech, at most `targets`, the
        genders by turns.

        Unseen speakers are converted to any known voices, be they in the corpus or not.
        """
        seconds: dict[str, float] = {}
        gender: dict[str, str] = {}
        for row in self._training:
            u = self.corpus.utterances[row]
            seconds[u.speaker] = seconds.get(u.speaker, 0.0) + u.frames / self.rate
            gender[u.speaker] = u.labels.get("gender", "")
        known = [
            name
            for name in sorted(self.known.get("speaker", ()))
            if (self.unseen_speakers or self._selected(name))
            and seconds.get(name, 0.0) >= TARGET_SECONDS
        ]
        if self.unseen_speakers and not known:
            return _random_subset(sorted(self.known.get("speaker", ())), self.settings.targets)
        queues = {
            g: sorted((n for n in known if gender[n] == g), key=lambda n: -seconds[n])
            for g in sorted(set(gender.values()))
        }
        ranked = sorted(
            (place, g, name) for g, names in queues.items() for place, name in enumerate(names)
        )
        return sorted(name for _, _, name in ranked[: self.settings.targets])

    @cached_property
    def voice_recordings(self) -> dict[str, list[Wave]]:
        """Complete training recordings of measured speakers and targets, at most
        `VOICE_RECORDINGS` each; of unseen speakers without any, the measured ones.
        """
        rows: dict[str, list[int]] = {}
        for row in self._training:
            rows.setdefault(self.corpus.utterances[row].speaker, []).append(row)
        names = sorted({*self.label("speaker"), *self.targets} & set(rows))
        counts = {name: min(VOICE_RECORDINGS, len(rows[name])) for name in names}
        measured: dict[str, list[Wave]] = {}
        if self.unseen_speakers:
            for name, wave in zip(self.label("speaker"), self.waves, strict=True):
                measured.setdefault(name, []).append(wave)
        return measured | {
            name: [self.corpus.read(rows[name][i * len(rows[name]) // count]) for i in range(count)]
            for name, count in counts.items()
        }

    @cached_property
    def pairs(self) -> list[tuple[int, str]]:
        """(utterance, target) of each conversion, spread evenly where they are too many."""
        pairs = [
            (i, target)
            for i, row in enumerate(self.rows)
            for target in self.targets
            if target != self.corpus.utterances[row].speaker
        ]
        return _random_subset(pairs, self.settings.pairs)

    @property
    def pair_rows(self) -> list[int | None]:
        """For each conversion the training recording whose labels and vectors it is given; None for
        a target that the corpus has no recordings of.
        """
        voice = {self.corpus.utterances[row].speaker: row for row in reversed(self._training)}
        return [voice.get(target) for _, target in self.pairs]

    @cached_property
    def _training(self) -> list[int]:
        """The rows of the training split; a corpus of recordings to be measured may have none."""
        return self.corpus.of("train") if "train" in self.corpus.splits else []

    @property
    def training(self) -> list[int]:
        """The rows of the training split. Raises `NotApplicable` where there are none."""
        self.need(self._training, "the corpus has no training recordings")
        return self._training

    def speaker_labels(self, speaker: str) -> dict[str, str]:
        """All labels of a speaker but the text."""
        for row in self._training:
            labels = self.corpus.utterances[row].labels
            if labels["speaker"] == speaker:
                return {name: value for name, value in labels.items() if name != "text"}
        return {}

    def labels_of(self, voice: int, text: int | None) -> dict[str, str]:
        """The labels of row `voice`; the text is that of row `text`, where given."""
        labels = dict(self.corpus.utterances[voice].labels)
        if text is not None and "text" in labels:
            labels["text"] = self.corpus.utterances[text].labels["text"]
        return labels

    def vectors_of(self, names: Collection[str], row: int) -> dict[str, np.ndarray]:
        """The vectors `names` of a row. Raises `UserInputError` where the corpus has none."""
        missing = [name for name in names if name not in self.corpus.vectors]
        if missing:
            raise UserInputError(
                f"{self.corpus.folder}: no vectors/{missing[0]}.npy, on which the model is"
                " conditioned"
            )
        return {name: self.corpus.vectors[name][row] for name in names}


def _random_subset(items: list[T], most: int) -> list[T]:
    """At most so many, always the same ones, in their order."""
    if most >= len(items):
        return items
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:most]
    return [items[i] for i in sorted(order.tolist())]
