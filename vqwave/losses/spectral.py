"""Losses that compare a true sample g(z) with a recording by their spectra: power, log magnitude,
several resolutions.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec


def power_spectrum(x: Tensor, fft: int, hop: int, window: int | None = None) -> Tensor:
    """|STFT(x)|^2 of a Hann window of `window` (else `fft`) samples, scaled by its energy.

    x (B, T) -> (B, bins, F).
    """
    shape = torch.hann_window(window or fft, device=x.device, dtype=x.dtype)
    spectrum = torch.stft(
        x,
        fft,
        hop,
        window or fft,
        window=shape,
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    return (spectrum.real.square() + spectrum.imag.square()) / shape.square().sum()


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
    """Distance of the power spectra of x and y (B, T), raised to exponent / 2 (1: magnitudes, 2:
    powers); squared, mean.

    `by_frame` compares frame with frame (ClariNet's frame loss, which follows the timing of y);
    without it the spectra are averaged over time first (Parallel WaveNet's power loss: the
    frequency profile alone).

    References: van den Oord et al., 2018, sec. 4.1. arXiv:1711.10433; Ping et al., 2019, sec. 3.3.
    arXiv:1807.07281
    """
    p, q = ((power_spectrum(w, fft, hop) + floor) ** (exponent / 2) for w in (x, y))
    if not by_frame:
        p, q = p.mean(-1), q.mean(-1)
    return (p - q).square().mean()


def log_spectral_loss(
    x: Tensor, y: Tensor, *, fft: int = 512, hop: int = 128, floor: float = 1e-6
) -> Tensor:
    """Mean absolute difference of log magnitudes, nats.

    x, y (B, T). Yamamoto et al., 2020, eq. 6. arXiv:1910.11480
    """
    p, q = ((power_spectrum(w, fft, hop) + floor).log() for w in (x, y))
    return 0.5 * (p - q).abs().mean()


@spec
class PowerSpec:
    """The power loss (`losses.power`); `losses.log_spectral` has the same window."""

    fft: Annotated[int, Field(ge=1)] = option(default=512, help="window, samples")
    hop: Annotated[int, Field(ge=1)] = option(default=128, help="samples between windows")
    exponent: Annotated[float, Field(gt=0)] = option(default=1.0, help="of the magnitudes: 1 or 2")
    per_frame: bool = option(
        default=True,
        help="frame with frame (ClariNet); false: averaged over time (Parallel WaveNet)",
    )

    def power(self, x: Tensor, y: Tensor) -> Tensor:
        return power_loss(
            x, y, fft=self.fft, hop=self.hop, exponent=self.exponent, by_frame=self.per_frame
        )

    def log_spectral(self, x: Tensor, y: Tensor) -> Tensor:
        return log_spectral_loss(x, y, fft=self.fft, hop=self.hop)


@spec
class STFTSpec:
    r"""The multi-resolution STFT loss (`losses.stft`): spectral convergence plus log magnitude,
    mean over the resolutions.

    .. math:: L_{sc} = \frac{\| |Y| - |X| \|_F}{\| |Y| \|_F}, \quad L_{mag} = \frac{1}{N} \| \ln|Y|
    - \ln|X| \|_1

    The default is Parallel WaveGAN's, for 24 kHz; at 8 kHz a third is near: [[512, 40, 200], [1024,
    80, 400], [256, 20, 80]].

    Reference: Yamamoto et al., 2020 (Parallel WaveGAN), eq. 4 to 7. arXiv:1910.11480
    """

    resolutions: tuple[tuple[int, int, int], ...] = option(
        default=((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)),
        help="each: FFT, hop, window (samples)",
    )
    floor: Annotated[float, Field(gt=0)] = option(
        default=1e-7, help="of the scaled power, before root and logarithm"
    )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """x, y (B, T) -> scalar."""
        total = torch.zeros((), device=x.device, dtype=x.dtype)
        for fft, hop, window in self.resolutions:
            p, q = (
                power_spectrum(w, fft, hop, window).clamp(min=self.floor).sqrt() for w in (x, y)
            )
            convergence = (q - p).flatten(1).norm(dim=1) / q.flatten(1).norm(dim=1)
            total = total + convergence.mean() + (q.log() - p.log()).abs().mean()
        return total / len(self.resolutions)
