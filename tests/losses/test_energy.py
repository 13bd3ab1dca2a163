"""The spectral energy distance: its definition, and that it is least for the right distribution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.losses import EnergySpec

F64 = torch.float64


def noise(seed: int, B: int = 3, T: int = 2048) -> Tensor:
    return 0.1 * torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_that_of_the_paper() -> None:
    """Gritsenko et al., eq. 6, for each window: a constant times the sum that is written there."""
    a, b, k = noise(1), noise(2), 128
    window, spectra = torch.hann_window(k, dtype=F64), []
    for wave in (a, b):
        stft = torch.stft(
            wave, k, k // 4, window=window, center=True, pad_mode="constant", return_complex=True
        )
        spectra.append(stft.abs())
    p, q = spectra
    linear = (p - q).abs().sum()
    logarithmic = ((p.log() - q.log()).square().sum(1).sqrt() * (k / 2 + 1) ** 0.5).sum()
    spec = EnergySpec(windows=(k,), floor=1e-30)
    found = spec.distance(spec.spectra(a), spec.spectra(b))
    assert found.item() == pytest.approx(((linear + logarithmic) / p.numel()).item(), rel=1e-9)


def test_the_loss_is_twice_the_distance_less_that_of_two_samples() -> None:
    spec = EnergySpec(windows=(64, 256))
    x, other, y = noise(1), noise(2), noise(3)
    p, q, r = (spec.spectra(wave) for wave in (x, other, y))
    expected = spec.distance(p, r) + spec.distance(q, r) - spec.distance(p, q)
    assert spec.loss(x, other, y).item() == pytest.approx(expected.item())
    assert spec.loss(x, x, x).item() == 0


def test_noise_is_better_than_its_median_spectrum() -> None:
    """The distance alone prefers the middle of all spectra; the loss prefers what varies as the
    recordings do.
    """
    spec = EnergySpec(windows=(64, 256))
    x, other, y = (spec.spectra(noise(seed, 8, 8192)) for seed in (1, 2, 3))
    middle = [
        tuple(s.median() * torch.ones_like(s) for s in pair)
        for pair in spec.spectra(noise(4, 8, 8192))
    ]
    assert spec.distance(middle, y) < 0.9 * spec.distance(x, y)

    def loss(a: object, b: object) -> Tensor:
        return spec.distance(a, y) + spec.distance(b, y) - spec.distance(a, b)

    assert loss(x, other) < 0.9 * loss(middle, middle)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
def test_the_right_level_is_the_best(factor: float) -> None:
    spec, y = EnergySpec(windows=(64, 256)), noise(3, 8, 8192)
    x, other = noise(1, 8, 8192), noise(2, 8, 8192)
    assert spec.loss(x, other, y) < spec.loss(factor * x, factor * other, y)


def test_silence_has_a_gradient() -> None:
    x = torch.zeros(1, 1024, dtype=F64, requires_grad=True)
    EnergySpec().loss(x, x + 1e-9, torch.zeros(1, 1024, dtype=F64)).backward()
    assert x.grad.isfinite().all()
