r"""The spectral energy distance between the distributions of samples and of recordings.

.. math:: L = E\, 2 d(x, y) - d(x, x'), \quad d(a, b) = \sum_k \sum_t \| s^k_t(a) - s^k_t(b) \|_1 +
    \sqrt{k / 2}\, \| \ln s^k_t(a) - \ln s^k_t(b) \|_2

with s^k the magnitudes of windows of k samples, and x and x' two samples for the condition of the
recording y, drawn independently. E d(x, y) alone is least if all samples have the one spectrum in
the middle of those that fit their condition. The second term rewards samples that differ from each
other as recordings do: L is least for their distribution (a proper scoring rule).

Reference: Gritsenko et al., 2020, eq. 5 to 7. arXiv:2008.01160
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.losses.spectral import power_spectrum

Spectra = list[tuple[Tensor, Tensor]]
"""Magnitudes and their logarithms, (B, bins, F) each, of every window."""


@spec
class EnergySpec:
    """The spectral energy distance (`losses.energy_distance`); it takes a second sample a clip."""

    windows: tuple[Annotated[int, Field(ge=4)], ...] = option(
        default=(64, 128, 256, 512, 1024), help="samples of each Hann window; a quarter is its hop"
    )
    floor: Annotated[float, Field(gt=0)] = option(
        default=1e-7, help="of the power a sample, before root and logarithm"
    )

    def spectra(self, x: Tensor) -> Spectra:
        """x (B, T), a full scale of 1."""
        spectra: Spectra = []
        for k in self.windows:
            magnitude = power_spectrum(x, k, k // 4).clamp(min=self.floor).sqrt()
            spectra.append(
                (magnitude * (0.375 * k) ** 0.5, magnitude.log())
            )  # Hann's energy: 3/8 k
        return spectra

    def distance(self, a: Spectra, b: Spectra) -> Tensor:
        """d(a, b), mean over bins, frames and windows instead of the sum: scalar."""
        total = torch.zeros_like(a[0][0][0, 0, 0])
        for (p, log_p), (q, log_q) in zip(a, b, strict=True):
            norm = torch.linalg.vector_norm(log_p - log_q, dim=1) / p.shape[1] ** 0.5
            total = total + (p - q).abs().mean() + norm.mean()
        return total / len(a)

    def loss(self, x: Tensor, other: Tensor, y: Tensor) -> Tensor:
        """Independent samples x and `other` against recordings y, all (B, T) -> scalar."""
        p, p_other, q = self.spectra(x), self.spectra(other), self.spectra(y)
        return self.distance(p, q) + self.distance(p_other, q) - self.distance(p, p_other)
