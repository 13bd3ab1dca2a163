"""A corpus as it is written: shards of samples, F0, the index and its header.

`corpus.py` describes the files and reads them.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Self

from vqwave import pitch_tracking
from vqwave.data.corpus import FORMAT, HEADER, INDEX, PITCH, REJECTED, Utterance, shard_name
from vqwave.data.manifest import Rejected
from vqwave.data.preprocess import Prepared, Target

SHARD_SAMPLES = 2**29  # 1 GiB
UNKNOWN = "unknown"  # the value of a label that a recording lacks and others have


class ShardWriter:
    """Appends samples to shards of at most `size` samples (one utterance is never split), and F0 to
    one file.

    `hashes` has the SHA-256 of each shard by its file name, once it is closed.
    """

    def __init__(self, folder: Path, size: int = SHARD_SAMPLES) -> None:
        self.folder = folder
        self.size = size
        self.shard = 0
        self.offset = 0
        self.hashes: dict[str, str] = {}
        self._pitch = (folder / PITCH).open("wb")
        self._open()

    def _open(self) -> None:
        self._file, self._hash = (self.folder / shard_name(self.shard)).open("wb"), hashlib.sha256()

    def _close(self) -> None:
        self._file.close()
        self.hashes[shard_name(self.shard)] = self._hash.hexdigest()

    def add(self, prepared: Prepared) -> Utterance:
        """Write one recording's samples and F0; the row of the index that finds them again."""
        frames = len(prepared.samples)
        if self.offset and self.offset + frames > self.size:
            self._close()
            self.shard, self.offset = self.shard + 1, 0
            self._open()
        samples = prepared.samples.astype("<i2").tobytes()
        self._file.write(samples)
        self._hash.update(samples)
        self._pitch.write(prepared.f0.astype("<f4").tobytes())
        recording = prepared.recording
        utterance = Utterance(
            id=recording.id,
            shard=self.shard,
            offset=self.offset,
            frames=frames,
            speaker=recording.speaker,
            text=recording.text,
            split=recording.split,
            labels={"speaker": recording.speaker} | recording.labels,
            phones=prepared.phones,
        )
        self.offset += frames
        return utterance

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self._pitch.close()


def complete_labels(utterances: Sequence[Utterance]) -> list[Utterance]:
    """Each with every label that any of them has."""
    names = list(dict.fromkeys(name for u in utterances for name in u.labels))
    return [
        replace(u, labels={name: u.labels.get(name, UNKNOWN) for name in names}) for u in utterances
    ]


def write_index(
    folder: Path,
    utterances: list[Utterance],
    *,
    name: str,
    source: str,
    target: Target,
    hashes: Mapping[str, str],
) -> None:
    """The rows and the header; hashes: of the shards, by file name."""
    splits = Counter(u.split for u in utterances)
    header = {
        "format": FORMAT,
        "name": name,
        "sample_rate": target.sample_rate,
        "labels": {
            label: sorted({u.labels[label] for u in utterances}) for label in utterances[0].labels
        },
        "splits": {split: splits[split] for split in ("train", "valid", "test") if splits[split]},
        "level_db": target.level_db,
        "source": source,
        "sha256": dict(hashes),
        "pitch": {
            "hop": pitch_tracking.ten_milliseconds(target.sample_rate),
            "range": [pitch_tracking.LOWEST, pitch_tracking.HIGHEST],
        },
    }
    with (folder / INDEX).open("w", encoding="utf-8") as file:
        for utterance in utterances:
            row = {k: v for k, v in asdict(utterance).items() if k != "phones" or v}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / HEADER).write_text(
        json.dumps(header, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def write_rejected(folder: Path, rejected: Sequence[Rejected]) -> None:
    """The files that were left out, and why."""
    with (folder / REJECTED).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows((str(row.path), row.reason) for row in rejected)
