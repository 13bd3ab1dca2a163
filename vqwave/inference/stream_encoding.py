"""Speech into codes as it comes."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.audio import Wave
from vqwave.audio.streaming import Resampler
from vqwave.codes import CodeBlock
from vqwave.errors import UserInputError
from vqwave.inference.chunked_encoding import ChunkEncoder
from vqwave.inference.stream_level import Level
from vqwave.models.vqvae import VQVAE

SOON = 0.16  # seconds that a stream encodes at once
SETTLE = 1.0  # seconds from which a stream takes its level


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
        self.chunks = ChunkEncoder(model, max(1, round(seconds * rate / model.hop)))
        self.sample_rate, self.over = rate, False

    @property
    def latency(self) -> float:
        """Seconds that the codes stay behind the samples, at the most, once the level is known
        (`SETTLE` seconds).
        """
        return self.chunks.lag / self.sample_rate + self.resampler.latency

    @property
    def samples(self) -> int:
        """How many there were, at the model's rate."""
        return self.chunks.samples

    def push(self, wave: Wave) -> Tensor:
        """One channel's samples (n,), see `inputs` -> the codes (Q, m) that are known now.

        Raises UserInputError.
        """
        return self.chunks.push(self.prepare(wave))

    def flush(self) -> Tensor:
        """The last codes. Raises UserInputError where there was no sound."""
        return torch.cat([self.chunks.push(self.rest()), self.chunks.flush()], 1)

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
        if self.over:
            raise UserInputError("push: this stream is over, expected a new one")
        samples = inputs.mono(wave)
        if not np.isfinite(samples).all():
            raise UserInputError("a sample that is NaN or infinite, expected audio")
        return self.level.push(self.resampler.push(samples))

    def rest(self) -> Wave:
        """The last of what `prepare` gives. Raises UserInputError where there was no sound."""
        if self.over:
            raise UserInputError("flush: this stream is over, expected a new one")
        self.over = True
        return np.concatenate([self.level.push(self.resampler.flush()), self.level.flush()])
