"""Spectral frames as a network hears them: features, standardised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqwave.features import MFCC, LogMel
from vqwave.nn.standardise import Standardise


class Frontend(nn.Module):
    """wave (B, T) -> standardised features (B, channels, T / hop)."""

    def __init__(self, features: LogMel | MFCC) -> None:
        super().__init__()
        self.features = features
        self.standardise = Standardise(features.channels)
        self.channels, self.hop = features.channels, features.hop

    def forward(self, wave: Tensor) -> Tensor:
        return self.standardise(self.features(wave))

    def fit(self, waves: list[Tensor]) -> None:
        """Take the statistics from whole recordings (T,) of the training corpus."""
        frames = [self.features(w[None, : len(w) // self.hop * self.hop])[0].t() for w in waves if len(w) >= self.hop]
        self.standardise.fit(torch.cat(frames))
