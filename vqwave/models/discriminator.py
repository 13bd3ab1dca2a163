"""Parallel WaveGAN's discriminator: which samples sound made."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vqwave.config import option, spec
from vqwave.nn.masks import masked

Positive = Annotated[int, Field(ge=1)]


@spec
class DiscriminatorSpec:
    """Sizes of the discriminator."""

    layers: Annotated[int, Field(ge=2)] = option(
        default=10, help="convolutions; dilations 1, 1, 2, 3, ..., and 1 at the end"
    )
    channels: Positive = option(default=64, help="channels")
    kernel_size: Positive = option(default=3, help="taps (odd)")

    def build(self) -> Discriminator:
        return Discriminator(self)


class Discriminator(nn.Module):
    """Non-causal dilated convolutions with leaky ReLUs (0.2) and weight normalisation; one score a
    sample.

    Reference: Yamamoto et al., 2020 (Parallel WaveGAN), sec. 4.1.2. arXiv:1910.11480
    """

    def __init__(self, spec: DiscriminatorSpec) -> None:
        super().__init__()
        C, k, inner = spec.channels, spec.kernel_size, spec.layers - 1
        layers = [
            nn.Conv1d(1 if i == 0 else C, C, k, dilation=max(1, i), padding="same")
            for i in range(inner)
        ]
        self.layers = nn.ModuleList(
            weight_norm(layer) for layer in [*layers, nn.Conv1d(C, 1, k, padding="same")]
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x, mask (B, T) -> scores (B, T): trained towards 1 for recordings and 0 for what a
        student made.
        """
        features = x[:, None]
        for layer in self.layers[:-1]:
            features = F.leaky_relu(layer(masked(features, mask)), 0.2)
        return self.layers[-1](masked(features, mask))[:, 0]
