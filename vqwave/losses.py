"""Losses: named, unweighted, pure functions. Their weights live in the config and are summed in one place."""

from __future__ import annotations

import torch
from torch import Tensor

from vqwave.distributions import Distribution, Mixture
from vqwave.nn.ranks import masked_mean


def negative_log_likelihood(distribution: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """-log p(x_t | x_{<t}), nats a sample, mean over the valid samples. x, mask (B, T)."""
    return masked_mean(-distribution.log_prob(x), mask)


def randomised_quantiles(draws: int, shape: torch.Size, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(n + xi) / N for n = 0 .. N - 1 with one uniform xi a time step: unbiased, and 32 of them beat 100 i.i.d. draws.

    -> (N, *shape) in (0, 1).
    """
    xi = torch.rand(shape, device=device, dtype=dtype)
    n = torch.arange(draws, device=device, dtype=dtype).view(-1, *[1] * len(shape))
    return ((n + xi) / draws).clamp(1e-6, 1 - 1e-6)


def cross_entropy(student: Mixture, teacher: Distribution, u: Tensor) -> Tensor:
    r"""H(P_S, P_T) a time step, :math:`-\int p_S(x_t | x_{<t}) \ln p_T(x_t | x_{<t}) dx_t`, as a mean over quantiles u (N, B, T).

    Both distributions are given the same past. Only densities enter: a discretised teacher's mass is divided by its cell.
    Gradients flow through the draws x_t and through the teacher's parameters (which depend on the student's past).

    Reference: van den Oord et al., 2018 (Parallel WaveNet), eq. 9 to 13. arXiv:1711.10433
    """
    total = torch.zeros_like(u[0])
    for level in u:
        total = total - teacher.log_density(student.quantile(level))
    return total / len(u)


def distillation_kl(student: Mixture, teacher: Distribution, u: Tensor, mask: Tensor | None = None) -> Tensor:
    """KL(P_S || P_T), nats a time step: cross-entropy by the draws u (N, B, T), less the student's entropy in closed form."""
    return masked_mean(cross_entropy(student, teacher, u) - student.entropy, mask)


def power_spectrum(x: Tensor, fft: int, hop: int) -> Tensor:
    """|STFT(x)|^2 of a Hann window of `fft` samples, scaled so that it does not depend on `fft`. x (B, T) -> (B, bins, F)."""
    window = torch.hann_window(fft, device=x.device, dtype=x.dtype)
    spectrum = torch.stft(x, fft, hop, window=window, center=True, pad_mode="constant", return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()) / window.square().sum()


def power_loss(
    x: Tensor,
    y: Tensor,
    *,
    fft: int = 512,
    hop: int = 128,
    exponent: float = 1.0,
    by_frame: bool = True,
    floor: float = 1e-7,
) -> Tensor:
    """Distance of the power spectra of x and y (B, T), raised to exponent / 2 (1: magnitudes, 2: powers); squared, mean.

    `by_frame` compares frame with frame (ClariNet's frame loss, which follows the timing of y); without it the spectra are
    averaged over time first (Parallel WaveNet's power loss: the frequency profile alone).

    References: van den Oord et al., 2018, sec. 4.1. arXiv:1711.10433; Ping et al., 2019, sec. 3.3. arXiv:1807.07281
    """
    p, q = ((power_spectrum(w, fft, hop) + floor) ** (exponent / 2) for w in (x, y))
    if not by_frame:
        p, q = p.mean(-1), q.mean(-1)
    return (p - q).square().mean()


def log_spectral_loss(x: Tensor, y: Tensor, *, fft: int = 512, hop: int = 128, floor: float = 1e-6) -> Tensor:
    """Mean absolute difference of log magnitudes, nats. x, y (B, T). Yamamoto et al., 2020, eq. 6. arXiv:1910.11480"""
    p, q = ((power_spectrum(w, fft, hop) + floor).log() for w in (x, y))
    return 0.5 * (p - q).abs().mean()
