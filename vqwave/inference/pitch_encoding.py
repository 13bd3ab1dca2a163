"""The melody of a recording as pitch codes: F0 once, normalised by the voice, encoded by the
model's pitch codec.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from vqwave import inputs
from vqwave.codes import PitchCodes, PitchFormat
from vqwave.data.voices import UNVOICED, VoicePitch
from vqwave.errors import UserInputError
from vqwave.models.melody import VOICE, Melody
from vqwave.models.pitch import SEMITONE
from vqwave.pitch_tracking import F0, HIGHEST, LOWEST, contour, track

WIDEST = 24.0  # semitones, of a given deviation
Range = tuple[float, float]  # mean F0 in Hz (that of its logarithm), deviation in semitones


def f0_of(melody: Melody, wave: NDArray, sample_rate: int) -> F0:
    """A prepared recording (T,) -> F0 in Hz (ceil(T / melody.hop),), 0 where unvoiced."""
    return track(wave, sample_rate, melody.hop)


def voice_of(melody: Melody, f0: F0, speaker: int | None = None) -> VoicePitch:
    """The statistics that normalise a melody: those of a speaker of the model, by number, else the
    recording's own.
    """
    return (VoicePitch.of(f0) or UNVOICED) if speaker is None else known_voice(melody, speaker)


def known_voice(melody: Melody, speaker: int) -> VoicePitch:
    """The range of a speaker of the model, by number."""
    return VoicePitch(*melody.voices[speaker].tolist())


@torch.inference_mode()
def encode_melody(melody: Melody, f0: F0, voice: VoicePitch) -> PitchCodes:
    """F0 in Hz (F,) -> its codes (Q, ceil(F / melody.ratio))."""
    statistics = {VOICE: torch.tensor([[voice.mean, voice.deviation]])}
    pitch = torch.from_numpy(contour(f0))[None].to(melody.voices)
    codes = melody.encode(pitch, statistics)[0].cpu()
    return format_of(melody, voice).with_codes(codes)


def format_of(melody: Melody, voice: VoicePitch) -> PitchFormat:
    """The header entry of pitch codes in this voice."""
    codec = melody.codec
    return PitchFormat(codec.hop, codec.size, codec.books, voice.mean, voice.deviation)


def check_pitch(melody: Melody | None, pitch: PitchCodes | PitchFormat | None) -> None:
    """Raises UserInputError unless a model's codes have the pitch codes that it decodes, or none
    where it decodes none.
    """
    if melody is None:
        if pitch is not None:
            raise UserInputError(
                "these codes have pitch codes, expected none: this model codes no melody"
            )
        return
    if pitch is None:
        raise UserInputError(
            "these codes have no pitch codes, expected some (pitch_codes): it has a melody"
        )
    codec = melody.codec
    own = (codec.books, codec.size, codec.hop)
    if (pitch.books, pitch.size, pitch.hop) != own:
        given = f"{pitch.books} books of {pitch.size} codes, hop {pitch.hop}"
        raise UserInputError(f"pitch codes: {given}, expected {own[0]} of {own[1]}, hop {own[2]}")


def given_range(pitch_range: Sequence[float]) -> VoicePitch:
    """(mean in Hz, deviation in semitones) of a voice's F0 -> its statistics.

    Raises UserInputError.
    """
    values = np.atleast_1d(inputs.floats(pitch_range, "pitch_range"))
    if values.shape != (2,):
        raise UserInputError(
            f"pitch_range: {pitch_range!r}, expected two numbers: Hz and semitones"
        )
    mean, deviation = values.tolist()
    if not LOWEST <= mean <= HIGHEST:
        expected = f"expected a voice's, {LOWEST:g} to {HIGHEST:g}"
        raise UserInputError(f"pitch_range: a mean F0 of {mean:g} Hz, {expected}")
    if not 0 < deviation <= WIDEST:
        expected = f"expected a number above 0 and at most {WIDEST:g}"
        raise UserInputError(f"pitch_range: a deviation of {deviation:g} semitones, {expected}")
    return VoicePitch(math.log(mean / 100), deviation * SEMITONE)
