"""Speech into codes as it comes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.audio import normalise_level, silence_in
from vqwave.audio.streaming import Resampler
from vqwave.codes import CodeBlock
from vqwave.errors import UserInputError
from vqwave.inference.chunked_encoding import SILENCE, Blocks, Wave
from vqwave.models.vqvae import VQVAE

SOON = 0.16  # seconds that a stream encodes at once
SETTLE = 1.0  # seconds from which a stream takes its level


class Level:
    """Samples as they come -> without DC and at the level that the model was trained at: both are
    taken from the first second.

    Silence before it passes as zeros: exact zeros, and seconds below the level at which sound
    begins. What is shorter than that comes out as `SpeechModel.prepare` makes it.
    """

    def __init__(self, target: float, settle: int, known: float | None = None) -> None:
        """target: dBFS; settle: samples; known: the RMS level of the input in dBFS, if that need
        not be found out.
        """
        self.target, self.settle = target, settle
        self.waiting: list[Wave] = []
        self.mean, self.gain = (
            0.0,
            None if known is None else np.float32(10 ** ((target - known) / 20)),
        )

    def push(self, wave: Wave) -> Wave:
        if self.gain is not None:
            return ((wave - self.mean) * self.gain).astype(np.float32)
        if not self.waiting:
            loud = np.flatnonzero(np.abs(wave) > SILENCE)
            start = int(loud[0]) if len(loud) else len(wave)
            if start:
                rest = self.push(wave[start:]) if start < len(wave) else wave[:0]
                return np.concatenate([np.zeros(start, np.float32), rest])
        self.waiting += [wave] if len(wave) else []
        missing = self.settle - sum(map(len, self.waiting))
        if missing > 0:
            return wave[:0]
        self.waiting[-1], rest = np.split(wave, [len(wave) + missing])
        return np.concatenate([self._settle(), self.push(rest)])

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


class SpeechStream:
    """A recording being encoded as it comes: any rate, any chunks.

    `push` samples, take codes; `flush` at the end. A model without melody has no `pitch`, and the
    header of its file is known from the start: `ready`.
    """

    pitch: None = None
    ready = True

    def __init__(
        self,
        model: VQVAE,
        rates: tuple[int, int],
        target: float,
        known: float | None,
        seconds: float,
    ) -> None:
        """rates: of the input and of the model; target and known: see `Level`; seconds: encoded at
        once.
        """
        source, rate = inputs.sample_rate(rates[0]), rates[1]
        if known is not None and not math.isfinite(known):
            raise UserInputError(f"level: {known}, expected dBFS, such as -23")
        seconds = inputs.seconds(seconds)
        self.level = Level(target, round(SETTLE * rate), known)
        self.resampler = Resampler(source, rate)
        self.blocks = Blocks(model, max(1, round(seconds * rate / model.hop)))
        self.sample_rate = rate

    @property
    def latency(self) -> float:
        """Seconds that the codes stay behind the samples, at the most, once the level is known
        (`SETTLE` seconds).
        """
        return self.blocks.lag / self.sample_rate + self.resampler.latency

    @property
    def samples(self) -> int:
        """How many there were, at the model's rate."""
        return self.blocks.samples

    def push(self, wave: Wave) -> Tensor:
        """One channel's samples (n,), see `inputs` -> the codes (Q, m) that are known now.

        Raises UserInputError.
        """
        return self.blocks.push(self.prepare(wave))

    def flush(self) -> Tensor:
        """The last codes. Raises UserInputError where there was no sound."""
        return torch.cat([self.blocks.push(self.rest()), self.blocks.flush()], 1)

    def push_block(self, wave: Wave) -> CodeBlock:
        """As `push`, in the form of a stream with melody."""
        return CodeBlock(self.push(wave))

    def flush_block(self) -> CodeBlock:
        """As `flush`, in the form of a stream with melody."""
        return CodeBlock(self.flush())

    def prepare(self, wave: Wave) -> Wave:
        """One channel's samples (n,), see `inputs` -> (m,) at the model's rate and level.

        Raises UserInputError.
        """
        samples = inputs.mono(wave)
        if not np.isfinite(samples).all():
            raise UserInputError("a sample that is NaN or infinite, expected audio")
        return self.level.push(self.resampler.push(samples))

    def rest(self) -> Wave:
        """The last of what `prepare` gives. Raises UserInputError where there was no sound."""
        return np.concatenate([self.level.push(self.resampler.flush()), self.level.flush()])
