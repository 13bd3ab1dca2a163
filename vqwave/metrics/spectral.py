"""Distances between the spectra of two waveforms: log-spectral, mel-cepstral after time warping,
multi-resolution.

T samples, F frames, C cepstra. Waveforms are float arrays (T,) in [-1, 1]. None of the distances
removes gain except the mel-cepstral one, whose c0 is left out: bring both waveforms to one level
first (`audio.normalise_level`) where level is not the question.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.audio import Wave
from vqwave.errors import UserInputError
from vqwave.features import MFCCSpec

DB = 10 / math.log(10)  # a natural logarithm of power, in dB
# relative to a full-scale sine: below the noise of good recordings, above that of 16 bits
FLOOR_DB = -80.0
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))  # FFT, hop, window in samples
CEPSTRA = 13


def log_spectral_distance(a: Wave, b: Wave, sample_rate: int) -> float:
    r"""RMS difference of the log power spectra over frequency, mean over frames, in dB; >= 0,
    symmetric.

    .. math:: \frac{1}{F} \sum_f \sqrt{\frac{1}{K} \sum_k (10 \log_{10} P_{fk} / Q_{fk})^2}

    Hann windows of 32 ms every 8 ms; powers are clipped 80 dB below a full-scale sine. Twice the
    level costs 6.02 dB. Raises `UserInputError` where a and b (T,) differ in length or are empty.

    Reference: Gray and Markel, 1976, "Distance measures for speech processing".
    """
    _require_same_length(a, b)
    window, hop = round(0.032 * sample_rate), round(0.008 * sample_rate)
    p, q = (_power_db(wave, window, hop) for wave in (a, b))
    return float((p - q).square().mean(0).sqrt().mean())


def mel_cepstral_distortion(a: Wave, b: Wave, sample_rate: int) -> float:
    r"""Mel-cepstral distortion after dynamic time warping, in dB; >= 0, symmetric.

    Lengths may differ.

    .. math:: \frac{10}{\ln 10} \sqrt{2 \sum_{k=1}^{13} (c_k - c'_k)^2}

    is averaged over the warping path. c_k are Fourier coefficients of the log mel power, so that
    the distance is the RMS difference in dB of the two smoothed spectra; c0, and with it gain, is
    left out. (Numbers from orthonormal or unscaled cosine transforms, or from other mel filters,
    are not comparable.) 40 mel bands, 25 ms windows each 10 ms. Raises `UserInputError` where a or
    b (T,) is empty.

    Reference: Kubichek, 1993, "Mel-cepstral distance measure for objective speech quality
    assessment".
    """
    from scipy.spatial.distance import cdist  # a third of a second

    cost = DB * math.sqrt(2) * cdist(mel_cepstra(a, sample_rate), mel_cepstra(b, sample_rate))
    return warped_distance(cost)


def mel_cepstra(wave: Wave, sample_rate: int) -> NDArray[np.float64]:
    r"""wave (T,) -> (F, 13): :math:`c_k = \sum_m \log P_m \cos(\pi k (m + 1/2) / M) / M` of each
    frame, k = 1 to 13.
    """
    _require_samples(wave)
    hop = round(0.01 * sample_rate)
    spec = MFCCSpec(
        coefficients=1 + CEPSTRA,
        deltas=0,
        hop_ms=1000 * hop / sample_rate,
        floor=1e-6,  # about 75 to 80 dB below the band of a full-scale sine
    )
    padded = np.pad(wave, (0, -len(wave) % hop))
    orthonormal = spec.build(sample_rate)(torch.from_numpy(padded).double()[None])[0, 1:]  # (C, F)
    return (orthonormal / math.sqrt(2 * spec.bands)).T.numpy()


def warped_distance(cost: NDArray[np.float64]) -> float:
    """The mean cost along the cheapest path through cost (N, M), corner to corner, by steps (1, 0),
    (0, 1) and (1, 1).

    Of equally cheap paths the shortest is taken, so that the transpose has the same distance.
    Repeating frames of one sequence adds no cost where the other has an equal frame. One sweep over
    the N + M - 1 anti-diagonals.

    Reference: Sakoe and Chiba, 1978 (symmetric form, no slope constraint).
    """
    n, m = cost.shape
    total = np.full((3, n + 1), np.inf)  # of the last three anti-diagonals; row i is at i + 1
    steps = np.zeros((3, n + 1))
    mirrored = cost[:, ::-1]
    for k in range(n + m - 1):
        first, last = max(0, k - m + 1), min(n - 1, k)
        here, before, behind = k % 3, (k - 1) % 3, (k - 2) % 3
        rows = slice(first + 1, last + 2)
        above = slice(first, last + 1)
        ways = np.stack([total[behind, above], total[before, rows], total[before, above]])
        counts = np.stack([steps[behind, above], steps[before, rows], steps[before, above]])
        best = ways.min(0)
        if k == 0:
            best[:] = 0.0
        total[here] = np.inf
        total[here, rows] = best + mirrored.diagonal(m - 1 - k)
        steps[here, rows] = 1 + (np.where(ways == best, counts, np.inf).min(0) if k else 0)
    return float(total[here, n] / steps[here, n])


def multi_resolution_stft(a: Wave, b: Wave) -> float:
    r"""Spectral convergence plus mean absolute log-magnitude difference (nats), averaged over three
    resolutions; >= 0.

    .. math:: \frac{\| |A| - |B| \|_F}{\| |A| \|_F} + \frac{1}{N} \| \ln |A| - \ln |B| \|_1

    a (T,) is the reference: its norm divides the first term, so that only the second is symmetric.
    FFT, hop and window are in samples, whatever the rate; powers are clipped from below at 1e-7.
    Raises `UserInputError` where a and b differ in length or are empty, or where a is silent.

    Reference: Yamamoto et al., 2020 (Parallel WaveGAN), eq. 3 to 6. arXiv:1910.11480
    """
    _require_same_length(a, b)
    if not np.any(a):
        raise UserInputError("the reference waveform is silent; expected a signal to compare with")
    distance = 0.0
    for fft, hop, window in RESOLUTIONS:
        p, q = (_power(wave, fft, hop, window).clamp_min(1e-7).sqrt() for wave in (a, b))
        distance += float((p - q).norm() / p.norm() + (p.log() - q.log()).abs().mean())
    return distance / len(RESOLUTIONS)


def _power_db(wave: Wave, window: int, hop: int) -> Tensor:
    """Power spectrum (bins, F) in dB of a full-scale sine."""
    # the window's sum is window / 2, and a sine has half of its amplitude on each side
    full_scale = (window / 4) ** 2
    fft = 1 << (window - 1).bit_length()
    return DB * (_power(wave, fft, hop, window) / full_scale).clamp_min(10 ** (FLOOR_DB / 10)).log()


def _power(wave: Wave, fft: int, hop: int, window: int) -> Tensor:
    """|STFT|^2 (fft // 2 + 1, F) in float64, frames centred on multiples of the hop."""
    hann = torch.hann_window(window, dtype=torch.float64)
    samples = torch.from_numpy(np.asarray(wave, np.float64))
    return (
        torch.stft(samples, fft, hop, window, hann, pad_mode="constant", return_complex=True)
        .abs()
        .square()
    )


def _require_samples(wave: Wave) -> None:
    if wave.ndim != 1 or len(wave) == 0:
        raise UserInputError(f"waveform of shape {wave.shape}: expected (samples,), at least one")


def _require_same_length(a: Wave, b: Wave) -> None:
    _require_samples(a)
    _require_samples(b)
    if len(a) != len(b):
        raise UserInputError(
            f"waveforms of {len(a)} and {len(b)} samples: expected the same length, sample by"
            " sample"
        )
