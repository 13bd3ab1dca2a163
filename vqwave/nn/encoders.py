"""Encoders: waveform -> latents at frame rate. All are non-causal and share `hop` and `forward(wave) -> (B, D, F)`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.features import FeatureSpec, LogMelSpec
from vqwave.nn.frontend import Frontend


@spec
class WaveformEncoderSpec:
    """Strided convolutions on the waveform. van den Oord et al., 2017, sec. 4.3. arXiv:1711.00937"""

    kind: Literal["waveform"] = "waveform"
    strides: tuple[int, ...] = option((2, 2, 2, 2, 2, 2), "stride of each convolution; window = 2 x stride; hop = their product")
    channels: int = option(256, "channels of the convolutions")
    blocks: int = option(2, "residual blocks at frame rate, after the strides")
    dim: int = option(64, "latent channels D")

    def build(self, sample_rate: int) -> WaveformEncoder:
        return WaveformEncoder(self)


class ResidualBlock(nn.Module):
    """x + f(x) with f = convolution, ReLU; Chorowski's layer."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.conv(x))


class StridedConv1d(nn.Conv1d):
    """Window 2 x stride, padded so that T samples give exactly T / stride frames, each centred on its samples."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__(channels, out_channels, 2 * stride, stride)
        self.around = (stride // 2, stride - stride // 2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, T) -> (B, C', T / stride)."""
        return super().forward(F.pad(x, self.around))


class WaveformEncoder(nn.Module):
    """Strided stack, residual blocks, 1x1 to the latent dimension."""

    def __init__(self, spec: WaveformEncoderSpec) -> None:
        super().__init__()
        self.hop, self.dim = math.prod(spec.strides), spec.dim
        widths = [1, *[spec.channels] * len(spec.strides)]
        self.strided = nn.ModuleList(
            StridedConv1d(a, b, stride) for a, b, stride in zip(widths, widths[1:], spec.strides, strict=False)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(spec.channels, 3) for _ in range(spec.blocks)))
        self.out = nn.Conv1d(spec.channels, spec.dim, 1)

    def forward(self, wave: Tensor) -> Tensor:
        """wave (B, T), T a multiple of hop -> (B, D, T / hop)."""
        x = wave[:, None]
        for layer in self.strided:
            x = F.relu(layer(x))
        return self.out(self.blocks(x))


@spec
class FrameEncoderSpec:
    """Convolutions over spectral frames. Chorowski et al., 2019, sec. III-A. arXiv:1901.08810"""

    kind: Literal["frames"] = "frames"
    features: FeatureSpec = option(LogMelSpec(), "what the encoder hears: log_mel or mfcc")
    stride: int = option(2, "frames to a latent: 2 takes 100 Hz to 50 Hz")
    channels: int = option(768, "channels of the convolutions")
    dim: int = option(64, "latent channels D")

    def build(self, sample_rate: int) -> FrameEncoder:
        return FrameEncoder(self, sample_rate)


class FrameEncoder(nn.Module):
    """2 convolutions of length 3, one of length 2 x stride and that stride, 2 of length 3, 4 feed-forward, 1x1.

    All but the strided one are residual. Features are standardised by statistics of the training corpus (`Frontend`).
    """

    def __init__(self, spec: FrameEncoderSpec, sample_rate: int) -> None:
        super().__init__()
        self.frontend = Frontend(spec.features.build(sample_rate))
        self.hop, self.dim = self.frontend.hop * spec.stride, spec.dim
        self.first = nn.Conv1d(self.frontend.channels, spec.channels, 3, padding="same")
        self.second = ResidualBlock(spec.channels, 3)
        self.strided = StridedConv1d(spec.channels, spec.channels, spec.stride)
        self.blocks = nn.Sequential(*(ResidualBlock(spec.channels, kernel) for kernel in (3, 3, 1, 1, 1, 1)))
        self.out = nn.Conv1d(spec.channels, spec.dim, 1)

    def forward(self, wave: Tensor) -> Tensor:
        """wave (B, T), T a multiple of hop -> (B, D, T / hop)."""
        x = self.second(F.relu(self.first(self.frontend(wave))))
        return self.out(self.blocks(F.relu(self.strided(x))))


EncoderSpec = Annotated[WaveformEncoderSpec | FrameEncoderSpec, Field(discriminator="kind")]
