"""Waveforms from log-mel frames without a network: what any decoder of such frames must beat.

B batch, M mel bands, K FFT bins, F frames, T samples.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.distributed.threads import limited_to
from vqwave.features import LogMel, MelBands

ITERATIONS, MOMENTUM = 60, 0.99
UPDATES = 100  # of magnitudes towards the mel frames
TINY = 1e-12


@torch.no_grad()
@limited_to(1)  # the same on any number of threads, and small products gain nothing from more
def griffin_lim(
    log_mel: Tensor,
    features: LogMel,
    *,
    iterations: int = ITERATIONS,
    momentum: float = MOMENTUM,
    seed: int = 0,
) -> Tensor:
    r"""Log-mel frames (B, M, F) -> waveforms (B, F hop).

    .. math:: c_n = P(t_{n-1}), \quad t_n = c_n + \alpha (c_n - c_{n-1})

    where P takes the phases of the spectrum of the waveform nearest to t, and keeps the magnitudes.
    Phases begin at random, by `seed`; momentum 0 is the algorithm of 1984, whose spectral
    convergence never rises.

    Reference: Griffin and Lim, 1984; Perraudin et al., 2013, "A fast Griffin-Lim algorithm".
    """
    mel = features.mel
    magnitude = linear_magnitudes(log_mel.exp(), mel)  # (B, K, F)
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * torch.pi * torch.rand(magnitude.shape, generator=generator).to(magnitude)
    target = torch.polar(magnitude, phase)
    before = torch.zeros_like(target)
    for _ in range(iterations):
        projected = mel.spectrum(overlap_add(target, mel))
        ahead = projected + momentum * (projected - before)
        before = projected
        power = torch.view_as_real(ahead).square().sum(-1)
        target = ahead * (magnitude * power.clamp_min(TINY).rsqrt())
    return overlap_add(target, mel)


def linear_magnitudes(mel_magnitude: Tensor, mel: MelBands, updates: int = UPDATES) -> Tensor:
    r"""Mel magnitudes (B, M, F) -> magnitudes of FFT bins (B, K, F), none negative, that fit.

    .. math:: S \leftarrow S \odot A^T Y / A^T A S

    from S in proportion to each bin's bands; each update lowers |Y - A S|. Bins that no band holds
    are zero.

    Reference: Lee and Seung, 2001, "Algorithms for non-negative matrix factorization".
    """
    A, Y = mel.filters.to(mel_magnitude), mel_magnitude
    wanted, gram = A.T @ Y, A.T @ A
    S = A.T @ (Y / A.sum(1, keepdim=True)) / A.sum(0).clamp_min(TINY)[:, None]
    for _ in range(updates):
        S = S * wanted / (gram @ S).clamp_min(TINY)
    return S


def overlap_add(spectrum: Tensor, mel: MelBands) -> Tensor:
    """Spectrum (B, K, F) -> nearest waveform (B, F hop); inverts `MelBands.spectrum`."""
    frames, pad = spectrum.shape[-1], mel.fft - mel.window.numel()
    window = F.pad(mel.window.to(spectrum.real.dtype), (pad // 2, pad - pad // 2))
    pieces = torch.fft.irfft(spectrum.mT, mel.fft) * window  # (B, F, fft)
    weight = _added(window.square().expand(1, frames, -1), mel.hop)
    summed = _added(pieces, mel.hop) / weight.clamp_min(1e-8)
    return summed[:, mel.before : mel.before + frames * mel.hop]


def _added(pieces: Tensor, hop: int) -> Tensor:
    """Pieces (B, F, N), each `hop` samples after the last -> their sum (B, >= (F - 1) hop + N)."""
    B, frames, size = pieces.shape
    parts = -(-size // hop)
    pieces = F.pad(pieces, (0, parts * hop - size)).unflatten(2, (parts, hop))
    summed = pieces.new_zeros(B, frames + parts - 1, hop)
    for part in range(parts):
        summed[:, part : part + frames] += pieces[:, :, part]
    return summed.flatten(1)
