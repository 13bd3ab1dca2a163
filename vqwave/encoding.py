"""Speech into codes: in blocks with the margins that they hear, so that an hour takes no more memory than a minute; or as a stream.

Frames are encoded N at a time, from a window that holds all samples that they can hear: what a block's codes are depends on its
place and on N alone, not on how the samples came. The latents are those of the whole pass up to rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave import inputs, pitch_tracking
from vqwave.audio import SILENCE_DB, downmix, normalise_level, remove_dc, resample, silence_in
from vqwave.codes import fingerprint
from vqwave.config import to_tree
from vqwave.errors import BadInput
from vqwave.features import MFCC, LogMel, Pitch
from vqwave.models.vqvae import VQVAE
from vqwave.nn.encoders import BatchNormEncoder, Encoder, FrameEncoder, WaveformEncoder
from vqwave.pipes import Recording, Resampler
from vqwave.torch_defaults import inference

BLOCK = 10.0  # seconds that are encoded at once, where nobody waits
SOON = 0.16  # seconds that a stream encodes at once
SETTLE = 1.0  # seconds from which a stream takes its level
PEAK = -0.5  # dBFS, as `normalise_level` has it
SILENCE = 1e-6  # a peak below this, once the DC is gone, is rounding
Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """Samples that a stretch of frames hears, relative to sample 0 of frame 0: first .. last."""

    first: int
    last: int

    def wider(self, reach: int) -> Span:
        return Span(self.first - reach, self.last + reach)

    def strided(self, stride: int) -> Span:
        """Through a `StridedConv1d`."""
        return Span(self.first * stride - stride // 2, self.last * stride - stride // 2 + 2 * stride - 1)

    def framed(self, features: LogMel | MFCC | Pitch) -> Span:
        """Through frame features: of how many frames around, and which samples a frame hears."""
        if isinstance(features, Pitch):
            hop, reach = features.hop, pitch_tracking.context(features.sample_rate)
            size, before = 2 * reach + 1, reach - hop // 2
        else:
            hop, size = features.hop, features.mel.fft
            before = size // 2 - hop // 2
        it = self.wider(2 * features.orders) if isinstance(features, MFCC) else self
        return Span(it.first * hop - before, it.last * hop - before + size - 1)


def heard(encoder: Encoder) -> Span | None:
    """Samples that frame 0 hears; None where a frame hears the whole utterance (instance normalisation)."""
    if encoder.norm is not None:
        return None
    span = Span(0, 0)
    if isinstance(encoder, WaveformEncoder):
        span = span.wider(len(encoder.blocks))
        for layer in reversed(encoder.strided):
            span = span.strided(layer.stride[0])
        return span
    if isinstance(encoder, FrameEncoder):
        strided, around = encoder.strided, sum(block.conv.kernel_size[0] // 2 for block in encoder.blocks)
    elif isinstance(encoder, BatchNormEncoder):
        strided, around = encoder.convolutions[2], 2
    span = span.wider(around).strided(strided.stride[0]).wider(2)
    return span.framed(encoder.frontend.features)


def grid(encoder: Encoder) -> int:
    """Frames after which a window may start anew: a pitch tracker has frames of its own, which must lie as in the whole."""
    features = None if isinstance(encoder, WaveformEncoder) else encoder.frontend.features
    if not isinstance(features, Pitch):
        return 1
    samples = pitch_tracking.grid(features.sample_rate)
    return math.lcm(samples, encoder.hop) // encoder.hop


def prepare(wave: Tensor | NDArray, source: int, target: int, level: float) -> Wave:
    """A recording (see `inputs`) at `source` Hz -> (T,) at `target` Hz: mono, no DC, `level` dBFS.

    Raises BadInput for silence.
    """
    samples, source = inputs.waveform(wave), inputs.sample_rate(source)
    samples = downmix(samples.T) if samples.ndim == 2 else samples
    if not len(samples) or not np.isfinite(samples).all():
        raise BadInput("the recording is empty or not finite, expected audio")
    samples = _refuse_silence(remove_dc(samples))
    return normalise_level(_refuse_silence(resample(samples, source, target)), level)


def _refuse_silence(wave: Wave) -> Wave:
    """(T,) without DC, as it is. Raises BadInput where it is silent, by the rule of `audio`."""
    if (silence := silence_in(wave)) is not None:
        raise BadInput(f"the recording is {silence}, expected audio")
    return wave


class Blocks:
    """Prepared samples in, codes out, block by block. Raises BadInput for an encoder that hears the whole utterance."""

    def __init__(self, model: VQVAE, frames: int) -> None:
        """frames: how many are encoded at once; codes of a two-level codebook come in whole stretches."""
        span, hop = heard(model.encoder), model.hop
        if span is None:
            raise BadInput(
                "this model normalises over the whole utterance (encoder.instance_norm), expected one without, to stream"
            )
        ratio = getattr(model.quantizer, "ratio", 1)
        self.model, self.hop, self.frames = model, hop, -(-frames // ratio) * ratio
        self.grid = grid(model.encoder)
        self.before, self.after = -(span.first // hop), max(0, -(-(span.last + 1 - hop) // hop))  # frames around a block
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
        parts = [torch.zeros(self.model.quantizer.books, 0, dtype=torch.int64)]
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
    if heard(model.encoder) is None:
        padded = torch.nn.functional.pad(wave, (0, -len(wave) % model.hop))
        return model.encode(padded[None])[0].cpu()
    blocks = Blocks(model, math.ceil(BLOCK * sample_rate / model.hop))
    return torch.cat([blocks.push(wave.cpu().numpy()), blocks.flush()], 1)


def encode_recording(
    model: VQVAE, recording: Recording, rate: int, target: float
) -> tuple[Tensor, int, pitch_tracking.F0 | None]:
    """A sound file of any length -> its codes (Q, F), its samples at `rate`, and, for a model with melody, its F0.

    As prepared and encoded whole, up to rounding.

    It is read for its mean, for its level and peak, and for its codes. Raises BadInput for silence.
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
        raise BadInput(f"{recording.path}: silent (below {SILENCE_DB:.0f} dBFS), expected audio")
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


class Level:
    """Samples as they come -> without DC and at the level that the model was trained at: both are taken from the first second.

    Silence before it passes as zeros: exact zeros, and seconds below the level at which sound
    begins. What is shorter than that comes out as `Codec.prepare` makes it.
    """

    def __init__(self, target: float, settle: int, known: float | None = None) -> None:
        """target: dBFS; settle: samples; known: the RMS level of the input in dBFS, if that need not be found out."""
        self.target, self.settle = target, settle
        self.waiting: list[Wave] = []
        self.mean, self.gain = 0.0, None if known is None else np.float32(10 ** ((target - known) / 20))

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
        """Raises BadInput where there was no sound."""
        rest = self._settle() if self.gain is None and self.waiting else np.zeros(0, np.float32)
        if self.gain is None:
            raise BadInput("the recording is empty or silent, expected audio")
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
    """A recording being encoded as it comes: any rate, any chunks. `push` samples, take codes; `flush` at the end."""

    def __init__(self, model: VQVAE, rates: tuple[int, int], target: float, known: float | None, seconds: float) -> None:
        """rates: of the input and of the model; target and known: see `Level`; seconds: encoded at once."""
        source, rate = inputs.sample_rate(rates[0]), rates[1]
        if known is not None and not math.isfinite(known):
            raise BadInput(f"level: {known}, expected dBFS, such as -23")
        seconds = inputs.seconds(seconds)
        self.level = Level(target, round(SETTLE * rate), known)
        self.resampler = Resampler(source, rate)
        self.blocks = Blocks(model, max(1, round(seconds * rate / model.hop)))
        self.sample_rate = rate

    @property
    def latency(self) -> float:
        """Seconds that the codes stay behind the samples, at the most, once the level is known (`SETTLE` seconds)."""
        return self.blocks.lag / self.sample_rate + self.resampler.latency

    @property
    def samples(self) -> int:
        """How many there were, at the model's rate."""
        return self.blocks.samples

    def push(self, wave: Wave) -> Tensor:
        """One channel's samples (n,), see `inputs` -> the codes (Q, m) that are known now.

        Raises BadInput.
        """
        return self.blocks.push(self.prepare(wave))

    def flush(self) -> Tensor:
        """The last codes. Raises BadInput where there was no sound."""
        return torch.cat([self.blocks.push(self.rest()), self.blocks.flush()], 1)

    def prepare(self, wave: Wave) -> Wave:
        """One channel's samples (n,), see `inputs` -> (m,) at the model's rate and level.

        Raises BadInput.
        """
        samples = inputs.mono(wave)
        if not np.isfinite(samples).all():
            raise BadInput("a sample that is NaN or infinite, expected audio")
        return self.level.push(self.resampler.push(samples))

    def rest(self) -> Wave:
        """The last of what `prepare` gives. Raises BadInput where there was no sound."""
        return np.concatenate([self.level.push(self.resampler.flush()), self.level.flush()])


class CodecNames:
    """What a codec is called: its fingerprint, taken once, and again if its weights change; and what older files call it."""

    def __init__(self, model: object, encoder: object, sample_rate: int) -> None:
        """encoder: its settings."""
        self.model = model
        self.about = json.dumps({"rate": sample_rate, "encoder": _changed(encoder)}, sort_keys=True)
        self._key: tuple = ()
        self._names = ("", "")

    @property
    def name(self) -> str:
        """Of the weights and of the encoder's settings: features that differ in their window alone have the same weights."""
        return self._found()[0]

    @property
    def older(self) -> tuple[str, ...]:
        """Of the weights alone, as files of version 1 have it."""
        return self._found()[1:]

    def _found(self) -> tuple[str, str]:
        melody = self.model.melody
        parts = (self.model.encoder, self.model.quantizer, *([] if melody is None else [melody.codec]))
        key = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for part in parts for t in part.state_dict().values())
        if key != self._key:
            self._key, self._names = key, (fingerprint(*parts, about=self.about), fingerprint(*parts))
        return self._names


def _changed(settings: object) -> object:
    """Settings that are not at their defaults, and every kind: later versions may add settings that change nothing."""
    if not is_dataclass(settings):
        return to_tree(settings)
    plain = {f.name: getattr(settings, f.name) for f in fields(settings)}
    default = {f.name: f.default for f in fields(settings)}
    found: dict[str, object] = {}
    for name, value in plain.items():
        if is_dataclass(value):
            found[name] = _changed(value)
        elif name == "kind" or value != default[name]:
            found[name] = to_tree(value)
    return found
