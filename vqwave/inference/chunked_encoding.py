"""Speech into codes: in blocks with the margins that they hear, so that an hour takes no more
memory than a minute; or as a stream.

Frames are encoded N at a time, from a window that holds all samples that they can hear: what a
block's codes are depends on its place and on N alone, not on how the samples came. The latents are
those of the whole pass up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave import inputs, pitch_tracking
from vqwave.audio import SILENCE_DB, downmix, normalise_level, remove_dc, resample, silence_in
from vqwave.audio.streaming import Recording, Resampler
from vqwave.distributed.torch_defaults import inference
from vqwave.errors import UserInputError
from vqwave.models.vqvae import VQVAE

BLOCK = 10.0  # seconds that are encoded at once, where nobody waits
PEAK = -0.5  # dBFS, as `normalise_level` has it
SILENCE = 1e-6  # a peak below this, once the DC is gone, is rounding
Wave = NDArray[np.float32]


def prepare(wave: Tensor | NDArray, source: int, target: int, level: float) -> Wave:
    """A recording (see `inputs`) at `source` Hz -> (T,) at `target` Hz: mono, no DC, `level` dBFS.

    Raises UserInputError for silence.
    """
    samples, source = inputs.waveform(wave), inputs.sample_rate(source)
    samples = downmix(samples.T) if samples.ndim == 2 else samples
    if not len(samples) or not np.isfinite(samples).all():
        raise UserInputError("the recording is empty or not finite, expected audio")
    samples = _refuse_silence(remove_dc(samples))
    return normalise_level(_refuse_silence(resample(samples, source, target)), level)


def _refuse_silence(wave: Wave) -> Wave:
    """(T,) without DC, as it is.

    Raises UserInputError where it is silent, by the rule of `audio`.
    """
    if (silence := silence_in(wave)) is not None:
        raise UserInputError(f"the recording is {silence}, expected audio")
    return wave


class Blocks:
    """Prepared samples in, codes out, block by block.

    Raises UserInputError for an encoder that hears the whole utterance.
    """

    def __init__(self, model: VQVAE, frames: int) -> None:
        """frames: how many are encoded at once; codes of a two-level codebook come in whole
        stretches.
        """
        span, hop = model.encoder.receptive_span(), model.hop
        if span is None:
            raise UserInputError(
                "this model normalises over the whole utterance (encoder.instance_norm), expected"
                " one without, to stream"
            )
        ratio = model.quantizer.downsample
        self.model, self.hop, self.frames = model, hop, -(-frames // ratio) * ratio
        self.grid = model.encoder.alignment
        # frames around a block
        self.before, self.after = -(span.first // hop), max(0, -(-(span.last + 1 - hop) // hop))
        self.kept = np.zeros(0, np.float32)  # samples from frame `first` on
        self.first = self.frame = self.samples = 0

    @property
    def lag(self) -> int:
        """Samples that what has come out stays behind what went in, at the most."""
        return (self.frames + self.after) * self.hop - 1

    def push(self, wave: Wave) -> Tensor:
        """Samples (n,), any n -> the codes (Q, m) that are known now."""
        self.kept = np.concatenate([self.kept, wave]) if len(self.kept) else wave
        self.samples += len(wave)
        return self._encode(self.samples // self.hop, last=False)

    def flush(self) -> Tensor:
        """The last codes: the last frame is filled up with zeros."""
        self.kept = np.pad(self.kept, (0, -self.samples % self.hop))
        return self._encode(-(-self.samples // self.hop), last=True)

    @inference()
    def _encode(self, known: int, *, last: bool) -> Tensor:
        parts = [torch.zeros(self.model.quantizer.num_codebooks, 0, dtype=torch.int64)]
        weight = next(self.model.encoder.parameters())
        while self.frame < known and (last or self.frame + self.frames + self.after <= known):
            end = min(self.frame + self.frames, known)
            low, high = self._start(), min(known, end + self.after)
            window = self.kept[(low - self.first) * self.hop : (high - self.first) * self.hop]
            latents = self.model.encoder(torch.from_numpy(window)[None].to(weight))
            z = latents[..., self.frame - low : end - low].contiguous()
            parts.append(self.model.quantizer.encode(z)[0].cpu())
            self.frame = end
        keep = self._start()
        if keep > self.first:
            self.kept, self.first = self.kept[(keep - self.first) * self.hop :].copy(), keep
        return torch.cat(parts, 1)

    def _start(self) -> int:
        """The first frame of the window of the next block."""
        return max(0, self.frame - self.before) // self.grid * self.grid


def encode_blocks(model: VQVAE, wave: Tensor, sample_rate: int) -> Tensor:
    """A prepared recording (T,) -> its codes (Q, F)."""
    if model.encoder.receptive_span() is None:
        padded = torch.nn.functional.pad(wave, (0, -len(wave) % model.hop))
        return model.encode(padded[None])[0].cpu()
    blocks = Blocks(model, math.ceil(BLOCK * sample_rate / model.hop))
    return torch.cat([blocks.push(wave.cpu().numpy()), blocks.flush()], 1)


def encode_recording(
    model: VQVAE, recording: Recording, rate: int, target: float
) -> tuple[Tensor, int, pitch_tracking.F0 | None]:
    """A sound file of any length -> its codes (Q, F), its samples at `rate`, and, for a model with
    melody, its F0.

    As prepared and encoded whole, up to rounding.

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
    blocks = Blocks(model, math.ceil(BLOCK * rate / model.hop))
    stream = None if model.melody is None else pitch_tracking.PitchStream(rate, model.melody.hop)
    parts, f0 = [], []
    for y in _centred(recording, mean, rate):
        levelled = (y * gain).astype(np.float32)
        parts.append(blocks.push(levelled))
        if stream is not None:
            f0.append(stream.push(levelled))
    codes = torch.cat([*parts, blocks.flush()], 1)
    return codes, blocks.samples, None if stream is None else np.concatenate([*f0, stream.flush()])


def _centred(recording: Recording, mean: float, rate: int) -> Iterator[Wave]:
    """Pieces of it, without its mean, at another rate."""
    resampler = Resampler(recording.sample_rate, rate)
    for x in recording.pieces():
        yield resampler.push((x - mean).astype(np.float32))
    yield resampler.flush()
