"""The level of a recording that is not complete yet."""

from __future__ import annotations

import numpy as np

from vqwave.audio import Wave, normalise_level, silence_in
from vqwave.errors import UserInputError

SILENCE = 1e-6  # a peak below this, once the DC is gone, is rounding


class Level:
    """Samples as they come -> without DC and at the level that the model was trained at: both are
    taken from the first second of sound. Where the level is known, DC stays.

    Silence before it passes as zeros: exact zeros, and seconds below the level at which sound
    begins. What is shorter than a second, and begins with sound, comes out as
    `SpeechModel.prepare` makes it.
    """

    def __init__(self, target: float, settle: int, known: float | None = None) -> None:
        """target: dBFS; settle: samples; known: the RMS level of the input in dBFS, if known."""
        self.target, self.settle = target, settle
        self.waiting: list[Wave] = []
        self.mean, self.gain = (
            0.0,
            None if known is None else np.float32(10 ** ((target - known) / 20)),
        )

    def push(self, wave: Wave) -> Wave:
        parts = [np.zeros(0, np.float32)]
        while self.gain is None and len(wave):
            missing = self.settle - sum(map(len, self.waiting))
            piece = wave[:missing]
            if not self.waiting:
                loud = np.flatnonzero(np.abs(piece) > SILENCE)
                if start := int(loud[0]) if len(loud) else len(piece):
                    parts.append(np.zeros(start, np.float32))
                    wave = wave[start:]
                    continue
            self.waiting.append(piece)
            wave = wave[len(piece) :]
            if len(piece) == missing:
                parts.append(self._settle())
        if self.gain is not None:
            parts.append(((wave - self.mean) * self.gain).astype(np.float32))
        return np.concatenate(parts)

    def flush(self) -> Wave:
        """Raises UserInputError where there was no sound."""
        rest = self._settle() if self.gain is None and self.waiting else np.zeros(0, np.float32)
        if self.gain is None:
            raise UserInputError("the recording is empty or silent, expected audio")
        return rest

    def _settle(self) -> Wave:
        first, self.waiting = np.concatenate(self.waiting), []
        mean = np.mean(first, dtype=np.float64)
        centred = (first - mean).astype(np.float32)
        if silence_in(centred) is not None:
            return np.zeros_like(first)
        self.mean, peak = mean, float(np.abs(centred).max())
        levelled = normalise_level(centred, self.target)
        self.gain = np.float32(np.abs(levelled).max() / peak)
        return levelled
