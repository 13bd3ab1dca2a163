"""A direct reading of the spectrum from the quantized latents: an auxiliary target that makes the codes carry content early.

A WaveNet decoder can do without its codes for thousands of steps, and a codebook that nothing asks for collapses meanwhile.
The readout asks at once: from z_q and the labels it predicts the log-spectral frames of the clip. It plays no part in decoding.
(Training the codes against a cheap target before or beside the decoder: see the sheet of remedies in docs/method.md.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import BadInput
from vqwave.features import FeatureSpec, LogMelSpec
from vqwave.nn.frontend import Frontend
from vqwave.nn.ranks import masked_mean


@spec
class ReadoutSpec:
    """Spectral target and size of the readout."""

    features: FeatureSpec = option(LogMelSpec(), "what is predicted, standardised")
    channels: int = option(256, "channels of its two convolutions")

    def build(
        self, dim: int, hop: int, sample_rate: int, vocabulary: Mapping[str, Sequence[str]], labels: Sequence[str]
    ) -> Readout:
        """dim, hop: of the latents; labels: the columns that the decoder hears, so that codes need not carry them."""
        frontend = Frontend(self.features.build(sample_rate))
        if hop % frontend.hop:
            raise BadInput(f"readout.features.hop_ms: {frontend.hop} samples, expected a divisor of the encoder's hop {hop}")
        return Readout(frontend, dim, hop // frontend.hop, self.channels, {name: len(vocabulary[name]) for name in labels})


class Readout(nn.Module):
    """Two convolutions from latents to the spectral frames of the same clip."""

    def __init__(self, frontend: Frontend, dim: int, ratio: int, channels: int, label_sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.frontend = frontend
        self.ratio = ratio
        self.embeddings = nn.ModuleDict({name: nn.Embedding(size, channels) for name, size in label_sizes.items()})
        self.first = nn.Conv1d(dim, channels, 5, padding="same")
        self.second = nn.Conv1d(channels, channels, 5, padding="same")
        self.out = nn.Conv1d(channels, ratio * frontend.channels, 1)

    def forward(self, z: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """z (B, D, F), labels name -> (B,) -> standardised spectral frames (B, channels, ratio * F)."""
        x = self.first(z)
        for name, embedding in self.embeddings.items():
            x = x + embedding(labels[name])[..., None]
        x = F.relu(x)
        x = self.out(x + F.relu(self.second(x)))
        return x.unflatten(1, (-1, self.ratio)).permute(0, 1, 3, 2).flatten(2)

    def loss(self, z: Tensor, labels: Mapping[str, Tensor], wave: Tensor, mask: Tensor | None) -> Tensor:
        """Mean absolute error in standard deviations, over the valid frames. wave (B, T), mask (B, F) of the latents."""
        error = (self(z, labels) - self.frontend(wave)).abs().mean(1)  # (B, ratio * F)
        return masked_mean(error, None if mask is None else mask.repeat_interleave(self.ratio, 1))
