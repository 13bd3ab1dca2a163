"""Other voices for the clips of a batch: to measure what labels contribute, and to convert to."""

from __future__ import annotations

from collections.abc import Sized
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vqwave.data import Corpus
from vqwave.nn.condition import Conditioner
from vqwave.rng import keyed


class LabelledBatch(Sized, Protocol):
    """Labels by name (B,), vectors among them, and the rows (B,) that they are of."""

    @property
    def labels(self) -> dict[str, Tensor]: ...

    @property
    def index(self) -> Tensor: ...


class VoicePairs:
    """Labels of speakers of whom there are training recordings, other than a clip's own."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    @cached_property
    def trained(self) -> dict[str, list[int]]:
        """The ids of each label of which there are training recordings, sorted."""
        rows = [self.corpus.label_ids(row) for row in self.corpus.of("train")]
        return {name: sorted({ids[name] for ids in rows}) for name in self.corpus.labels}

    @property
    def untrained(self) -> dict[str, list[str]]:
        """The values of each label of which there are no training recordings, where any are."""
        missing = {
            name: [value for i, value in enumerate(values) if i not in self.trained[name]]
            for name, values in self.corpus.labels.items()
        }
        return {name: values for name, values in missing.items() if values}

    @property
    def example_speaker(self) -> str:
        """A speaker of whom there are training recordings."""
        return self.corpus.speakers[next(iter(self.trained.get("speaker", ())), 0)]

    def comparable(self, conditioner: Conditioner, *, pairs: bool) -> bool:
        """Whether `mismatched_labels` differ from the batch's in what conditions a network.

        pairs: whether a clip has another one in its batch.
        """
        named = any(len(self.trained.get(name, ())) > 1 for name in conditioner.labels)
        return named or (pairs and bool(conditioner.vector_sizes))

    def mismatched_labels(self, batch: LabelledBatch) -> dict[str, Tensor]:
        """Labels of another speaker of whom there are training recordings: unchanged where there
        is no other.

        Among n of them each moves on by 1 .. n - 1 places, by the clip's row. A given vector is
        that of the clip before it in the batch.
        """
        others = {name: batch.labels[name].roll(1, 0) for name in self.corpus.vectors}
        for name, ids in self.trained.items():
            own, known = batch.labels[name], torch.tensor(ids, device=batch.index.device)
            place, n = torch.searchsorted(known, own).clamp(max=len(ids) - 1), len(ids)
            moved = place + torch.where(
                known[place] == own, 1 + batch.index % max(1, n - 1), batch.index % n
            )
            others[name] = known[moved % n]
        return batch.labels | others

    def sample_target_voice(self, batch: LabelledBatch, *, drawn: bool = True) -> dict[str, Tensor]:
        """Labels and vectors of each clip in another voice: those of a training recording of
        another speaker, but `text`.

        Speaker and recording are drawn, evenly; if not `drawn`, by the clip's row. A corpus' only
        speaker stays.
        """
        cpu, rows = torch.device("cpu"), []
        places = (
            batch.index.to(cpu, torch.float64)[:, None] * torch.tensor([0.618034, 0.414214]) % 1
        )
        picks = keyed.uniforms(len(batch), 2, like=cpu) if drawn else places
        for own, (who, which) in zip(batch.labels["speaker"].tolist(), picks.tolist(), strict=True):
            others = [speaker for speaker in self._rows_by_speaker if speaker != own] or [own]
            candidates = self._rows_by_speaker[others[int(who * len(others))]]
            rows.append(candidates[int(which * len(candidates))])
        conditions = [self.corpus.conditions(row) for row in rows]
        voices = {
            name: np.stack([each[name] for each in conditions])
            for name in conditions[0]
            if name != "text"
        }
        device = batch.index.device
        return batch.labels | {
            name: torch.from_numpy(values).to(device) for name, values in voices.items()
        }

    @cached_property
    def _rows_by_speaker(self) -> dict[int, list[int]]:
        """Training rows by the speaker's id."""
        rows: dict[int, list[int]] = {}
        for row in self.corpus.of("train"):
            speaker = self.corpus.label_id("speaker", self.corpus.utterances[row].speaker)
            rows.setdefault(speaker, []).append(row)
        return rows
