"""Features with the corpus' mean removed and its spread divided out, by fixed statistics that
travel with the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """(x - mean) / std a channel; the identity until `fit`.

    The statistics are buffers: saved, never trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """x (N, C) vectors of the training corpus."""
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0).clamp(min=1e-3))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, F) -> (B, C, F)."""
        return (x - self.mean[:, None]) / self.std[:, None]

    def inverse(self, x: Tensor) -> Tensor:
        """Standardised (B, C, F) -> as it was."""
        return x * self.std[:, None] + self.mean[:, None]
