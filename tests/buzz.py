"""A made-up corpus of buzzing voices, one pitch each, laid out as `vqwave prepare` lays out its
own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqwave.audio import Wave, to_int16

RATE = 8000


@dataclass(frozen=True)
class Take:
    """One utterance: who, how high (Hz), in which split, what is said."""

    speaker: str
    pitch: float
    split: str
    text: str


def buzz(pitch: float, seconds: float) -> Wave:
    """Eleven harmonics of a pitch in Hz, (T,)."""
    t = np.arange(round(RATE * seconds)) / RATE
    tones = [np.cos(2 * np.pi * pitch * k * t) / k for k in range(1, 12)]
    return (0.05 * sum(tones)).astype(np.float32)


def write_corpus(
    folder: Path, takes: Iterable[Take], seconds: float, speakers: Sequence[str]
) -> None:
    """Takes of so many seconds each, at their own levels."""
    rows, waves = [], []
    for number, take in enumerate(takes):
        waves.append(buzz(take.pitch, seconds))
        place = {"shard": 0, "offset": number * len(waves[-1]), "frames": len(waves[-1])}
        labels = {"speaker": take.speaker}
        row = {"id": f"{take.speaker}/{number}", **place, **labels, "labels": labels}
        rows.append(json.dumps(row | {"text": take.text, "split": take.split}))
    folder.mkdir()
    (folder / "index.jsonl").write_text("\n".join(rows))
    (folder / "shard-00000.i16").write_bytes(to_int16(np.concatenate(waves)).tobytes())
    header = {"format": 1, "name": "buzz", "sample_rate": RATE, "splits": {}, "level_db": -23.0}
    header |= {"labels": {"speaker": list(speakers)}, "source": "made up"}
    (folder / "corpus.json").write_text(json.dumps(header))
