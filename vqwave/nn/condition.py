"""The condition of a decoder: frame features and labels, kept at frame rate until they are
added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.nn.attributes import Attributes
from vqwave.nn.masks import masked
from vqwave.nn.repeat import repeated
from vqwave.rng import keyed

if TYPE_CHECKING:
    from vqwave.nn.linear_prediction import LinearPredictor


@dataclass(frozen=True)
class Condition:
    """features (B, H, F): each column covers `repeat` samples, the last one all that follow.

    A projection of a held signal is the held projection, so that networks project columns (at frame
    rate) and add them to samples: no (B, H, T) tensor is ever made, and a sampling loop has no
    conditioning work left.
    """

    features: Tensor
    repeat: int
    offset: int = 0  # the sample that the first column starts with

    def project(self, layer: nn.Module) -> Condition:
        return Condition(layer(self.features), self.repeat, self.offset)

    def channels(self, first: int, count: int) -> Condition:
        return Condition(self.features[:, first : first + count], self.repeat, self.offset)

    def add_to(self, a: Tensor, start: int = 0) -> Tensor:
        """a (B, H, T), whose first sample is sample `start` of the utterance -> a plus the held
        features.
        """
        T, F_, start = a.shape[-1], self.features.shape[-1], start - self.offset
        if F_ == 1:
            return a + self.features
        column = start // self.repeat
        if (start + T - 1) // self.repeat == column:
            return a + self.features[..., min(column, F_ - 1), None]
        if start % self.repeat == 0 and T % self.repeat == 0 and column + T // self.repeat <= F_:
            held = self.features[..., column : column + T // self.repeat, None]  # (B, H, F, 1)
            return (a.unflatten(-1, (-1, self.repeat)) + held).flatten(-2)
        columns = (start + torch.arange(T, device=a.device)) // self.repeat
        return a + self.features[..., columns.clamp(max=F_ - 1)]

    def at(self, start: int, count: int) -> Tensor:
        """The held features of `count` samples from sample `start` of the utterance on, (B, H,
        count).
        """
        at = torch.arange(
            start - self.offset, start - self.offset + count, device=self.features.device
        )
        return self.features[..., (at // self.repeat).clamp(max=self.features.shape[-1] - 1)]

    def samples(self) -> Tensor:
        """The condition at audio rate, (B, H, F * repeat): for tests and inspection."""
        return self.features.repeat_interleave(self.repeat, -1)


Probability = Annotated[float, Field(ge=0, le=1)]


@spec
class ConditionDropoutSpec:
    """How often training replaces an utterance's condition by a learned vector (zero at first)."""

    all: Probability = option(
        default=0.0, help="labels and frames together: what guidance at sampling needs, usually 0.1"
    )
    labels: Probability = option(default=0.0, help="labels and vectors alone")
    frames: Probability = option(default=0.0, help="frames alone")
    categorical: Probability = option(
        default=0.0,
        help="labels alone, next to vectors: these then suffice, usually 0.5 (see `embeddings`)",
    )

    def build(self, channels: int, parts: Sequence[str]) -> ConditionDropout:
        """parts: which of labels and frames there are."""
        return ConditionDropout(self, channels, parts)


class ConditionDropout(nn.Module):
    r"""In training, each utterance's labels, frames or both become a learned vector.

    One network learns p(x | h) and p(x), so that sampling can move from one towards the other:

    .. math:: \ln p_w = (1 - w) \ln p(x_t | x_{<t}) + w \ln p(x_t | x_{<t}, h) + const

    A student switches it off (`active`): the teacher that it is compared with has the complete
    condition.

    Reference: Ho and Salimans, 2022 (classifier-free guidance), alg. 1 and eq. 6. arXiv:2207.12598
    """

    def __init__(self, spec: ConditionDropoutSpec, channels: int, parts: Sequence[str]) -> None:
        super().__init__()
        self.active = True
        self.all = spec.all
        self.rates = {
            name: rate
            for name, rate in (("labels", spec.labels), ("frames", spec.frames))
            if name in parts
        }
        dropped = [name for name, rate in self.rates.items() if rate or spec.all]
        self.nothing = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(channels, 1)) for name in dropped}
        )

    def forward(self, parts: Mapping[str, Tensor]) -> list[Tensor]:
        """parts by name, each (B, H, 1) or (B, H, F) -> the same, dropped by utterance in
        training.
        """
        if not (self.training and self.active and len(self.nothing)):
            return list(parts.values())
        first = next(iter(parts.values()))
        together, *alone = keyed.uniforms(
            len(first), 1 + len(parts), 1, 1, like=first.device
        ).unbind(1)
        kept = []
        for (name, part), u in zip(parts.items(), alone, strict=True):
            dropped = (together < self.all) | (u < self.rates[name])
            kept.append(
                torch.where(dropped, self.nothing[name], part) if name in self.nothing else part
            )
        return kept

    def extra_repr(self) -> str:
        return f"all={self.all}, {', '.join(f'{name}={rate}' for name, rate in self.rates.items())}"


@spec
class ConditionerSpec:
    """Labels, given vectors and frame features -> `channels` condition channels."""

    channels: Annotated[int, Field(ge=1)] = option(
        default=64, help="condition channels H, input of every layer"
    )
    categorical: tuple[str, ...] = option(
        default=("speaker",),
        help="label columns of the corpus to condition on, e.g. [speaker, gender]",
    )
    embeddings: dict[str, int] = option(
        default={},
        help="given vectors and their sizes, e.g. {speaker_vector: 256}: CORPUS/vectors/NAME.npy",
    )
    kernel_size: Annotated[int, Field(ge=1)] = option(
        default=3, help="frames that the first convolution over frame features sees (odd)"
    )
    upsample: tuple[Annotated[int, Field(ge=1)], ...] = option(
        default=(), help="strides of learned upsampling; what is left of the hop is held"
    )
    dropout: ConditionDropoutSpec = option(
        default=ConditionDropoutSpec(), help="condition dropout, for guidance at sampling"
    )

    def build(
        self,
        frame_channels: int,
        hop: int,
        vocabulary: Mapping[str, Sequence[str]],
        predictor: LinearPredictor | None = None,
    ) -> Conditioner:
        """frame_channels 0: labels only.

        vocabulary: label column -> its values. Raises UserInputError for an unknown label.
        """
        return Conditioner(
            self, frame_channels, hop, label_sizes(self.categorical, vocabulary), predictor
        )


def label_sizes(labels: Sequence[str], vocabulary: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many values each of the labels of a condition has.

    Raises UserInputError for an unknown one.
    """
    for name in labels:
        if name not in vocabulary:
            known = ", ".join(vocabulary) or "none"
            raise UserInputError(
                f"conditioner.categorical: {name!r}, expected label columns of the corpus: {known}"
            )
    return {name: len(vocabulary[name]) for name in labels}


class Conditioner(Attributes):
    """Local features (B, D, F), any number of global labels (B,) and vectors (B, V) -> Condition at
    frame rate or above.

    Local: a convolution over neighbouring frames, then transposed convolutions of kernel 2 x stride
    (against checkerboard, Ping et al., 2019. arXiv:1807.07281), then a plain hold. Global: see
    `Attributes`, whose vectors are added.

    With a predictor, the frames' last channels are what it made of them
    (`LinearPredictor.analyse`): they are not projected, but follow the H condition channels of each
    column as they are.
    """

    def __init__(
        self,
        spec: ConditionerSpec,
        frame_channels: int,
        hop: int,
        label_sizes: Mapping[str, int],
        predictor: LinearPredictor | None = None,
    ) -> None:
        """frame_channels: of the frames, without the predictor's."""
        super().__init__(spec.channels, label_sizes, spec.embeddings, spec.dropout.categorical)
        upsampling = math.prod(spec.upsample) if frame_channels else 1
        if hop % upsampling:
            raise UserInputError(
                f"conditioner.upsample: {spec.upsample} multiplies to {upsampling}, which does not"
                f" divide the hop {hop}"
            )
        present = {"labels": bool(label_sizes or spec.embeddings), "frames": bool(frame_channels)}
        self.channels = spec.channels if any(present.values()) else 0
        self.predictor = predictor
        self.hop = hop
        self.upsampling, self.parts = upsampling, upsampling
        if predictor is not None:
            self.parts = math.lcm(upsampling, predictor.analysis.interpolation)
            if hop % self.parts:
                given = f"{self.parts} columns a frame of {hop} samples"
                raise UserInputError(
                    f"predictor.interpolation, conditioner.upsample: {given}, expected a divisor of"
                    " the hop"
                )
        self.hold = hop // self.parts
        self.frames = (
            nn.Conv1d(frame_channels, spec.channels, spec.kernel_size, padding="same")
            if frame_channels
            else None
        )
        self.upsample = nn.ModuleList(
            nn.ConvTranspose1d(
                spec.channels, spec.channels, 2 * s, s, padding=s - s // 2, output_padding=s % 2
            )
            for s in (spec.upsample if frame_channels else ())
        )
        self.dropout = spec.dropout.build(
            spec.channels, [name for name, there in present.items() if there]
        )

    def forward(
        self, frames: Tensor | None, labels: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> Condition | None:
        """frames (B, D, F) or None, labels name -> (B,) int64 or, for vectors, (B, V) -> Condition,
        or None: no condition.

        mask: which frames are real, (B, F) or of coarser ones that tile them; nothing of the others
        enters those. Raises UserInputError for a vector that is not given or has another size.
        """
        parts = {}
        attributes = self.attributes(labels)
        if attributes is not None:
            parts["labels"] = attributes
        if self.frames is None:
            return Condition(_sum(self.dropout(parts)), self.hold) if parts else None
        assert frames is not None  # this conditioner is built for some
        parts["frames"], predictors = self._of_frames(frames, mask)
        features = _sum(self.dropout(parts))
        return Condition(
            features if predictors is None else torch.cat([features, predictors], 1), self.hold
        )

    def columns(self, frames: Tensor, attributes: Tensor | None) -> Tensor:
        """The features of `forward`, without dropout, from `attributes`: frames (B, D, F) -> (B,
        width, F hop / hold).
        """
        x, predictors = self._of_frames(frames)
        x = x if attributes is None else attributes + x
        return x if predictors is None else torch.cat([x, predictors], 1)

    def _of_frames(
        self, frames: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What of a condition comes from frames (B, D, F), (B, H, n), and the predictor's
        columns.
        """
        predictors = None
        assert self.frames is not None
        if self.predictor is not None:
            own = self.frames.in_channels
            predictors = self.predictor.columns(frames[:, own:])
            frames = frames[:, :own]
            predictors = repeated(predictors, self.parts // self.predictor.analysis.interpolation)
        x = self.frames(masked(frames, mask))
        for layer in self.upsample:
            x = layer(F.leaky_relu(masked(x, mask), 0.4))
        if self.parts != self.upsampling:
            x = repeated(x, self.parts // self.upsampling)
        return x, predictors

    def split(self, condition: Condition | None) -> tuple[Condition | None, Condition | None]:
        """A condition's H channels that the network is conditioned on, and the predictor's
        columns.
        """
        if condition is None or self.predictor is None:
            return condition, None
        return condition.channels(0, self.channels), condition.channels(
            self.channels, self.predictor.channels
        )

    @property
    def width(self) -> int:
        """Channels of a condition's column: H, and the predictor's."""
        return self.channels + (0 if self.predictor is None else self.predictor.channels)

    def attributes(self, labels: Mapping[str, Tensor]) -> Tensor | None:
        """What of a condition does not change in time, (B, H, 1): labels and vectors; None where
        there are none.
        """
        attributes = self.each(labels)
        return _sum(attributes)[..., None] if attributes else None

    def null_condition(self) -> Condition:
        """The condition of an utterance all of whose parts were dropped, (1, H, 1): guidance moves
        away from it.

        Raises UserInputError for a model that was trained without.
        """
        if not (self.dropout.all and len(self.dropout.nothing)):
            raise UserInputError(
                "guidance: this model has no null condition, expected one trained with"
                " conditioner.dropout.all > 0"
            )
        return Condition(_sum(list(self.dropout.nothing.values()))[None], self.hold)

    def extra_repr(self) -> str:
        return (
            f"labels={list(self.labels)}, vectors={self.vector_sizes}, hop={self.hop},"
            f" hold={self.hold}"
        )


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def join(conditions: Sequence[Condition | None]) -> Condition | None:
    """Conditions of single utterances (1, H, F_i) -> one (B, H, max F), the last column held."""
    given = [c for c in conditions if c is not None]
    if not given:
        return None
    most = max(c.features.shape[-1] for c in given)
    padded = [F.pad(c.features, (0, most - c.features.shape[-1]), mode="replicate") for c in given]
    return Condition(torch.cat(padded), given[0].repeat)
