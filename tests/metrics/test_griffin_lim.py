"""Laws of Griffin-Lim: exact inverse, magnitudes that fit, convergence, recordings from frames."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vqwave.features import LogMel, LogMelSpec
from vqwave.metrics.griffin_lim import griffin_lim, linear_magnitudes, overlap_add

RATE = 8000


@pytest.fixture(scope="module")
def features() -> LogMel:
    return LogMelSpec(bands=32, fmax=4000.0).build(RATE)


@pytest.fixture(scope="module")
def wave() -> Tensor:
    """A gliding buzz in a little noise, (1, 4000)."""
    t = torch.arange(4000) / RATE
    phase = 2 * math.pi * (120 * t + 40 * t.square())
    buzz = sum(torch.cos(k * phase) / k for k in range(1, 12))
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    return (0.05 * buzz + 0.002 * noise)[None]


def test_a_spectrum_that_has_a_waveform_gives_it_back(features: LogMel, wave: Tensor) -> None:
    again = overlap_add(features.mel.spectrum(wave.double()), features.mel)
    torch.testing.assert_close(again, wave.double(), rtol=0, atol=1e-12)


def test_the_nearest_waveform_is_a_projection(features: LogMel) -> None:
    """What is left of any spectrum is orthogonal to all spectra of waveforms."""
    generator = torch.Generator().manual_seed(1)
    shape = (1, features.mel.fft // 2 + 1, 20)
    y = torch.complex(
        torch.randn(shape, generator=generator, dtype=torch.float64),
        torch.randn(shape, generator=generator, dtype=torch.float64),
    )
    y[:, [0, -1]] = y[:, [0, -1]].real.to(y.dtype)  # of real waveforms
    rest = y - features.mel.spectrum(overlap_add(y, features.mel))
    other = torch.randn(1, 20 * features.hop, generator=generator, dtype=torch.float64)
    theirs = features.mel.spectrum(other)
    # a bin stands for its mirror image, too
    twice = torch.full((shape[1], 1), 2.0, dtype=torch.float64)
    twice[[0, -1]] = 1.0
    inner = (twice * rest * theirs.conj()).sum().real
    assert abs(float(inner)) < 1e-9 * float(rest.norm() * theirs.norm())


def test_magnitudes_fit_the_frames_better_with_each_update(features: LogMel, wave: Tensor) -> None:
    mel = features(wave.double()).exp()
    A = features.mel.filters.double()
    errors = []
    for updates in (0, 1, 10, 100):
        S = linear_magnitudes(mel, features.mel, updates)
        assert (S >= 0).all()
        errors.append(float((A @ S - mel).norm() / mel.norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 < errors[0]


def convergence(wave: Tensor, magnitude: Tensor, features: LogMel) -> float:
    """Spectral convergence: how far the magnitudes of a waveform are from those asked for."""
    return float((features.mel.spectrum(wave).abs() - magnitude).norm() / magnitude.norm())


def test_spectral_convergence_falls(features: LogMel, wave: Tensor) -> None:
    """Without momentum it never rises (Griffin and Lim, 1984); with it, it is lower."""
    frames = features(wave.double())
    magnitude = linear_magnitudes(frames.exp(), features.mel)
    steps = (0, 1, 2, 4, 8, 16, 32)
    plain = [
        convergence(griffin_lim(frames, features, iterations=n, momentum=0.0), magnitude, features)
        for n in steps
    ]
    assert all(after < before for before, after in pairwise(plain))
    fast = convergence(griffin_lim(frames, features, iterations=32), magnitude, features)
    assert fast < plain[-1] < 0.5 * plain[0]


def test_true_frames_are_those_of_the_result(features: LogMel, wave: Tensor) -> None:
    frames = features(wave)
    again = features(griffin_lim(frames, features))
    apart = features(wave.flip(1))
    assert again.shape == frames.shape
    assert float((again - frames).abs().mean()) < 0.1
    assert float((apart - frames).abs().mean()) > 0.3


def test_the_same_on_any_number_of_threads(features: LogMel, wave: Tensor) -> None:
    threads = torch.get_num_threads()
    frames = features(wave)
    first = griffin_lim(frames, features, iterations=3)
    torch.set_num_threads(1)
    try:
        assert torch.equal(first, griffin_lim(frames, features, iterations=3))
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(first, griffin_lim(frames, features, iterations=3, seed=1))
