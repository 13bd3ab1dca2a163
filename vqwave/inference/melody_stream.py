"""Speech into codes and pitch codes as it comes.

Each pitch code is made from a window of contour frames whose place depends on the code alone, so
that codes do not depend on how the samples were cut. The range of the voice is known before the
first code: given, or taken from the first voiced second, as `Level` takes the level from the first
second. Codes then differ from those of the complete recording, which is normalised by its own
range.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.codes import CodeBlock, PitchFormat
from vqwave.codes.pitch import InStep
from vqwave.data.voices import UNVOICED, VoicePitch
from vqwave.distributed.torch_defaults import inference
from vqwave.errors import UserInputError
from vqwave.inference.pitch_encoding import (
    Range,
    encode_melody,
    format_of,
    given_range,
    known_voice,
)
from vqwave.inference.stream_encoding import SpeechStream
from vqwave.models.melody import Melody
from vqwave.pitch_tracking import PitchStream

SETTLE = 1.0  # seconds of voiced frames that a stream takes the range of a voice from
LATEST = 4.0  # seconds after the first sound at which it is taken from what there is
SOUND = 1e-3  # a magnitude from which a sample is sound: below it the tracker detects nothing
PIECE = 2  # pitch frames whose samples are tracked at once


class PitchCodeStream:
    """Prepared samples as they come -> pitch codes: `push`, and `flush` at the end.

    A code is made from the contour frames that it depends on and no more. Without a voice, no code
    comes before its range is known: from the first `SETTLE` seconds of voiced frames; where these
    are not there `LATEST` seconds after the first sound, or at the end, from those that are.
    """

    def __init__(self, melody: Melody, sample_rate: int, voice: VoicePitch | None = None) -> None:
        """voice: what the contour is normalised by, where that is known."""
        self.melody, self.voice = melody, voice
        self.tracker = PitchStream(sample_rate, melody.hop)
        self.samples = np.zeros(0, np.float32)  # that fill no piece yet
        self.f0 = np.zeros(0, np.float32)  # of frames from `first` on
        self.first = self.code = self.samples_in = 0  # frame, code, samples
        self.begin: int | None = None  # the sample of the first sound
        self.needed, self.wait = (
            round(SETTLE * sample_rate / melody.hop),
            round(LATEST * sample_rate),
        )

    @property
    def lag(self) -> int:
        """Samples that codes stay behind what went in, at the most, once the range is known."""
        codec, hop = self.melody.codec, self.melody.hop
        tracking = math.ceil(self.tracker.latency * self.tracker.sample_rate)
        return codec.hop + (codec.context[1] + PIECE) * hop + tracking

    @property
    def format(self) -> PitchFormat | None:
        """The format of the codes in a file; None before the range is known."""
        return None if self.voice is None else format_of(self.melody, self.voice)

    def push(self, wave: NDArray[np.float32]) -> Tensor:
        """Samples (n,), any n -> the codes (Q, m) that are known now."""
        if self.begin is None and len(loud := np.flatnonzero(np.abs(wave) >= SOUND)):
            self.begin = self.samples_in + int(loud[0])
        self.samples_in += len(wave)
        self.samples = np.concatenate([self.samples, wave])
        size = PIECE * self.melody.hop
        full = len(self.samples) // size * size
        pieces, self.samples = self.samples[:full].reshape(-1, size), self.samples[full:]
        self.f0 = np.concatenate([self.f0, *map(self.tracker.push, pieces)])
        return self._encode(last=False)

    def flush(self) -> Tensor:
        """The last codes; a last frame that is not full is one."""
        last = [self.tracker.push(self.samples), self.tracker.flush()]
        self.f0 = np.concatenate([self.f0, *last])
        return self._encode(last=True)

    @inference()
    def _encode(self, *, last: bool) -> Tensor:
        codec, known = self.melody.codec, self.first + len(self.f0)
        parts = [torch.zeros(codec.books, 0, dtype=torch.int64)]
        if self.voice is None:
            self.voice = self._settled(last=last)
        if self.voice is None:
            return parts[0]
        before, after = codec.context
        while (begin := self.code * codec.ratio) < known:
            end = begin + codec.ratio + after
            if end > known and not last:
                break
            low = self._start(begin - before)
            window = self.f0[low - self.first : end - self.first]
            codes = encode_melody(self.melody, window, self.voice).codes
            place = self.code - low // codec.ratio
            parts.append(codes[:, place : place + 1])
            self.code += 1
        keep = min(known, self._start(self.code * codec.ratio - before))
        self.f0, self.first = self.f0[keep - self.first :].copy(), keep
        return torch.cat(parts, 1)

    def _start(self, frame: int) -> int:
        """The first frame of a window that reaches back to `frame`: that of a code."""
        return max(0, frame) // self.melody.ratio * self.melody.ratio

    def _settled(self, *, last: bool) -> VoicePitch | None:
        """The range, from the frames that it is taken from, however many there are; or None."""
        f0, voiced = self.f0, np.flatnonzero(self.f0)
        if len(voiced) >= self.needed:
            f0, last = f0[: voiced[self.needed - 1] + 1], True
        if self.begin is not None:
            latest = -(-(self.begin + self.wait) // self.melody.hop)
            f0, last = f0[:latest], last or len(f0) >= latest
        return (VoicePitch.of(f0) or UNVOICED) if last else None


class BlockStream:
    """A recording being encoded as it comes, by a model with melody: `push` samples, take blocks.

    As `SpeechStream`, of whose codes a frame comes once the pitch code that covers it is there.
    """

    def __init__(self, speech: SpeechStream, melody: Melody, voice: VoicePitch | None) -> None:
        """voice: see `PitchCodeStream`."""
        self.speech, chunks = speech, speech.chunks
        self.pitch_codes = PitchCodeStream(melody, speech.sample_rate, voice)
        codec = melody.codec
        books, ratio = (chunks.model.quantizer.num_codebooks, codec.books), codec.hop // chunks.hop
        self.in_step = InStep(*books, ratio)

    @property
    def latency(self) -> float:
        """Seconds that codes stay behind samples, at the most, once level and range are known."""
        resampling = self.speech.resampler.latency
        lag = max(self.speech.chunks.lag, self.pitch_codes.lag)
        return lag / self.speech.sample_rate + resampling

    @property
    def samples(self) -> int:
        """How many there were, at the model's rate."""
        return self.speech.samples

    @property
    def pitch(self) -> PitchFormat | None:
        """The format of the pitch codes in a file, with the voice's range; None before it is known.

        It is known when a block with a code has come, and after `flush`.
        """
        return self.pitch_codes.format

    @property
    def ready(self) -> bool:
        """Whether the header of a file is known: once the range of the voice is."""
        return self.pitch is not None

    def push(self, wave: NDArray[np.float32]) -> CodeBlock:
        """One channel's samples (n,), see `inputs` -> the codes and pitch codes known now.

        Raises UserInputError.
        """
        prepared = self.speech.prepare(wave)
        codes, pitch = self.speech.chunks.push(prepared), self.pitch_codes.push(prepared)
        return self.in_step.push(codes, pitch)

    def flush(self) -> CodeBlock:
        """The last codes. Raises UserInputError where there was no sound."""
        prepared = self.speech.rest()
        chunks = self.speech.chunks
        codes = torch.cat([chunks.push(prepared), chunks.flush()], 1)
        pitch = torch.cat([self.pitch_codes.push(prepared), self.pitch_codes.flush()], 1)
        return self.in_step.push(codes, pitch)

    push_block, flush_block = push, flush


def with_melody(
    speech: SpeechStream, speaker: int | None, pitch_range: Range | None
) -> SpeechStream | BlockStream:
    """The same of a model without melody; else a stream of both kinds of codes.

    A voice is normalised by the given range; else by that of a speaker of the model, by
    number; else see `PitchCodeStream`. Raises UserInputError for a range that is none, or of a
    model without melody.
    """
    voice, melody = (
        None if pitch_range is None else given_range(pitch_range),
        speech.chunks.model.melody,
    )
    if melody is None:
        if voice is not None:
            raise UserInputError(
                "pitch_range: given, expected none: this model has no codes of a melody"
            )
        return speech
    if voice is None and speaker is not None:
        voice = known_voice(melody, speaker)
    return BlockStream(speech, melody, voice)
