"""The melody of a recording as pitch codes: F0 once, normalised by the voice, encoded by the model's pitch codec."""

from __future__ import annotations

import math

import torch
from numpy.typing import NDArray

from vqwave.codes import PitchCodes, PitchFormat
from vqwave.data.voices import UNVOICED, VoicePitch
from vqwave.errors import BadInput
from vqwave.models.melody import VOICE, Melody
from vqwave.pitch_tracking import F0, contour, track

HUNDRED = math.log(100.0)  # pitch within models is ln(F0 / 100 Hz), in files ln F0


def f0_of(melody: Melody, wave: NDArray, sample_rate: int) -> F0:
    """A prepared recording (T,) -> F0 in Hz (ceil(T / melody.hop),), 0 where unvoiced."""
    return track(wave, sample_rate, melody.hop)


def voice_of(melody: Melody, f0: F0, speaker: int | None = None) -> VoicePitch:
    """What a melody is normalised by: the voice of a speaker that the model knows, by number, else the recording's own."""
    if speaker is not None:
        return VoicePitch(*melody.voices[speaker].tolist())
    return VoicePitch.of(f0) or UNVOICED


@torch.inference_mode()
def encode_melody(melody: Melody, f0: F0, voice: VoicePitch) -> PitchCodes:
    """F0 in Hz (F,) -> its codes (Q, ceil(F / melody.ratio))."""
    statistics = {VOICE: torch.tensor([[voice.mean, voice.deviation]])}
    pitch = torch.from_numpy(contour(f0))[None].to(melody.voices)
    codes = melody.encode(pitch, statistics)[0].cpu()
    return format_of(melody, voice).with_codes(codes)


def format_of(melody: Melody, voice: VoicePitch) -> PitchFormat:
    """What a file says of pitch codes in this voice."""
    codec = melody.codec
    return PitchFormat(codec.hop, codec.size, codec.books, voice.mean + HUNDRED, voice.deviation)


def check_pitch(melody: Melody | None, pitch: PitchCodes | PitchFormat | None) -> None:
    """Raises BadInput unless a model's codes have the pitch codes that it decodes, or none where it decodes none."""
    if melody is None:
        if pitch is not None:
            raise BadInput("these codes have pitch codes, expected none: this model codes no melody")
        return
    if pitch is None:
        raise BadInput("these codes have no pitch codes, expected some: this model decodes a melody")
    found = pitch if isinstance(pitch, PitchFormat) else pitch.format
    codec = melody.codec
    own = (codec.books, codec.size, codec.hop)
    if (found.books, found.size, found.hop) != own:
        given = f"{found.books} books of {found.size} codes, hop {found.hop}"
        raise BadInput(f"pitch codes: {given}, expected {own[0]} of {own[1]}, hop {own[2]}")
