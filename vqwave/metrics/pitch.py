"""How far the melody of a copy is from that of the recording: F0 error, correlation, voicing error, by the house's YIN."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.features import Pitch, PitchSpec

Sums = NDArray[np.float64]
PARTS = 8  # n voiced in both, a, b, aa, bb, ab, frames, frames whose voicing differs


def contour(pitch: Pitch, wave: Wave) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(T,) -> ln(F0 / 100 Hz) (0 where unvoiced) and voicing, (F,) each."""
    x = torch.from_numpy(np.asarray(wave, np.float32))
    found = pitch(F.pad(x, (0, -len(x) % pitch.hop))[None])[0].double().numpy()
    return found[0], found[1] > 0.5


def tracker(sample_rate: int) -> Pitch:
    """YIN each 5 ms, 60 to 400 Hz."""
    return PitchSpec().build(sample_rate)


def melody_sums(pitch: Pitch, recording: Wave, copy: Wave, centre: float = 0.0) -> Sums:
    """What an utterance adds to the sums (PARTS,) that `f0_error`, `f0_correlation` and `voicing_error` are made of.

    Frames are compared as they lie, so both must be in step. `centre`, ln(F0 / 100 Hz), is the speaker's own: with it a
    correlation tells of melodies, and not of high and low voices.
    """
    (a, heard), (b, said) = contour(pitch, recording), contour(pitch, copy)
    both = heard & said
    x, y = a[both] - centre, b[both] - centre
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y, len(heard), (heard != said).sum()], np.float64)


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
