"""How far the melody of a copy is from that of the recording: F0 error, correlation, voicing error,
by Praat's pitch.

Boersma's method has no network that could have been trained on the distortions it is to measure.
What models are conditioned on comes from another tracker (`vqwave.pitch_tracking`), so that no
model is measured by its own targets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import UnavailableError

Sums = NDArray[np.float64]
Contour = tuple[NDArray[np.float64], NDArray[np.bool_]]
Tracker = Callable[[Wave], Contour]
PARTS = 8  # n voiced in both, a, b, aa, bb, ab, frames, frames whose voicing differs
STEP, LOWEST, HIGHEST = 0.005, 60.0, 400.0  # seconds from frame to frame; Hz


def tracker(sample_rate: int) -> Tracker:
    """(T,) -> ln(F0 / 100 Hz) (0 where unvoiced) and voicing, (F,) each, frame f at (f + 0.5) STEP.

    Raises UnavailableError without Praat's package.

    Reference: Boersma, 1993, "Accurate short-term analysis of the fundamental frequency and the
    harmonics-to-noise ratio of a sampled sound", as in Praat.
    """
    try:
        import parselmouth
    except ImportError:
        raise UnavailableError(
            "the package praat-parselmouth is not installed: pip install 'vqwave[metrics]'"
        ) from None

    def contour(wave: Wave) -> Contour:
        frames = max(1, round(len(wave) / (STEP * sample_rate)))
        long_enough = np.pad(
            np.asarray(wave, np.float64), (0, max(0, round(3.1 * sample_rate / LOWEST) - len(wave)))
        )
        pitch = parselmouth.Sound(long_enough, sample_rate).to_pitch(STEP, LOWEST, HIGHEST)
        times = pitch.xs()
        place = np.rint(((np.arange(frames) + 0.5) * STEP - times[0]) / STEP).astype(int)
        inside = (place >= 0) & (place < len(times))
        frequency = pitch.selected_array["frequency"][place.clip(0, len(times) - 1)]
        f0 = np.where(inside, frequency, 0.0)
        voiced = f0 > 0
        return np.log(np.where(voiced, f0, 100.0) / 100.0), voiced

    return contour


def contour_sums(recording: Contour, copy: Contour, centre: float = 0.0) -> Sums:
    """An utterance's part of the sums (PARTS,) from which `f0_error`, `f0_correlation` and
    `voicing_error` are computed.

    Frames are compared as they lie, so both must be in step; the longer is cut. `centre`,
    ln(F0 / 100 Hz), is the speaker's own: with it a correlation is one of melodies, and not of high
    and low voices.
    """
    frames = min(len(recording[1]), len(copy[1]))
    voiced, also = recording[1][:frames], copy[1][:frames]
    both = voiced & also
    x, y = recording[0][:frames][both] - centre, copy[0][:frames][both] - centre
    moments = [len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y]
    return np.array([*moments, frames, (voiced != also).sum()], np.float64)


def speaker_centres(contours: Sequence[Contour], speakers: Sequence[str | None]) -> list[float]:
    """For each recording its speaker's mean ln(F0 / 100 Hz), over the voiced frames of all."""
    sums: dict[str | None, tuple[float, int]] = {}
    for (log_f0, voiced), speaker in zip(contours, speakers, strict=True):
        total, frames = sums.get(speaker, (0.0, 0))
        sums[speaker] = (total + float(log_f0[voiced].sum()), frames + int(voiced.sum()))
    return [total / max(1, frames) for total, frames in (sums[speaker] for speaker in speakers)]


def f0_error(sums: Sums) -> Sums:
    """RMS distance in semitones over frames that are voiced in both; sums (R, PARTS) -> (R,)."""
    n, _, _, xx, yy, xy = sums.T[:6]
    return 12 / np.log(2) * np.sqrt(np.maximum(xx + yy - 2 * xy, 0) / n)


def f0_correlation(sums: Sums) -> Sums:
    """Pearson's correlation of log F0 over frames that are voiced in both; (R, PARTS) -> (R,)."""
    n, x, y, xx, yy, xy = sums.T[:6]
    return (n * xy - x * y) / np.sqrt((n * xx - x * x) * (n * yy - y * y))


def voicing_error(sums: Sums) -> Sums:
    """Share of frames that are voiced in one and not in the other; (R, PARTS) -> (R,)."""
    return sums[:, 7] / sums[:, 6]
