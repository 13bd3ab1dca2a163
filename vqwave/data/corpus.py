"""A prepared corpus on disk: int16 shards, an index, and what the labels are called.

    corpus.json       format, name, sample_rate, labels {"speaker": [...]}, splits {"train": n},
                      level_db, source, sha256 {"shard-00000.i16": ...}, pitch {"hop": samples,
                      "range": [Hz, Hz]}; a corpus of an older release lacks the last two
    index.jsonl       one utterance a line: id, shard, offset, frames, speaker, text, split,
                      labels, phones
    shard-00000.i16   little-endian int16 samples, x = k / 32768
    pitch.f32         little-endian float32 F0 in Hz, 0 where unvoiced: ceil(frames / hop) an
                      utterance, in the order of the index
    vectors/NAME.npy  optional: a vector (V,) an utterance, in the order of the index (such as
                      speaker embeddings)
    rejected.csv      what was left out, and why

Opening reads the two text files; the shards are memory-mapped, and `read` copies the crop alone.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.utils.data import Dataset

from vqwave import parsing
from vqwave.audio import Wave, from_int16
from vqwave.data.arrays import read_array
from vqwave.data.items import Item
from vqwave.data.manifest import Phones
from vqwave.errors import UserInputError, nearest

FORMAT = 1
HEADER = "corpus.json"
INDEX = "index.jsonl"
REJECTED = "rejected.csv"
PITCH = "pitch.f32"
MOST_TEXTS = 200  # different texts of a corpus that may condition networks as a label


def shard_name(shard: int) -> str:
    """The file name of a shard."""
    return f"shard-{shard:05d}.i16"


def is_corpus(folder: Path) -> bool:
    """Whether `folder` looks like a prepared corpus."""
    return (folder / HEADER).is_file() and (folder / INDEX).is_file()


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of the index: `frames` samples of `shard` from `offset` on; `phones` are (first
    sample, label) in it.
    """

    id: str
    shard: Annotated[int, Field(ge=0, le=99_999)]
    offset: parsing.Count
    frames: Annotated[parsing.Count, Field(ge=1)]
    speaker: str
    text: str
    split: str
    labels: dict[str, str]
    phones: Phones = ()


@dataclass(frozen=True)
class PitchHeader:
    """Section `pitch` of `corpus.json`."""

    hop: Annotated[int, Field(ge=1, le=1_000_000)]
    range: tuple[Annotated[parsing.Finite, Field(ge=0)], Annotated[parsing.Finite, Field(gt=0)]]


@dataclass(frozen=True)
class CorpusHeader:
    """`corpus.json`."""

    format: Literal[1]
    name: str
    sample_rate: parsing.Rate
    labels: dict[str, list[str]]
    level_db: Annotated[parsing.Finite, Field(ge=-120, le=60)]
    source: str
    sha256: dict[str, str] = field(default_factory=dict)
    pitch: PitchHeader | None = None


@dataclass(frozen=True)
class StoredPitch:
    """How a corpus' F0 was taken: a frame each `hop` samples, between `lowest` and `highest` Hz."""

    hop: int
    lowest: float
    highest: float

    def frames(self, samples: int) -> int:
        """Of an utterance of so many samples."""
        return -(-samples // self.hop)


class Corpus(Dataset[Item]):
    """A prepared corpus: `Corpus.open("data/fsdd")`.

    It is a data set of complete utterances: `len(corpus)`, `corpus[i]` (see `Item`), and for a
    `DataLoader` `collate_items`; of one split, `torch.utils.data.Subset(corpus,
    corpus.of("train"))`.

    `labels` lists the values of each label column, sorted; a label's id is its place there.
    `utterances` are the rows. Where few texts (at most `MOST_TEXTS`) are said again and again, as
    digits are, `text` is a label column, too.
    """

    def __init__(
        self,
        folder: Path,
        header: dict[str, Any],
        utterances: list[Utterance],
        vectors: dict[str, NDArray[np.float32]] | None = None,
    ) -> None:
        """vectors: (N, V) by name; None reads those of the folder."""
        self.folder = folder
        self.name: str = header["name"]
        self.sample_rate: int = header["sample_rate"]
        self.labels: dict[str, list[str]] = header["labels"]
        self.level_db: float = header["level_db"]
        self.source: str = header["source"]
        self.shard_hashes: dict[str, str] = header.get("sha256", {})
        self.utterances = utterances
        stored = header.get("pitch")
        self.pitch = None if stored is None else StoredPitch(stored["hop"], *stored["range"])
        self.vectors = _vectors(folder, len(utterances)) if vectors is None else vectors
        self._ids = {
            name: {value: k for k, value in enumerate(values)}
            for name, values in self.labels.items()
        }
        self._maps: dict[int, NDArray[np.int16]] = {}
        self._f0: NDArray[np.float32] | None = None
        self._chosen: frozenset[str] = frozenset()

    @classmethod
    def open(cls, folder: str | Path) -> Corpus:
        """Open a folder that `vqwave prepare` wrote; a `UserInputError` says what is wrong with
        any other.
        """
        folder = Path(folder)
        if not is_corpus(folder):
            problem = "is no prepared corpus" if folder.is_dir() else "no such folder"
            made_up = folder == Path("data/demo")  # the corpus of the configurations for a trial
            what = "demo --sample-rate 8000" if made_up else "KIND SOURCE"
            raise UserInputError(
                f"{folder}: {problem}; make one with `vqwave prepare {what} --out {folder}`"
            )
        try:
            header = parsing.read_json(folder / HEADER, "a corpus", dict[str, Any])
            if header.get("format") != FORMAT:
                raise UserInputError(
                    f"{folder / HEADER}: format {header.get('format')!r}, expected {FORMAT}"
                )
            parsing.checked(CorpusHeader, header, str(folder / HEADER))
            lines = parsing.read_json_lines(folder / INDEX, "utterances", Utterance)
            utterances = [utterance for _, utterance in lines]
            _check_labels(header["labels"], utterances, folder / INDEX)
        except UserInputError as error:
            raise UserInputError(f"{folder}: damaged corpus ({error}); prepare it again") from error
        corpus = cls(folder, *_with_text(header, utterances))
        corpus._check_shards()
        corpus._check_pitch()
        return corpus

    @property
    def speakers(self) -> list[str]:
        """The speakers' names, sorted."""
        return self.labels["speaker"]

    @cached_property
    def vocabulary(self) -> dict[str, list[str]]:
        """What may condition networks by id: the labels' values and, where utterances are aligned,
        the phones.
        """
        phones = sorted({label for u in self.utterances for _, label in u.phones})
        return self.labels | ({"phones": phones} if phones else {})

    @property
    def splits(self) -> dict[str, int]:
        """How many utterances each split holds."""
        counts = Counter(u.split for u in self.utterances)
        usual = [name for name in ("train", "valid", "test") if name in counts]
        return {name: counts[name] for name in dict.fromkeys([*usual, *counts])}

    def of(self, split: str) -> list[int]:
        """The places in `utterances` of a split's rows.

        Raises `UserInputError` that names the splits there are.
        """
        rows = [i for i, u in enumerate(self.utterances) if u.split == split and self._takes(u)]
        if not rows:
            there = ", ".join(f"{name} ({n})" for name, n in self.splits.items())
            if split in self.splits:
                reason = f"nothing of {', '.join(sorted(self._chosen))} in split {split!r}"
                raise UserInputError(f"{self.folder}: {reason}, of all speakers there are {there}")
            raise UserInputError(
                f"{self.folder}: no split {split!r}, there are {there}{nearest(split, self.splits)}"
            )
        return rows

    def only(self, speakers: Sequence[str]) -> Corpus:
        """The same corpus and labels, but splits hold these speakers alone; none named: all.

        Raises `UserInputError`.
        """
        for name in speakers:
            self.label_id("speaker", name)
        chosen = copy(self)
        chosen._chosen = frozenset(speakers)
        return chosen

    def _takes(self, utterance: Utterance) -> bool:
        return not self._chosen or utterance.speaker in self._chosen

    def label_id(self, label: str, value: str) -> int:
        """The id of a label's value, such as ("speaker", "theo").

        Raises `UserInputError` with the nearest names.
        """
        if label not in self._ids:
            raise UserInputError(
                f"{self.folder}: no label {label!r}, there are {', '.join(self.labels)}"
            )
        if value not in self._ids[label]:
            known = self.labels[label]
            raise UserInputError(
                f"{self.folder}: no {label} {value!r} among {len(known)}{nearest(value, known)}"
            )
        return self._ids[label][value]

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, i: int) -> Item:
        """Utterance `i`, from the end if below 0. Raises IndexError beyond either end."""
        i = range(len(self))[i]
        utterance = self.utterances[i]
        item = Item(
            index=i,
            id=utterance.id,
            text=utterance.text,
            wave=torch.from_numpy(self.read(i)),
            labels={name: torch.as_tensor(value) for name, value in self.conditions(i).items()},
        )
        if self.pitch is not None:
            item["f0"] = torch.from_numpy(self.f0(i))
        return item

    def label_ids(self, i: int) -> dict[str, int]:
        """The ids of all labels of utterance `i`."""
        return {
            label: self._ids[label][value] for label, value in self.utterances[i].labels.items()
        }

    def conditions(self, i: int) -> dict[str, int | NDArray[np.float32]]:
        """The conditions of utterance `i` by name: the ids of its labels, its vectors (V,)."""
        return self.label_ids(i) | {name: rows[i] for name, rows in self.vectors.items()}

    def seconds(self, split: str | None = None) -> float:
        """How long the utterances of a split (None: all) are together."""
        return sum(u.frames for u in self.utterances if split in (None, u.split)) / self.sample_rate

    def read(self, i: int, start: int = 0, frames: int | None = None) -> Wave:
        """Samples [start, start + frames) of utterance `i` in [-1, 1], cut at its end; only the
        crop is copied.
        """
        utterance = self.utterances[i]
        stop = utterance.frames if frames is None else min(start + frames, utterance.frames)
        if not 0 <= start <= stop:
            raise UserInputError(
                f"utterance {utterance.id!r} has {utterance.frames} samples, expected [{start},"
                f" {stop})"
            )
        shard, first, last = (
            self._shard(utterance.shard),
            utterance.offset + start,
            utterance.offset + stop,
        )
        samples = from_int16(shard[first:last])
        _let_go(shard)
        return samples

    def require_pitch(self) -> StoredPitch:
        """How F0 is stored.

        Raises `UserInputError` for a corpus that an earlier version prepared, without F0.
        """
        if self.pitch is None:
            again = f"`vqwave prepare KIND SOURCE --out {self.folder}`"
            raise UserInputError(
                f"{self.folder}: prepared before F0 was stored; prepare it again with {again}"
            )
        return self.pitch

    def f0(self, i: int) -> NDArray[np.float32]:
        """F0 of utterance `i` in Hz, 0 where unvoiced, a frame each `pitch.hop` samples:
        (ceil(frames / hop),).

        Raises `UserInputError` for a corpus that an earlier version prepared, without F0.
        """
        self.require_pitch()
        if self._f0 is None:
            self._f0 = np.memmap(self.folder / PITCH, dtype="<f4", mode="r")
        return np.array(self._f0[self._f0_starts[i] : self._f0_starts[i + 1]], np.float32)

    @cached_property
    def _f0_starts(self) -> NDArray[np.int64]:
        """Where the F0 of each utterance begins in its file, and where the last one ends: (N +
        1,).
        """
        counts = [self.pitch.frames(u.frames) for u in self.utterances] if self.pitch else []
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def _check_pitch(self) -> None:
        if self.pitch is None:
            return
        path, expected = self.folder / PITCH, 4 * int(self._f0_starts[-1])
        size = path.stat().st_size if path.is_file() else 0
        if size < expected:
            raise UserInputError(
                f"{path}: {size} bytes, the index expects {expected}; prepare the corpus again"
            )

    def _shard(self, shard: int) -> NDArray[np.int16]:
        if shard not in self._maps:
            self._maps[shard] = np.memmap(self.folder / shard_name(shard), dtype="<i2", mode="r")
        return self._maps[shard]

    def _check_shards(self) -> None:
        ends: dict[int, int] = {}
        for u in self.utterances:
            ends[u.shard] = max(ends.get(u.shard, 0), u.offset + u.frames)
        for shard, end in ends.items():
            path = self.folder / shard_name(shard)
            size = path.stat().st_size if path.is_file() else 0
            if size < 2 * end:
                raise UserInputError(
                    f"{path}: {size} bytes, the index expects {2 * end}; prepare the corpus again"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps: a data-loading process opens its own instead of being sent the
        samples.
        """
        return self.__dict__ | {"_maps": {}, "_f0": None}

    def __repr__(self) -> str:
        size = (
            f"{len(self.utterances)} utterances, {len(self.speakers)} speakers,"
            f" {self.seconds() / 60:.1f} min"
        )
        return f"Corpus({self.name!r}, {size}, {self.sample_rate} Hz)"


def _let_go(shard: NDArray[np.int16]) -> None:
    """Take the pages of a memory-mapped shard out of this process; the disk's cache keeps them.

    Else a process comes to hold, as the system counts, every page of the corpus that it ever read.
    """
    mapping = getattr(shard, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def _vectors(folder: Path, count: int) -> dict[str, NDArray[np.float32]]:
    """The arrays (N, V) of `folder`/vectors.

    Raises `UserInputError` for one that does not have a row an utterance.
    """
    vectors = {path.stem: read_array(path) for path in sorted((folder / "vectors").glob("*.npy"))}
    for name, rows in vectors.items():
        if rows.ndim != 2 or len(rows) != count:
            raise UserInputError(
                f"{folder / 'vectors' / name}.npy: shape {rows.shape}, expected ({count}, V): a row"
                " an utterance"
            )
    return vectors


def _check_labels(
    labels: dict[str, list[str]], utterances: Sequence[Utterance], path: Path
) -> None:
    """Raises UserInputError for an utterance whose labels are not those of the corpus, and for
    one that is there twice.
    """
    known, ids = {name: set(values) for name, values in labels.items()}, set()
    known.setdefault("speaker", set())
    for number, utterance in enumerate(utterances, 1):
        for name, value in [("speaker", utterance.speaker), *utterance.labels.items()]:
            if value not in known.get(name, ()):
                raise UserInputError(
                    f"{path}, utterance {number}: {name} {value!r}, which {HEADER} does not name"
                )
        if utterance.id in ids:
            raise UserInputError(f"{path}, utterance {number}: id {utterance.id!r} is there twice")
        ids.add(utterance.id)
    if not utterances:
        raise UserInputError(f"{path}: empty, expected utterances")


def _with_text(
    header: dict[str, Any], utterances: list[Utterance]
) -> tuple[dict[str, Any], list[Utterance]]:
    """`text` as one more label column, if each utterance has one, they are few, and each is said
    twice on average.
    """
    texts = sorted({u.text for u in utterances})
    if (
        "" in texts
        or not 2 <= len(texts) <= min(MOST_TEXTS, len(utterances) // 2)
        or "text" in header["labels"]
    ):
        return header, utterances
    labels = {**header["labels"], "text": texts}
    return {**header, "labels": labels}, [
        replace(u, labels={**u.labels, "text": u.text}) for u in utterances
    ]
