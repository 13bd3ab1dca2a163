"""What an evaluation measures, and on how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vqwave.decode.sampling import Sampling
from vqwave.metrics.recognition import WHISPER


@dataclass(frozen=True)
class Settings:
    """What is measured, and on how much.

    `limit`: utterances at most; longer ones are cut after `seconds`.
    """

    split: str = "test"
    only: tuple[str, ...] = ()
    limit: int | None = None
    seconds: float = 4.0
    targets: int = 6  # voices to convert to
    pairs: int = 600  # conversions at most
    takes: int = 2  # of each word and speaker that a prior generates
    code_temperature: float = 1.0  # of a prior's codes
    code_top_p: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = 32
    resamples: int = 1000
    speakers: tuple[str, ...] = ()  # of utterances and targets; none: all
    whisper: str = WHISPER  # weights that recognise words
    keep: Path | None = None  # folder for trained recognizers
