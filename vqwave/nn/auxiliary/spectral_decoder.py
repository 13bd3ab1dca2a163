"""Spectral frames predicted from the quantized latents: an auxiliary target that makes the codes
carry content early.

A WaveNet decoder can ignore its codes for thousands of steps, and an unused codebook collapses
meanwhile. The spectral decoder uses them at once: from z_q and the labels it predicts the
log-spectral frames of the clip. It works at frame rate, so that codes can be trained with it alone
in minutes (no loss `nll`), before any decoder. A decoder may be conditioned on its frames
(`model.decoder_input`): it then starts from a spectrum in the target voice, and is left with the
waveform, as a vocoder is. If it is conditioned on nothing else, speaker information that is left in
the latents cannot leak into the output. (Training the codes against a cheap target before or
together with the decoder: see the sheet of remedies in docs/method.md.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributed.collectives import masked_mean
from vqwave.errors import UserInputError, under
from vqwave.features import FeatureSpec, LogMel, LogMelSpec
from vqwave.nn.attributes import Attributes
from vqwave.nn.condition import ConditionerSpec, label_sizes
from vqwave.nn.frontend import Frontend
from vqwave.nn.masks import masked, stretched

EMBEDDING = "spectral_embedding"
"""A name of labels: what all of them are embedded as, (B, C), given in their place."""


@spec
class SpectralDecoderSpec:
    """Spectral target and size of the spectral decoder."""

    features: FeatureSpec = option(default=LogMelSpec(), help="what is predicted, standardised")
    channels: Annotated[int, Field(ge=1)] = option(default=256, help="channels of its convolutions")
    blocks: Annotated[int, Field(ge=0)] = option(
        default=0, help="residual convolutions beyond the first two"
    )
    vectors: bool = option(
        default=False,
        help="conditioned on the decoder's given vectors, too (conditioner.embeddings)",
    )

    def build(
        self,
        dim: int,
        hop: int,
        sample_rate: int,
        vocabulary: Mapping[str, Sequence[str]],
        *,
        conditioner: ConditionerSpec,
        pitch_hop: int = 0,
    ) -> SpectralDecoder:
        """dim, hop: of the latents; conditioner: of the decoder, whose labels (and vectors) the
        codes need not carry then.

        pitch_hop: samples a frame of the pitch that it is conditioned on, too; 0 for none.
        """
        with under("spectral_decoder.features"):
            frontend = Frontend(self.features.build(sample_rate))
        if hop % frontend.hop:
            wanted = f"expected a divisor of the encoder's hop {hop}"
            raise UserInputError(
                f"spectral_decoder.features.hop_ms: {frontend.hop} samples, {wanted}"
            )
        sizes = label_sizes(conditioner.categorical, vocabulary)
        return SpectralDecoder(
            frontend,
            dim,
            hop // frontend.hop,
            channels=self.channels,
            blocks=self.blocks,
            label_sizes=sizes,
            vector_sizes=conditioner.embeddings if self.vectors else {},
            label_dropout=conditioner.dropout.categorical,
            pitch_frames=hop // pitch_hop if pitch_hop else 0,
        )


class SpectralDecoder(Attributes):
    """Convolutions from latents to the spectral frames of the same clip."""

    def __init__(
        self,
        frontend: Frontend,
        dim: int,
        ratio: int,
        *,
        channels: int,
        blocks: int,
        label_sizes: Mapping[str, int],
        vector_sizes: Mapping[str, int],
        label_dropout: float = 0.0,
        pitch_frames: int = 0,
    ) -> None:
        """label_dropout: see `Attributes`; pitch_frames: frames of pitch a latent; 0 for none."""
        super().__init__(channels, label_sizes, vector_sizes, label_dropout)
        self.frontend = frontend
        self.ratio = ratio
        self.first = nn.Conv1d(dim, channels, 5, padding="same")
        self.pitch_frames = pitch_frames
        self.pitch = (
            nn.Conv1d(2 * pitch_frames, channels, 5, padding="same") if pitch_frames else None
        )
        self.second = nn.Conv1d(channels, channels, 5, padding="same")
        self.blocks = nn.ModuleList(
            nn.Conv1d(channels, channels, 5, padding="same") for _ in range(blocks)
        )
        self.out = nn.Conv1d(channels, ratio * frontend.channels, 1)

    @property
    def spectrum(self) -> LogMel | None:
        """The features that are predicted, if they are log-mel."""
        return self.frontend.log_mel

    def log_mel(self, predicted: Tensor) -> Tensor:
        """`forward`'s frames (B, M, F) as log-mel, no longer standardised."""
        return self.frontend.standardise.inverse(predicted)

    @torch.no_grad()
    def amplify(self, decibels: float) -> None:
        """Let all log-mel frames from now on be those of a signal that is louder by so much."""
        steps = decibels * math.log(10) / 20 / self.frontend.standardise.std  # ln of magnitudes
        bias = self.get_parameter("out.bias")
        bias.add_(steps.flatten().repeat_interleave(self.ratio).to(bias))

    @property
    def reach(self) -> int:
        """Latents before and after its own that a frame is made of."""
        return sum(layer.kernel_size[0] // 2 for layer in (self.first, self.second, *self.blocks))

    def each(self, labels: Mapping[str, Tensor]) -> list[Tensor]:
        """(B, C) of each attribute, or what is given in place of them all (`EMBEDDING`)."""
        given = labels.get(EMBEDDING)
        return super().each(labels) if given is None else [given]

    def embedded(self, labels: Mapping[str, Tensor]) -> Tensor:
        """All attributes together, (B, C): what may be given as `EMBEDDING`."""
        return torch.stack(self.each(labels)).sum(0)

    def forward(
        self,
        z: Tensor,
        labels: Mapping[str, Tensor],
        mask: Tensor | None = None,
        pitch: Tensor | None = None,
    ) -> Tensor:
        """z (B, D, F), labels name -> (B,) or, for vectors, (B, V), or `EMBEDDING` -> standardised
        spectral frames (B, channels, ratio * F).

        mask (B, F) of z: with it the real frames are those of each utterance alone. pitch (B, 2,
        pitch_frames F).
        """
        x = self.first(masked(z, mask))
        if self.pitch is not None:
            assert pitch is not None  # of a model with melody
            columns = rearrange(pitch, "b c (f n) -> b (c n) f", n=self.pitch_frames)
            x = x + self.pitch(masked(columns, mask))
        for attribute in self.each(labels):
            x = x + attribute[..., None]
        x = F.relu(x)
        for block in (self.second, *self.blocks):
            x = masked(x, mask)
            x = x + F.relu(block(x))
        x = self.out(x)
        return x.unflatten(1, (-1, self.ratio)).permute(0, 1, 3, 2).flatten(2)

    def loss(self, predicted: Tensor, wave: Tensor, mask: Tensor | None) -> Tensor:
        """Mean absolute error of `forward`'s frames in standard deviations, over the valid ones.

        wave (B, T), mask (B, F) of z.
        """
        error = (predicted - self.frontend(wave, mask=mask)).abs().mean(1)  # (B, ratio * F)
        return masked_mean(error, None if mask is None else stretched(mask, error.shape[-1]))
