"""What a decoder is told: frame features and labels, kept at frame rate until the moment they are added."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import BadInput


@dataclass(frozen=True)
class Condition:
    """features (B, H, F): each column holds for `hold` samples, the last one for ever.

    A projection of a held signal is the held projection, so that networks project columns (at frame rate) and add them
    to samples: no (B, H, T) tensor is ever made, and a sampling loop has no conditioning work left.
    """

    features: Tensor
    hold: int

    def project(self, layer: nn.Module) -> Condition:
        return Condition(layer(self.features), self.hold)

    def channels(self, first: int, count: int) -> Condition:
        return Condition(self.features[:, first : first + count], self.hold)

    def add_to(self, a: Tensor, start: int = 0) -> Tensor:
        """a (B, H, T), whose first sample is sample `start` of the utterance -> a plus the held features."""
        T, F_ = a.shape[-1], self.features.shape[-1]
        if F_ == 1:
            return a + self.features
        column, whole = start // self.hold, start % self.hold == 0 and T % self.hold == 0
        if whole and column + T // self.hold <= F_:
            held = self.features[..., column : column + T // self.hold, None]  # (B, H, F, 1)
            return (a.unflatten(-1, (-1, self.hold)) + held).flatten(-2)
        columns = (start + torch.arange(T, device=a.device)) // self.hold
        return a + self.features[..., columns.clamp(max=F_ - 1)]

    def samples(self) -> Tensor:
        """The condition at audio rate, (B, H, F * hold): for tests and for people."""
        return self.features.repeat_interleave(self.hold, -1)


@spec
class ConditionerSpec:
    """Labels and frame features -> `channels` condition channels."""

    channels: int = option(64, "condition channels H that every layer hears")
    labels: tuple[str, ...] = option(("speaker",), "label columns of the corpus to condition on, e.g. [speaker, gender]")
    kernel: int = option(3, "frames that the first convolution over frame features sees (odd)")
    upsample: tuple[int, ...] = option((), "strides of learned upsampling; what is left of the hop is held")

    def build(self, frame_channels: int, hop: int, vocabulary: Mapping[str, Sequence[str]]) -> Conditioner:
        """frame_channels 0: labels only. vocabulary: label column -> its values. Raises BadInput for an unknown label."""
        for name in self.labels:
            if name not in vocabulary:
                known = ", ".join(vocabulary) or "none"
                raise BadInput(f"conditioner.labels: {name!r}, expected label columns of the corpus: {known}")
        return Conditioner(self, frame_channels, hop, {name: len(vocabulary[name]) for name in self.labels})


class Conditioner(nn.Module):
    """Local features (B, D, F) and any number of global labels (B,) -> Condition at frame rate or above.

    Local: a convolution over neighbouring frames, then transposed convolutions of kernel 2 x stride (against
    checkerboard, Ping et al., 2019. arXiv:1807.07281), then a plain hold. Global: one embedding an attribute, added, which
    after each layer's linear projection equals concatenated one-hots (van den Oord et al., 2016, sec. 2.5).
    """

    def __init__(self, spec: ConditionerSpec, frame_channels: int, hop: int, label_sizes: Mapping[str, int]) -> None:
        super().__init__()
        upsampling = math.prod(spec.upsample) if frame_channels else 1
        if hop % upsampling:
            raise BadInput(
                f"conditioner.upsample: {spec.upsample} multiplies to {upsampling}, which does not divide the hop {hop}"
            )
        self.channels = spec.channels if frame_channels or label_sizes else 0
        self.hop = hop
        self.hold = hop // upsampling
        self.labels = tuple(label_sizes)
        self.embeddings = nn.ModuleDict({name: nn.Embedding(size, spec.channels) for name, size in label_sizes.items()})
        self.frames = nn.Conv1d(frame_channels, spec.channels, spec.kernel, padding="same") if frame_channels else None
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(spec.channels, spec.channels, 2 * s, s, padding=s - s // 2, output_padding=s % 2)
            for s in (spec.upsample if frame_channels else ())
        )

    def forward(self, frames: Tensor | None, labels: Mapping[str, Tensor]) -> Condition | None:
        """frames (B, D, F) or None, labels name -> (B,) int64 -> Condition, or None where there is nothing to hear."""
        parts = [self.embeddings[name](labels[name])[..., None] for name in self.labels]  # (B, H, 1)
        if self.frames is not None:
            x = self.frames(frames)
            for layer in self.upsample:
                x = layer(F.leaky_relu(x, 0.4))
            parts.append(x)
        if not parts:
            return None
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return Condition(total, self.hold)

    def extra_repr(self) -> str:
        return f"labels={list(self.labels)}, hop={self.hop}, hold={self.hold}"
