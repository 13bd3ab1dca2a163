"""The pitch of each voice of a corpus: mean and deviation of ln F0 over voiced frames."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from vqwave.data.corpus import Corpus
from vqwave.pitch_tracking import F0

LEAST_DEVIATION = 0.05  # of ln F0; that of lively speech is some 0.2
QUARTILES = 1.349  # deviations between the quartiles of a normal distribution


@dataclass(frozen=True)
class VoicePitch:
    """Mean and deviation of ln(F0 / 100 Hz), the deviation at least `LEAST_DEVIATION`."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, f0: F0) -> VoicePitch | None:
        """F0 in Hz (F,), 0 where unvoiced -> its statistics; None where nothing is voiced."""
        log_f0 = np.log(f0[f0 > 0].astype(np.float64) / 100)
        if not len(log_f0):
            return None
        return cls(float(log_f0.mean()), max(LEAST_DEVIATION, float(log_f0.std())))

    @classmethod
    def of_reference(cls, f0: F0) -> VoicePitch | None:
        """The same of one short recording, whose F0 may jump by octaves: the median, and the
        deviation of a normal distribution with these quartiles.
        """
        log_f0 = np.log(f0[f0 > 0].astype(np.float64) / 100)
        if not len(log_f0):
            return None
        low, median, high = np.quantile(log_f0, (0.25, 0.5, 0.75))
        return cls(float(median), max(LEAST_DEVIATION, float(high - low) / QUARTILES))


UNVOICED = VoicePitch(0.4, 0.2)
"""Of a recording in which nothing is voiced: about 150 Hz."""


def voice_pitches(corpus: Corpus, split: str = "train") -> dict[str, VoicePitch]:
    """Each speaker's statistics over a split, those without voiced frames left out.

    Raises `UserInputError` without stored F0.
    """
    by_speaker: defaultdict[str, list[F0]] = defaultdict(list)
    for row in corpus.of(split):
        by_speaker[corpus.utterances[row].speaker].append(corpus.f0(row))
    pitches = {
        speaker: VoicePitch.of(np.concatenate(parts))
        for speaker, parts in sorted(by_speaker.items())
    }
    return {speaker: voice for speaker, voice in pitches.items() if voice is not None}


def pitch_of(corpus: Corpus, row: int, voices: dict[str, VoicePitch]) -> VoicePitch:
    """The statistics that an utterance is normalised by: its voice's if that is known, else its
    own.
    """
    return voices.get(corpus.utterances[row].speaker) or VoicePitch.of(corpus.f0(row)) or UNVOICED


def voices_of(corpus: Corpus) -> list[tuple[float, float]]:
    """Mean and deviation of each speaker's ln(F0 / 100 Hz), in the order of the label's values.

    Of training recordings, or of all where there is none of these. Raises `UserInputError` without
    stored F0.
    """
    trained = voice_pitches(corpus)
    rows: defaultdict[str, list[F0]] = defaultdict(list)
    for row, utterance in enumerate(corpus.utterances):
        if utterance.speaker not in trained:
            rows[utterance.speaker].append(corpus.f0(row))
    others = {speaker: VoicePitch.of(np.concatenate(parts)) for speaker, parts in rows.items()}
    voices = [
        trained.get(name) or others.get(name) or UNVOICED for name in corpus.labels["speaker"]
    ]
    return [(voice.mean, voice.deviation) for voice in voices]
