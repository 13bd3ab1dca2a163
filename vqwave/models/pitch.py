"""Pitch codec: the melody of an utterance in a few codes a second, apart from what is said and from
who says it.

B batch, F contour frames (100 a second), N codes; Q books. A contour is (B, 2, F): F0 and voicing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributed.collectives import masked_mean
from vqwave.models.wavenet import Vocabulary
from vqwave.nn.encoders import ResidualBlock, StridedConv1d
from vqwave.nn.masks import masked
from vqwave.nn.module_lists import elements
from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    ProductQuantizerSpec,
    Quantized,
    Quantizer,
    ResidualQuantizerSpec,
)
from vqwave.nn.repeat import repeated
from vqwave.pitch_tracking import ten_milliseconds

SEMITONE = math.log(2) / 12
Statistic = Tensor | float
Books = Annotated[
    EMAQuantizerSpec | ProductQuantizerSpec | ResidualQuantizerSpec, Field(discriminator="kind")
]


def normalise(pitch: Tensor, mean: Statistic, deviation: Statistic) -> Tensor:
    r"""The melody without the voice: pitch (B, 2, F), v ln(F0 / 100 Hz) and v -> (B, 2, F).

    .. math:: v (\ln(F_0 / 100) - \mu) / \sigma, \quad v

    mean and deviation of the voice's ln(F0 / 100 Hz), (B,) or a number. What an unvoiced frame has
    for an F0 plays no part.

    Reference: Polyak et al., 2021, sec. 3.1. arXiv:2104.00355
    """
    log_f0, voiced = pitch.unbind(-2)
    centred = (log_f0 - _column(mean, pitch)) / _column(deviation, pitch)
    return torch.stack([torch.where(voiced > 0, centred, 0.0), voiced], -2)


def denormalise(
    contour: Tensor, mean: Statistic, deviation: Statistic, shift_semitones: float = 0.0
) -> Tensor:
    """The inverse of `normalise`, and what is made of a decoded contour in a voice: (B, 2, F) ->
    (B, 2, F).

    contour: normalised F0, and the probability of voicing, from 1/2 of which a frame is voiced. The
    result is v ln(F0 / 100 Hz), moved by `shift_semitones`, and v.
    """
    melody, probability = contour.unbind(-2)
    voiced = probability >= 0.5
    log_f0 = melody * _column(deviation, contour) + _column(mean, contour)
    moved = torch.where(voiced, log_f0 + shift_semitones * SEMITONE, 0.0)
    return torch.stack([moved, voiced.to(contour.dtype)], -2)


def _column(value: Statistic, like: Tensor) -> Tensor:
    """(B,) or a number -> what goes with (B, F)."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)[..., None]


@spec
class PitchCodecSpec:
    """A VQ-VAE of the melody.

    Zhao et al., 2020, arXiv:2005.07884; Polyak et al., 2021, sec. 3.1. arXiv:2104.00355
    """

    kind: Literal["pitch_codec"] = "pitch_codec"
    downsample: Annotated[int, Field(ge=1)] = option(
        default=8, help="contour frames (100 a second) to a code: 8 gives 12.5 Hz"
    )
    channels: Annotated[int, Field(ge=1)] = option(default=128, help="channels of the convolutions")
    latent_dim: Annotated[int, Field(ge=1)] = option(default=16, help="latent channels D")
    quantizer: Books = option(default=EMAQuantizerSpec(codebook_size=20), help="latents -> codes")

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> PitchCodec:  # noqa: ARG002
        """vocabulary is not used: a codec of melodies depends on no voice."""
        strides = _prime_factors(self.downsample)
        encoder = PitchEncoder(self.channels, self.latent_dim, strides)
        decoder = PitchDecoder(self.channels, self.latent_dim, strides)
        hop = ten_milliseconds(sample_rate) * self.downsample
        return PitchCodec(encoder, self.quantizer.build(self.latent_dim), decoder, hop)


def _prime_factors(number: int) -> tuple[int, ...]:
    """Ascending; none of 1."""
    factors, rest = [], number
    for prime in range(2, number + 1):
        while rest % prime == 0:
            factors.append(prime)
            rest //= prime
    return tuple(factors)


class PitchEncoder(nn.Module):
    """A convolution and a residual block at each rate, strided convolutions between; 1x1 to the
    latent dimension.

    What lies beyond an utterance's end is zero before each convolution, as if there were nothing.
    """

    def __init__(self, channels: int, dim: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, channels, 3, padding="same")
        self.strided = nn.ModuleList(
            StridedConv1d(channels, channels, stride) for stride in strides
        )
        self.blocks = nn.ModuleList(ResidualBlock(channels, 3) for _ in (1, *strides))
        self.out = nn.Conv1d(channels, dim, 1)

    @property
    def context(self) -> tuple[int, int]:
        """First and last contour frame that code 0 depends on."""
        first, last = -1, 1
        for layer in reversed(elements(self.strided, StridedConv1d)):
            stride = layer.stride[0]
            before = stride // 2
            first, last = first * stride - before - 1, last * stride - before + 2 * stride
        return first - 1, last + 1

    def forward(self, contour: Tensor, lengths: Tensor) -> Tensor:
        """contour (B, 2, F), of which lengths (B,) frames are real -> (B, D, F / ratio)."""
        x = self._real(F.relu(self.first(self._real(contour, lengths))), lengths)
        x = self._real(self.blocks[0](x), lengths)
        strided = elements(self.strided, StridedConv1d)
        for layer, block in zip(strided, self.blocks[1:], strict=True):
            # upwards; ONNX divides whole numbers towards zero, so that they must not be negative
            lengths = (lengths + layer.stride[0] - 1) // layer.stride[0]
            x = self._real(F.relu(layer(x)), lengths)
            x = self._real(block(x), lengths)
        return self.out(x)

    def _real(self, x: Tensor, lengths: Tensor) -> Tensor:
        return masked(x, torch.arange(x.shape[-1], device=x.device) < lengths[:, None])


class PitchDecoder(nn.Module):
    """The way back: a residual block at each rate, frames repeated between; F0 and a logit of
    voicing.
    """

    def __init__(self, channels: int, dim: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.strides = tuple(reversed(strides))
        self.first = nn.Conv1d(dim, channels, 3, padding="same")
        self.blocks = nn.ModuleList(ResidualBlock(channels, 3) for _ in (1, *strides))
        self.out = nn.Conv1d(channels, 2, 3, padding="same")

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, D, N), mask (B, N) of real codes -> (B, 2, N ratio): normalised F0, logit of
        voicing.
        """
        x = masked(F.relu(self.first(masked(z, mask))), mask)
        x = masked(self.blocks[0](x), mask)
        for stride, block in zip(self.strides, self.blocks[1:], strict=True):
            x = masked(block(repeated(x, stride)), mask)
        return self.out(x)


@dataclass(frozen=True)
class PitchReconstruction:
    """What training sees: decoded normalised F0 and logit of voicing, (B, 2, F), and the quantized
    latents.
    """

    decoded: Tensor
    quantized: Quantized

    def losses(self, contour: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """contour (B, 2, F) normalised, mask (B, F) of real frames -> losses by name, unweighted.

        `contour`: squared error of the normalised F0 where voiced; `voicing`: binary cross-entropy
        in nats.
        """
        melody, voiced = contour.unbind(1)
        predicted, logit = self.decoded.unbind(1)
        apart = masked_mean((predicted - melody).square(), mask & (voiced > 0))
        unlike = F.binary_cross_entropy_with_logits(logit, voiced, reduction="none")
        return self.quantized.losses | {"contour": apart, "voicing": masked_mean(unlike, mask)}


class PitchCodec(nn.Module):
    """Normalised contours (B, 2, F) <-> codes (B, Q, F / ratio).

    See `normalise` for what a contour is.

    A code depends on `context` contour frames only, so that contours can be encoded chunk by chunk.
    """

    def __init__(
        self, encoder: PitchEncoder, quantizer: Quantizer, decoder: PitchDecoder, hop: int
    ) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.decoder, self.hop = encoder, quantizer, decoder, hop
        self.ratio = math.prod(decoder.strides)

    @property
    def books(self) -> int:
        """Q."""
        return self.quantizer.num_codebooks

    @property
    def size(self) -> int:
        """Codes of each book."""
        return self.quantizer.codebook_size

    @property
    def bits_per_frame(self) -> float:
        """Nominal, of a code frame."""
        return self.quantizer.bits_per_frame

    @property
    def context(self) -> tuple[int, int]:
        """Contour frames that a code depends on, before the first and after the last of its own
        `ratio`.
        """
        first, last = self.encoder.context
        return -first, last + 1 - self.ratio

    @property
    def receptive_field(self) -> int:
        """Samples between the centres of the contour frames that a code depends on."""
        return (sum(self.context) + self.ratio) * self.hop // self.ratio

    def encode(self, contour: Tensor, lengths: Tensor | None = None) -> Tensor:
        """contour (B, 2, F), of which lengths (B,) frames are real -> codes (B, Q, ceil(F /
        ratio)).
        """
        return self.quantizer.encode(self._latents(contour, lengths))

    def decode(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """codes (B, Q, N), mask (B, N) of real ones -> (B, 2, N ratio): normalised F0, probability
        of voicing.
        """
        melody, logit = self.decoder(self.quantizer.decode(codes), mask).unbind(1)
        return torch.stack([melody, logit.sigmoid()], 1)

    def forward(self, contour: Tensor, lengths: Tensor | None = None) -> PitchReconstruction:
        """contour (B, 2, F), of which lengths (B,) frames are real."""
        z = self._latents(contour, lengths)
        mask = None
        if lengths is not None:
            codes = -(-lengths // self.ratio)
            mask = torch.arange(z.shape[-1], device=z.device) < codes[:, None]
        quantized = self.quantizer(z, mask)
        decoded = self.decoder(quantized.z, mask)[..., : contour.shape[-1]]
        return PitchReconstruction(decoded, quantized)

    def _latents(self, contour: Tensor, lengths: Tensor | None) -> Tensor:
        frames = contour.shape[-1]
        if lengths is None:
            lengths = torch.full((len(contour),), frames, device=contour.device)
        return self.encoder(F.pad(contour, (0, -frames % self.ratio)), lengths)
