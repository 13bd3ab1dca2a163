"""Judges of evaluations that need no download."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vqwave.evaluation import panel
from vqwave.metrics.recognition import Recogniser

Judges = Callable[[str, Callable[[], object]], None]


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> Judges:
    """Sets them: a recogniser that gives `text` of any recording, a maker of speaker encoders;
    naturalness is the highest sample.
    """

    def put(text: str, speaker_encoder: Callable[[], object]) -> None:
        constant = Recogniser("a constant", lambda wave, rate: text)
        monkeypatch.setattr(panel, "recogniser", lambda weights: constant)
        monkeypatch.setattr(panel, "speaker_encoder", speaker_encoder)
        monkeypatch.setattr(panel, "dnsmos", lambda: lambda wave, rate: float(np.abs(wave).max()))
        monkeypatch.setattr("vqwave.evaluation.utterances.TARGET_SECONDS", 0.5)

    return put
