"""Crops of a corpus for training and evaluation, and the batch that they make."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vqwave.data.corpus import Corpus
from vqwave.data.frame_tracks import Track
from vqwave.data.sampler import StepSampler, counter_key
from vqwave.errors import UserInputError


@dataclass(frozen=True)
class Crop:
    """One item: wave (T,) zero-padded after `length` samples, its conditions by name, the row in
    `corpus.utterances`.
    """

    wave: Tensor
    length: int
    labels: dict[str, int | NDArray[np.float32]]
    index: int


@dataclass(frozen=True)
class Batch:
    """B crops of T samples: wave (B, T) float32 in [-1, 1], zero after each row's length; lengths,
    index (B,) int64.

    labels: conditions by name, (B,) int64 ids of labels, (B, V) float32 given vectors,
    (B, C, F) tracks.
    """

    wave: Tensor
    lengths: Tensor
    labels: dict[str, Tensor]
    index: Tensor

    @property
    def mask(self) -> Tensor:
        """(B, T) bool, true on samples, false on padding."""
        return torch.arange(self.wave.shape[1], device=self.wave.device) < self.lengths[:, None]

    def frame_mask(self, hop: int) -> Tensor:
        """(B, T / hop) bool, true for frames of `hop` samples that hold at least one sample."""
        starts = torch.arange(0, self.wave.shape[1], hop, device=self.wave.device)
        return starts < self.lengths[:, None]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return Batch(
            wave=self.wave.to(device, non_blocking=non_blocking),
            lengths=self.lengths.to(device, non_blocking=non_blocking),
            labels={
                name: ids.to(device, non_blocking=non_blocking) for name, ids in self.labels.items()
            },
            index=self.index.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; a `DataLoader` with `pin_memory=True` calls this."""
        labels = {name: ids.pin_memory() for name, ids in self.labels.items()}
        return Batch(
            self.wave.pin_memory(), self.lengths.pin_memory(), labels, self.index.pin_memory()
        )

    def __len__(self) -> int:
        return len(self.wave)

    def __repr__(self) -> str:
        shapes = {
            f.name: tuple(v.shape)
            for f in fields(self)
            if isinstance(v := getattr(self, f.name), Tensor)
        }
        return f"Batch({shapes}, labels={list(self.labels)})"


def collate(crops: Sequence[Crop]) -> Batch:
    """Stack crops of one length into a batch."""
    return Batch(
        wave=torch.stack([crop.wave for crop in crops]),
        lengths=torch.tensor([crop.length for crop in crops]),
        labels={
            name: torch.from_numpy(np.stack([crop.labels[name] for crop in crops]))
            for name in crops[0].labels
        },
        index=torch.tensor([crop.index for crop in crops]),
    )


def read_crop(
    corpus: Corpus, row: int, start: int, frames: int, tracks: Sequence[Track] = ()
) -> Crop:
    """Samples [start, start + frames) of an utterance, zero-padded at the end to `frames`, and the
    tracks' frames of them.
    """
    samples = corpus.read(row, start, frames)
    conditions = corpus.conditions(row) | {
        track.name: track.read(corpus, row, start, -(-frames // track.hop)) for track in tracks
    }
    wave = np.zeros(frames, np.float32)
    wave[: len(samples)] = samples
    return Crop(torch.from_numpy(wave), len(samples), conditions, row)


class Segments(Dataset[Crop]):
    """Random crops of `frames` samples from a split, indexed by (position, segment).

    An utterance of n samples has ceil(n / frames) segments, so that minutes and not files are
    sampled evenly. The segment names the utterance; where the crop starts in it depends on (seed,
    position) alone, not on order or processes. With tracks it starts on a frame of each.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        frames: int,
        seed: int = 0,
        tracks: Sequence[Track] = (),
    ) -> None:
        if frames <= 0:
            raise UserInputError(f"crops of {frames} samples, expected at least one")
        self.corpus = corpus
        self.frames = frames
        self.seed = seed
        self.tracks = tuple(tracks)
        self.grid = math.lcm(*(track.hop for track in tracks))
        rows = np.asarray(corpus.of(split))
        # (segments,)
        self.rows = np.repeat(rows, [-(-corpus.utterances[i].frames // frames) for i in rows])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        position, segment = key
        row = int(self.rows[segment])
        places = max(self.corpus.utterances[row].frames - self.frames, 0) // self.grid + 1
        start = counter_key("crop", self.seed, position) % places * self.grid
        return read_crop(self.corpus, row, start, self.frames, self.tracks)


def training_batches(
    segments: Segments,
    batch: int,
    *,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    workers: int = 0,
) -> DataLoader[Crop]:
    """Batches without end of this rank's part of the global micro-batch, from micro-step
    `start_step` on.
    """
    sampler = StepSampler(
        len(segments), batch, seed=segments.seed, rank=rank, world=world, start_step=start_step
    )
    return DataLoader(
        segments,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_outlive_signals,
    )


def _outlive_signals(_: int) -> None:
    """A signal to an entire process group shall end the training after its step, for which it needs
    its clips.

    SIGTERM, by which a parent also ends a worker that is left over, takes effect after a minute.
    """
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):  # the latter is not everywhere
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(60))


def evaluation_crops(
    corpus: Corpus,
    split: str,
    frames: int,
    limit: int | None = None,
) -> list[tuple[int, int]]:
    """(row, start) of consecutive crops that tile a split's utterances; at most `limit` of them,
    evenly spread.
    """
    crops = [
        (i, start)
        for i in corpus.of(split)
        for start in range(0, corpus.utterances[i].frames, frames)
    ]
    if limit is None or limit >= len(crops):
        return crops
    return [crops[k * len(crops) // limit] for k in range(limit)]


def evaluation_batches(
    corpus: Corpus,
    split: str,
    batch: int,
    frames: int,
    limit: int | None = None,
    *,
    tracks: Sequence[Track] = (),
) -> Iterator[Batch]:
    """The split's `evaluation_crops` in order, in batches of `batch` (the last may be smaller): the
    same every time.
    """
    crops = evaluation_crops(corpus, split, frames, limit)
    for first in range(0, len(crops), batch):
        some = crops[first : first + batch]
        yield collate([read_crop(corpus, row, start, frames, tracks) for row, start in some])
