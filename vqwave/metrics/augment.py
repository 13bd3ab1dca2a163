"""Augmentation of mel powers, by which a recognizer becomes robust: noise, hum, microphones."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def fitted(power: Tensor, frames: int, tempo: float = 0.0) -> Tensor:
    """Mel powers (M, F) -> (M, frames): cut at random where longer, put at a random place in
    silence where shorter.

    `tempo` is how much faster or slower it may be made first. Draws from torch's generator.
    """
    if tempo:
        rate = 1 + tempo * (2 * float(torch.rand(())) - 1)
        power = F.interpolate(
            power[None], size=max(1, round(power.shape[1] / rate)), mode="linear"
        )[0]
    missing = frames - power.shape[1]
    start = int(torch.randint(abs(missing) + 1, ()))
    return (
        F.pad(power, (start, missing - start)) if missing >= 0 else power[:, start : start + frames]
    )


def augmented(power: Tensor) -> Tensor:
    """Mel powers (B, M, F) through a random filter, with random steady noise, with bands and
    moments missing.

    Noise powers add to the powers of speech, which is what they do on average; each has a tilt of
    up to 20 dB over the bands and stands 5 to 45 dB below the loudest band. The filter is smooth,
    within about 5 dB. Every other item misses up to 5 bands and up to 6 frames (SpecAugment: Park
    et al., 2019. arXiv:1904.08779). Draws from torch's generator.
    """
    B, M, frames = power.shape
    place = torch.linspace(-0.5, 0.5, M)[None, :, None]  # (1, M, 1)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(B, 1, 1)

    ripple = uniform(-3, 3) * place * 2 + uniform(-2, 2) * torch.cos(
        math.pi * (2 * place + uniform(-1, 1))
    )
    power = power * 10 ** (ripple / 10)
    loudest = power.amax((1, 2), keepdim=True)
    steady = loudest * 10 ** ((-uniform(5, 45) + 20 * uniform(-1, 1) * place) / 10)
    grain = 0.5 * (_exponential(B, M, frames) + _exponential(B, M, frames))
    noisy = power + steady * grain * (torch.rand(B, 1, 1) < 0.7)
    return noisy * _kept(B, M, 5)[:, :, None] * _kept(B, frames, 6)[:, None, :]


def _exponential(*shape: int) -> Tensor:
    return -torch.log1p(-torch.rand(shape))


def _kept(count: int, size: int, most: int) -> Tensor:
    """(count, size): ones, but for a stretch of up to `most` zeros in every other row."""
    length = torch.randint(most + 1, (count, 1)) * (torch.rand(count, 1) < 0.5)
    start = (torch.rand(count, 1) * (size - length)).long()
    place = torch.arange(size)
    return 1.0 - ((place >= start) & (place < start + length)).float()
