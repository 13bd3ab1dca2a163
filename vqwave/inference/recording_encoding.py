"""Sound files of any length into codes, in memory that does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vqwave import pitch_tracking
from vqwave.audio import SILENCE_DB, Wave
from vqwave.audio.streaming import Recording, Resampler
from vqwave.errors import UserInputError
from vqwave.inference.chunked_encoding import ChunkEncoder, default_chunk
from vqwave.models.vqvae import VQVAE

PEAK = -0.5  # dBFS, as `normalise_level` has it


def encode_recording(
    model: VQVAE, recording: Recording, rate: int, target: float
) -> tuple[Tensor, int, pitch_tracking.F0 | None]:
    """A sound file of any length -> its codes (Q, F), its samples at `rate`, and, for a model with
    melody, its F0.

    As prepared and encoded at once, up to rounding.

    It is read for its mean, for its level and peak, and for its codes. Raises UserInputError for
    silence.
    """
    count = max(1, round(recording.seconds * recording.sample_rate))
    total = power = 0.0
    for x in recording.pieces():
        total += float(x.sum(dtype=np.float64))
        power += float(np.square(x, dtype=np.float64).sum())
    mean, threshold = total / count, 10 ** (SILENCE_DB / 10)
    silent = power / count - mean**2 < threshold
    squares, peak, count = 0.0, 0.0, 0
    for y in _centred(recording, mean, rate):
        squares += float(np.square(y, dtype=np.float64).sum())
        peak, count = max(peak, float(np.abs(y).max(initial=0.0))), count + len(y)
    if silent or squares / max(1, count) < threshold:
        raise UserInputError(
            f"{recording.path}: silent (below {SILENCE_DB:.0f} dBFS), expected audio"
        )
    gain = 10 ** (min(target - 10 * math.log10(squares / count), PEAK - 20 * math.log10(peak)) / 20)
    chunks = ChunkEncoder(model, default_chunk(model, rate))
    stream = None if model.melody is None else pitch_tracking.PitchStream(rate, model.melody.hop)
    parts: list[Tensor] = []
    f0: list[pitch_tracking.F0] = []
    for y in _centred(recording, mean, rate):
        levelled = (y * gain).astype(np.float32)
        parts.append(chunks.push(levelled))
        if stream is not None:
            f0.append(stream.push(levelled))
    codes = torch.cat([*parts, chunks.flush()], 1)
    return codes, chunks.samples, None if stream is None else np.concatenate([*f0, stream.flush()])


def _centred(recording: Recording, mean: float, rate: int) -> Iterator[Wave]:
    """Pieces of it, without its mean, at another rate."""
    resampler = Resampler(recording.sample_rate, rate)
    for x in recording.pieces():
        yield resampler.push((x - mean).astype(np.float32))
    yield resampler.flush()
