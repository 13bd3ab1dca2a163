"""Spectral distances: laws of a distance, hand-computed cases, warping, gain, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import UserInputError
from vqwave.features import mel_filters
from vqwave.metrics import log_spectral_distance, mel_cepstral_distortion, multi_resolution_stft
from vqwave.metrics.spectral import mel_cepstra, warped_distance

RATE = 8000


def noise(seed: int, samples: int = 4000) -> Wave:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def vowel(formant: float, samples: int = 4000) -> Wave:
    """Harmonics of 100 Hz (80 samples, one hop of the cepstra) with a peak at `formant` Hz."""
    harmonics = 100 * np.arange(1, 36)
    weights = 0.05 / (1 + ((harmonics - formant) / 300) ** 2)
    t = np.arange(samples)[:, None] / RATE
    return (weights * np.cos(2 * np.pi * harmonics * t)).sum(1).astype(np.float32)


def slow_warped_distance(cost: NDArray[np.float64]) -> float:
    """Dynamic time warping as it is written in the textbook: (cost, steps) of the best path to each
    cell.
    """
    best: dict[tuple[int, int], tuple[float, int]] = {(-1, -1): (0.0, 0)}
    unreached = (math.inf, 0)
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            total, steps = min(
                best.get(place, unreached) for place in ((i - 1, j - 1), (i - 1, j), (i, j - 1))
            )
            best[i, j] = (total + float(cost[i, j]), steps + 1)
    total, steps = best[cost.shape[0] - 1, cost.shape[1] - 1]
    return total / steps


def test_identical_waveforms_have_distance_zero() -> None:
    wave = vowel(700)
    assert log_spectral_distance(wave, wave, RATE) == 0
    assert mel_cepstral_distortion(wave, wave, RATE) == 0
    assert multi_resolution_stft(wave, wave) == 0


def test_distances_are_symmetric_and_positive() -> None:
    a, b = vowel(700), noise(1)
    for distance in (log_spectral_distance, mel_cepstral_distortion):
        assert distance(a, b, RATE) == pytest.approx(distance(b, a, RATE), rel=1e-12)
        assert distance(a, b, RATE) > 1
    assert multi_resolution_stft(a, b) > 0.1


def test_a_nearer_formant_is_nearer() -> None:
    reference, near, far = vowel(700), vowel(800), vowel(2000)
    for distance in (log_spectral_distance, mel_cepstral_distortion):
        assert distance(reference, near, RATE) < distance(reference, far, RATE)
    assert multi_resolution_stft(reference, near) < multi_resolution_stft(reference, far)


def test_log_spectral_distance_of_a_gain_is_that_gain() -> None:
    wave = noise(2)  # white, so that no bin is near the floor
    assert log_spectral_distance(wave, wave / 2, RATE) == pytest.approx(
        20 * math.log10(2), rel=1e-3
    )


def test_log_spectral_distance_counts_nothing_below_the_floor() -> None:
    silence = np.zeros(4000, np.float32)
    assert log_spectral_distance(silence, silence, RATE) == 0
    assert log_spectral_distance(silence, noise(3) * 1e-5, RATE) == pytest.approx(0, abs=1e-9)
    t = np.arange(4096) / RATE
    sine = np.sin(2 * np.pi * 1000 * t).astype(np.float32)
    # no bin can differ by more than the whole range
    assert log_spectral_distance(sine, np.zeros_like(sine), RATE) < 80


def test_mel_cepstral_distortion_ignores_gain() -> None:
    wave = noise(4)
    assert mel_cepstral_distortion(wave, wave / 4, RATE) == pytest.approx(0, abs=1e-5)


def test_mel_cepstra_give_the_rms_difference_in_db() -> None:
    """A filter moves the cepstra of white noise by those of its own log power spectrum, here |1 +
    e^{-iw} / 2|^2.
    """
    wave = noise(5, 80_000)
    coloured = np.convolve(wave, [1, 0.5])[: len(wave)].astype(np.float32)
    moved = (mel_cepstra(coloured, RATE) - mel_cepstra(wave, RATE)).mean(0)
    filters = mel_filters(RATE, 256, 40, 20.0, 4000.0).numpy()
    bins = np.pi * np.arange(129) / 128
    gain_db = 10 * np.log10(filters @ np.abs(1 + 0.5 * np.exp(-1j * bins)) ** 2 / filters.sum(1))
    # without c0; the 13 cepstra hold nearly all of so smooth a curve
    rms = math.sqrt(np.mean((gain_db - gain_db.mean()) ** 2))
    assert 10 / math.log(10) * math.sqrt(2 * np.sum(moved**2)) == pytest.approx(rms, rel=0.01)


def test_warping_by_hand() -> None:
    # 0 1 5 against 0 5 by |difference|: 0-0, then 1-0 (cost 1), then 5-5: three steps of total cost
    # 1.
    cost = np.abs(np.array([0.0, 1.0, 5.0])[:, None] - np.array([0.0, 5.0]))
    assert warped_distance(cost) == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2), (9, 14), (14, 9)])
def test_warping_is_the_textbooks(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    for cost in (
        rng.random(shape),
        rng.integers(0, 3, shape).astype(float),
    ):  # the second is full of equally cheap paths
        assert warped_distance(cost) == pytest.approx(slow_warped_distance(cost), rel=1e-12)
        assert warped_distance(cost) == pytest.approx(warped_distance(cost.T), rel=1e-12)


def test_warping_absorbs_repeated_frames() -> None:
    frames = np.random.default_rng(0).normal(size=(12, 3))
    repeated = np.repeat(frames, [1, 3, 1, 1, 2, 1, 5, 1, 1, 1, 1, 2], axis=0)
    cost = np.linalg.norm(frames[:, None] - repeated, axis=2)
    assert warped_distance(cost) == 0


def test_distortion_of_a_lengthened_steady_sound_is_small() -> None:
    low, high = vowel(500, 2400), vowel(1500, 2400)
    word, slow = np.concatenate([low, high]), np.concatenate([low, low[:1600], high])
    other = np.concatenate([vowel(900, 2400), high])
    assert (
        mel_cepstral_distortion(word, slow, RATE)
        < 0.2
        < 2
        < mel_cepstral_distortion(word, other, RATE)
    )


def test_multi_resolution_of_a_gain() -> None:
    """Of half the amplitude: spectral convergence 1/2, log-magnitude difference ln 2."""
    wave = noise(6)
    assert multi_resolution_stft(wave, wave / 2) == pytest.approx(0.5 + math.log(2), rel=1e-3)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
def test_any_sample_rate(rate: int) -> None:
    a, b = noise(7, rate // 4), noise(8, rate // 4)
    assert 0 < log_spectral_distance(a, b, rate) < 20
    assert 0 < mel_cepstral_distortion(a, b, rate) < 20


def test_lengths_are_checked() -> None:
    with pytest.raises(UserInputError, match="waveforms of 10 and 9 samples"):
        log_spectral_distance(noise(0, 10), noise(0, 9), RATE)
    with pytest.raises(UserInputError, match="waveforms of 10 and 9 samples"):
        multi_resolution_stft(noise(0, 10), noise(0, 9))
    with pytest.raises(UserInputError, match="expected \\(samples,\\), at least one"):
        mel_cepstral_distortion(noise(0, 10), noise(0, 0), RATE)
    with pytest.raises(UserInputError, match="reference waveform is silent"):
        multi_resolution_stft(np.zeros(10, np.float32), noise(0, 10))
