"""Melodies: a copy is right, an octave is twelve semitones, a mirrored melody correlates by minus
one.
"""

from __future__ import annotations

import numpy as np
import pytest

from vqwave.audio import Wave
from vqwave.metrics.f0 import (
    Sums,
    Tracker,
    contour_sums,
    f0_correlation,
    f0_error,
    tracker,
    voicing_error,
)

pytest.importorskip("parselmouth", reason="F0 is Praat's: pip install 'vqwave[metrics]'")
RATE = 8000


def melody_sums(contour: Tracker, recording: Wave, copy: Wave, centre: float = 0.0) -> Sums:
    """`contour_sums` of two waveforms."""
    return contour_sums(contour(recording), contour(copy), centre)


def glide(start: float, end: float, seconds: float = 1.0) -> Wave:
    """A buzz that glides from one pitch to another, in log frequency."""
    f0 = np.geomspace(start, end, round(seconds * RATE))
    phase = 2 * np.pi * f0.cumsum() / RATE
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 6))).astype(np.float32)


def test_a_copy_is_right() -> None:
    wave = glide(100, 180)
    sums = melody_sums(tracker(RATE), wave, 0.5 * wave)[None]
    assert f0_error(sums)[0] == pytest.approx(0, abs=1e-6)
    assert f0_correlation(sums)[0] == pytest.approx(1)
    assert voicing_error(sums)[0] == 0


def test_an_octave_is_twelve_semitones() -> None:
    sums = melody_sums(tracker(RATE), glide(90, 120), glide(180, 240))[None]
    assert f0_error(sums)[0] == pytest.approx(12, abs=0.2)
    assert f0_correlation(sums)[0] > 0.98


def test_a_mirrored_melody_correlates_by_minus_one() -> None:
    pitch = tracker(RATE)
    sums = melody_sums(pitch, glide(100, 200), glide(200, 100))[None]
    assert f0_correlation(sums)[0] < -0.97


def test_noise_in_place_of_a_voice_is_a_voicing_error() -> None:
    wave = glide(120, 140)
    noise = np.random.default_rng(0).normal(0, 0.1, len(wave)).astype(np.float32)
    half = np.concatenate([wave[: RATE // 2], noise[RATE // 2 :]])
    assert voicing_error(melody_sums(tracker(RATE), wave, half)[None])[0] == pytest.approx(
        0.5, abs=0.06
    )


def test_sums_add_up_over_utterances_and_speakers_are_centred() -> None:
    pitch, low, high = (
        tracker(RATE),
        (glide(90, 108), glide(108, 90)),
        (glide(220, 264), glide(264, 220)),
    )
    apart = melody_sums(pitch, *low) + melody_sums(pitch, *high)
    centred = melody_sums(pitch, *low, np.log(0.99)) + melody_sums(pitch, *high, np.log(2.41))
    assert f0_correlation(apart[None])[0] > 0.9  # high and low voices alone
    assert f0_correlation(centred[None])[0] < -0.7
