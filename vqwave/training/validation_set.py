"""The clips that validation measures, and the utterances that a run's samples are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import zip_longest

import numpy as np
import torch

from vqwave.data import Batch, Corpus, collate, evaluation_crops
from vqwave.data.frame_tracks import Track
from vqwave.data.segments import read_crop
from vqwave.distributed.collectives import rank, world_size
from vqwave.errors import UserInputError
from vqwave.training.settings import DataSpec


class ValidationSet:
    """Clips of held-out recordings, the same every time; each rank has its share of them."""

    def __init__(
        self, corpus: Corpus, data: DataSpec, clip_samples: int, tracks: Sequence[Track]
    ) -> None:
        """clip_samples: of a clip, full frames; tracks: frame features that are read, too."""
        self.corpus, self.data, self.tracks = corpus, data, tracks
        self.clip_samples = clip_samples

    @cached_property
    def crops(self) -> list[tuple[int, int]]:
        """(row, start) of each clip, in an order in which a clip's neighbour is any other clip."""
        crops = evaluation_crops(self.corpus, "valid", self.clip_samples, self.data.valid_clips)
        generator = torch.Generator().manual_seed(0)
        return [crops[i] for i in torch.randperm(len(crops), generator=generator).tolist()]

    @property
    def rows(self) -> list[int]:
        """The utterance of each clip."""
        return [row for row, _ in self.crops]

    @property
    def has_pairs(self) -> bool:
        """Whether a clip has another one in its batch."""
        return len(self.crops) // world_size() > 1

    def batches(self, device: torch.device, most: int = 16) -> Iterator[Batch]:
        """This rank's share of the clips, as many on each rank, in batches of about equal size, at
        most `most`.

        Raises UserInputError where there are fewer clips than ranks.
        """
        crops, world = self.crops, world_size()
        if len(crops) < world:
            raise UserInputError(
                f"data.valid_clips: {len(crops)} clips of {self.data.corpus}, expected one a"
                f" process: {world}"
            )
        share = crops[rank() :: world][: len(crops) // world]
        for part in np.array_split(np.arange(len(share)), -(-len(share) // most)):
            clips = [
                read_crop(self.corpus, row, start, self.clip_samples, self.tracks)
                for row, start in (share[i] for i in part)
            ]
            yield collate(clips).to(device)

    def example_rows(self, count: int) -> list[int]:
        """This rank's share, maybe none, of the utterances that samples are made of."""
        return [row for row, _ in self.example_pairs(count)]

    def example_pairs(self, count: int) -> list[tuple[int, int]]:
        """The same, each with a row of another speaker (where there is one)."""
        rows = self._examples(count)
        pairs = [(row, self._other(rows[k + 1 :] + rows[:k], row)) for k, row in enumerate(rows)]
        bounds = [len(pairs) * number // world_size() for number in (rank(), rank() + 1)]
        return pairs[slice(*bounds)]

    def _examples(self, count: int) -> list[int]:
        """One a speaker in turn, of medium length; then the next longer or shorter ones."""
        by_speaker: dict[str, list[int]] = {}
        for row in self.corpus.of("valid"):
            by_speaker.setdefault(self.corpus.utterances[row].speaker, []).append(row)
        for rows in by_speaker.values():
            rows.sort(key=lambda row: self.corpus.utterances[row].frames)
            middle = {row: k - len(rows) // 2 for k, row in enumerate(rows)}
            rows.sort(key=lambda row: (abs(middle[row]), middle[row]))
        turns = [rows for _, rows in sorted(by_speaker.items())]
        if count < len(turns):
            return [turns[k * len(turns) // count][0] for k in range(count)]
        rounds = zip_longest(*turns)
        return [row for each in rounds for row in each if row is not None][:count]

    def _other(self, rows: list[int], row: int) -> int:
        """The first of `rows` by another speaker than `row`'s; else the first, else itself."""
        utterances = self.corpus.utterances
        others = (k for k in rows if utterances[k].speaker != utterances[row].speaker)
        return next(others, rows[0] if rows else row)
