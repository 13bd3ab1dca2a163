"""Encoders: waveform -> latents at frame rate.

All are non-causal and have one interface, `Encoder`, also those from outside the package. Of a wave
(B, T) lengths (B,) samples are real. The rest, which must be silent, is padding: it is kept at zero
between the convolutions and left out of all statistics, so that the latents of an utterance are
those that it has alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import OpenTo, Part, option, spec
from vqwave.distributed.collectives import moments_over_ranks
from vqwave.errors import UserInputError, under
from vqwave.features import FeatureSpec, LogMelSpec, MFCCSpec, PitchSpec, Span
from vqwave.nn.frontend import Frontend
from vqwave.nn.masks import masked, stretched
from vqwave.nn.module_lists import elements
from vqwave.nn.quantize import frame_mask
from vqwave.nn.vtlp import VocalTractLengthPerturbation


class EncoderSpec(Part):
    """Settings of an encoder: a frozen dataclass (`@spec`) that builds one.

    A subclass from anywhere is a `model.encoder.kind` of its own, `package.module:Spec`.
    """

    part: ClassVar[str] = "encoder"

    @property
    def spectral_input(self) -> LogMelSpec | MFCCSpec | PitchSpec | None:
        """The standardised features that `Encoder.encode_features` takes, None if it takes none.

        The loss `cycle_consistency` needs them: it encodes predicted frames again.
        """
        return None

    @abstractmethod
    def build(self, sample_rate: int) -> Encoder:
        """The encoder of waveforms at this rate, Hz."""


class Encoder(nn.Module, ABC):
    """wave (B, T) -> latents (B, D, T / hop)."""

    hop: int
    """Samples a frame."""
    latent_dim: int
    """D."""
    alignment: int = 1
    """Frames: a recording may be cut at multiples of it without moving what its frames see."""

    def fit(self, waves: Sequence[Tensor]) -> None:
        """Take statistics from complete recordings (T,) before training; none by default."""

    @abstractmethod
    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wave (B, T), T a multiple of hop -> (B, D, T / hop).

        Of a wave lengths (B,) samples are real; what follows is silent and must not matter.
        """

    def receptive_span(self) -> Span | None:
        """Samples that frame 0 depends on, from sample 0 on; None where it depends on the whole
        utterance, which can then be encoded in one piece only.
        """
        return None

    def encode_features(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Standardised features (B, C, n F), of which lengths (B,) samples are real -> (B, D, F).

        Of encoders whose spec has `spectral_input`.
        """
        raise NotImplementedError(f"{type(self).__name__} encodes waveforms only")


@spec
class WaveformEncoderSpec(EncoderSpec):
    """Strided convolutions on the waveform.

    van den Oord et al., 2017, sec. 4.3. arXiv:1711.00937
    """

    kind: Literal["waveform"] = "waveform"
    strides: tuple[Annotated[int, Field(ge=1)], ...] = option(
        default=(2, 2, 2, 2, 2, 2),
        help="stride of each convolution; window = 2 x stride; hop = their product",
    )
    channels: Annotated[int, Field(ge=1)] = option(default=256, help="channels of the convolutions")
    blocks: Annotated[int, Field(ge=0)] = option(
        default=2, help="residual blocks at frame rate, after the strides"
    )
    latent_dim: Annotated[int, Field(ge=1)] = option(default=64, help="latent channels D")
    instance_norm: bool = option(
        default=False,
        help="take each utterance's mean and spread out of every channel: against speaker leakage",
    )

    def build(self, sample_rate: int) -> WaveformEncoder:  # noqa: ARG002
        return WaveformEncoder(self)


class InstanceNorm(nn.Module):
    """Each channel of each utterance with mean 0 and spread 1 over its valid frames: what is
    constant in time, as a voice is, goes.

    No learned gain: one follows. Latents then depend on the whole utterance. Chen and Hain, 2020
    (as in REFERENCE 7.4), and Chou et al., 2019, sec. 2.2. arXiv:1904.05742
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, F), mask (B, F) -> (B, C, F)."""
        weight = torch.ones_like(x[:, :1]) if mask is None else mask[:, None].to(x.dtype)
        count = weight.sum(-1, keepdim=True).clamp(min=1.0)
        centred = x - (x * weight).sum(-1, keepdim=True) / count
        return centred * ((centred.square() * weight).sum(-1, keepdim=True) / count + 1e-5).rsqrt()


class MaskedBatchNorm(nn.Module):
    """Batch normalisation over the valid frames: Ioffe and Szegedy, 2015. arXiv:1502.03167

    In training a rank normalises by its own clips, as plain batch normalisation under DDP does; the
    running statistics, which evaluation uses, are those of all ranks together, so that every rank
    keeps the same ones.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight, self.bias = (
            nn.Parameter(torch.ones(channels)),
            nn.Parameter(torch.zeros(channels)),
        )
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, F), mask (B, F) -> (B, C, F)."""
        mean, variance = self.mean, self.variance
        if self.training:
            weight = torch.ones_like(x[:, :1]) if mask is None else mask[:, None].to(x.dtype)
            count = weight.sum().clamp(min=1.0)
            mean = (x * weight).sum((0, 2)) / count
            variance = ((x - mean[:, None]).square() * weight).sum((0, 2)) / count
            self._follow(x, weight)
        scale = self.weight * (variance + 1e-5).rsqrt()
        return (x - mean[:, None]) * scale[:, None] + self.bias[:, None]

    @torch.no_grad()
    def _follow(self, x: Tensor, weight: Tensor) -> None:
        vectors = x.transpose(1, 2).flatten(0, 1).to(self.mean.dtype)  # (B F, C)
        count, mean, squares = moments_over_ranks(
            vectors, weight.expand(len(x), 1, -1).flatten().to(vectors.dtype)
        )
        variance = squares / (count - 1).clamp(min=1.0)
        share = self.momentum * (count > 0).to(
            mean.dtype
        )  # a wholly masked batch has no statistics
        self.mean.lerp_(mean, share)
        self.variance.lerp_(variance, share)


class ResidualBlock(nn.Module):
    """x + f(x) with f = convolution, ReLU; Chorowski's layer."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, kernel, padding="same")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, n F), mask (B, F) -> (B, C, n F)."""
        x = masked(x, mask)
        return x + F.relu(self.conv(x))


class StridedConv1d(nn.Conv1d):
    """Window 2 x stride, padded so that T samples give exactly T / stride frames, each centred on
    its samples.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__(channels, out_channels, 2 * stride, stride)
        self.around = (stride // 2, stride - stride // 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, C, T), mask (B, F) of coarser frames -> (B, C', T / stride)."""
        return super().forward(F.pad(masked(x, mask), self.around))

    def receptive_span(self, columns: Span) -> Span:
        """Output columns -> the input columns that they depend on."""
        return columns.windowed(self.kernel_size[0], self.stride[0], self.around[0])


class WaveformEncoder(Encoder):
    """Strided stack, residual blocks, 1x1 to the latent dimension."""

    def __init__(self, spec: WaveformEncoderSpec) -> None:
        super().__init__()
        self.hop, self.latent_dim = math.prod(spec.strides), spec.latent_dim
        widths = [1, *[spec.channels] * len(spec.strides)]
        self.strided = nn.ModuleList(
            StridedConv1d(a, b, stride)
            for a, b, stride in zip(widths, widths[1:], spec.strides, strict=False)
        )
        self.blocks = nn.ModuleList(ResidualBlock(spec.channels, 3) for _ in range(spec.blocks))
        self.norm = InstanceNorm() if spec.instance_norm else None
        self.out = nn.Conv1d(spec.channels, spec.latent_dim, 1)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wave (B, T), T a multiple of hop -> (B, D, T / hop)."""
        x, mask = wave[:, None], _mask(lengths, self.hop, wave)
        for layer in self.strided:
            x = F.relu(layer(x, mask))
        for block in self.blocks:
            x = block(x, mask)
        return self.out(x if self.norm is None else self.norm(x, mask))

    def receptive_span(self) -> Span | None:
        if self.norm is not None:
            return None
        span = Span(0, 0).wider(len(self.blocks))
        for layer in reversed(elements(self.strided, StridedConv1d)):
            span = layer.receptive_span(span)
        return span


@spec
class FrameEncoderSpec(EncoderSpec):
    """Convolutions over spectral frames. Chorowski et al., 2019, sec. III-A. arXiv:1901.08810"""

    kind: Literal["spectral"] = "spectral"
    features: FeatureSpec = option(
        default=LogMelSpec(), help="input of the encoder: log_mel or mfcc"
    )
    stride: Annotated[int, Field(ge=1)] = option(
        default=2, help="frames to a latent: 2 takes 100 Hz to 50 Hz"
    )
    channels: Annotated[int, Field(ge=1)] = option(default=768, help="channels of the convolutions")
    latent_dim: Annotated[int, Field(ge=1)] = option(default=64, help="latent channels D")
    instance_norm: bool = option(
        default=False,
        help="take each utterance's mean and spread out of every channel: against speaker leakage",
    )
    vtlp: Annotated[float, Field(ge=0, lt=1)] = option(
        default=0.0,
        help="spread of the factor by which training stretches each utterance's mel axis: against"
        " speaker leakage",
    )

    @property
    def spectral_input(self) -> LogMelSpec | MFCCSpec | PitchSpec | None:
        return self.features

    def build(self, sample_rate: int) -> FrameEncoder:
        """Raises UserInputError for a warp of features that have no mel axis."""
        if self.vtlp and self.features.kind != "log_mel":
            raise UserInputError(
                f"encoder.vtlp: {self.vtlp:g} of {self.features.kind}, expected features of kind"
                " log_mel"
            )
        return FrameEncoder(self, sample_rate)


class FrameEncoder(Encoder):
    """2 convolutions of length 3, one of length 2 x stride and that stride, 2 of length 3, 4
    feed-forward, 1x1.

    All but the strided one are residual. Features are standardised by statistics of the training
    corpus (`Frontend`).
    """

    def __init__(self, spec: FrameEncoderSpec, sample_rate: int) -> None:
        super().__init__()
        with under("encoder.features"):
            self.frontend = Frontend(spec.features.build(sample_rate))
        self.stride = spec.stride
        self.hop, self.latent_dim = self.frontend.hop * spec.stride, spec.latent_dim
        self.alignment = _alignment(self.frontend, self.hop)
        self.warp = VocalTractLengthPerturbation(spec.vtlp)
        self.first = nn.Conv1d(self.frontend.channels, spec.channels, 3, padding="same")
        self.second = ResidualBlock(spec.channels, 3)
        self.strided = StridedConv1d(spec.channels, spec.channels, spec.stride)
        self.blocks = nn.ModuleList(
            ResidualBlock(spec.channels, kernel) for kernel in (3, 3, 1, 1, 1, 1)
        )
        self.norm = InstanceNorm() if spec.instance_norm else None
        self.out = nn.Conv1d(spec.channels, spec.latent_dim, 1)

    def fit(self, waves: Sequence[Tensor]) -> None:
        """Take the features' statistics from complete recordings (T,)."""
        self.frontend.fit(waves)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wave (B, T), T a multiple of hop -> (B, D, T / hop)."""
        frames = self.frontend(wave, mask=_mask(lengths, self.hop, wave))
        return self.encode_features(self.warp(frames), lengths)

    def encode_features(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Standardised features (B, C, stride F), of which lengths (B,) samples are real -> (B, D,
        F).
        """
        mask = (
            None
            if lengths is None
            else frame_mask(lengths, self.hop, frames.shape[-1] // self.stride)
        )
        x = self.second(F.relu(self.first(masked(frames, mask))), mask)
        x = F.relu(self.strided(x, mask))
        for block in self.blocks:
            x = block(x, mask)
        return self.out(x if self.norm is None else self.norm(x, mask))

    def receptive_span(self) -> Span | None:
        if self.norm is not None:
            return None
        blocks = elements(self.blocks, ResidualBlock)
        around = sum(block.conv.kernel_size[0] // 2 for block in blocks)
        frames = self.strided.receptive_span(Span(0, 0).wider(around)).wider(2)
        return self.frontend.features.receptive_span(frames)


@spec
class BatchNormEncoderSpec(EncoderSpec):
    """Five convolutions with batch normalisation.

    van Niekerk et al., 2020, sec. 3.1. arXiv:2005.09409

    Their features have pre-emphasis and a floor 80 dB below the loudest frame; these are the
    package's own, standardised.
    """

    kind: Literal["batch_norm"] = "batch_norm"
    features: FeatureSpec = option(default=LogMelSpec(), help="input of the encoder")
    stride: Annotated[int, Field(ge=1)] = option(
        default=2, help="frames to a latent: 2 takes 100 Hz to 50 Hz"
    )
    channels: Annotated[int, Field(ge=1)] = option(default=768, help="channels of the convolutions")
    latent_dim: Annotated[int, Field(ge=1)] = option(default=64, help="latent channels D")
    instance_norm: bool = option(
        default=False,
        help="take each utterance's mean and spread out of every channel: against speaker leakage",
    )

    def build(self, sample_rate: int) -> BatchNormEncoder:
        return BatchNormEncoder(self, sample_rate)


class BatchNormEncoder(Encoder):
    """Convolutions of 3, 3, 2 x stride at that stride, 3, 3 taps, each with batch normalisation and
    ReLU; then 1x1.
    """

    def __init__(self, spec: BatchNormEncoderSpec, sample_rate: int) -> None:
        super().__init__()
        with under("encoder.features"):
            self.frontend = Frontend(spec.features.build(sample_rate))
        self.hop, self.latent_dim = self.frontend.hop * spec.stride, spec.latent_dim
        self.alignment = _alignment(self.frontend, self.hop)
        C = spec.channels
        around = [
            nn.Conv1d(a, C, 3, padding="same", bias=False)
            for a in (self.frontend.channels, C, C, C)
        ]
        strided = StridedConv1d(C, C, spec.stride)
        self.convolutions = nn.ModuleList([*around[:2], strided, *around[2:]])
        self.norms = nn.ModuleList(MaskedBatchNorm(C) for _ in self.convolutions)
        self.norm = InstanceNorm() if spec.instance_norm else None
        self.out = nn.Conv1d(C, spec.latent_dim, 1)

    def fit(self, waves: Sequence[Tensor]) -> None:
        """Take the features' statistics from complete recordings (T,)."""
        self.frontend.fit(waves)

    def forward(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wave (B, T), T a multiple of hop -> (B, D, T / hop)."""
        mask = _mask(lengths, self.hop, wave)
        x = self.frontend(wave, mask=mask)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolution(masked(x, mask))
            x = F.relu(norm(x, None if mask is None else stretched(mask, x.shape[-1])))
        return self.out(x if self.norm is None else self.norm(x, mask))

    def receptive_span(self) -> Span | None:
        if self.norm is not None:
            return None
        strided = cast("StridedConv1d", self.convolutions[2])
        frames = strided.receptive_span(Span(0, 0).wider(2)).wider(2)
        return self.frontend.features.receptive_span(frames)


def _mask(lengths: Tensor | None, hop: int, wave: Tensor) -> Tensor | None:
    """Which latents of wave (B, T) hold samples, (B, T / hop)."""
    return None if lengths is None else frame_mask(lengths, hop, wave.shape[1] // hop)


def _alignment(frontend: Frontend, hop: int) -> int:
    """Frames of `hop` samples at whose multiples the features may begin anew."""
    return math.lcm(frontend.features.alignment, hop) // hop


AnyEncoderSpec = Annotated[
    WaveformEncoderSpec | FrameEncoderSpec | BatchNormEncoderSpec, OpenTo(EncoderSpec)
]
