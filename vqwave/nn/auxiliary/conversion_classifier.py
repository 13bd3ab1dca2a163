"""A classifier of conversions: whether they keep the words and reach the target voice.

A conversion has no recording to be compared with. A classifier of the speaker, and of the words
where the corpus has such labels, can be trained on recordings and applied to conversions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.nn.by_name import ModulesByName
from vqwave.rng import keyed


@spec
class ConversionClassifierSpec:
    """Which labels it predicts, and its size."""

    labels: tuple[str, ...] = option(
        default=("speaker",),
        help="label columns that it predicts: the voice, and what is said if the corpus has it",
    )
    channels: Annotated[int, Field(ge=1)] = option(default=128, help="channels of its convolutions")
    noise: Annotated[float, Field(ge=0)] = option(
        default=0.3, help="most noise that training adds to its input, in standard deviations"
    )

    def build(
        self, channels: int, ratio: int, vocabulary: Mapping[str, Sequence[str]]
    ) -> ConversionClassifier:
        """channels, ratio: of the spectral decoder's frames, how many a latent has.

        Raises UserInputError for an unknown label.
        """
        for name in self.labels:
            if name not in vocabulary:
                known = ", ".join(vocabulary) or "none"
                raise UserInputError(
                    f"conversion_classifier.labels: {name!r}, expected label columns of the corpus:"
                    f" {known}"
                )
        return ConversionClassifier(
            self, channels, ratio, {name: len(vocabulary[name]) for name in self.labels}
        )


@dataclass(frozen=True)
class ConversionOutput:
    """recorded: cross-entropy of recordings, which trains the classifier; converted: of
    conversions, which trains all else.

    Both in nats an utterance, summed over the labels, scalars. accuracy: share of conversions whose
    labels are all predicted as the targets.
    """

    recorded: Tensor
    converted: Tensor
    accuracy: Tensor


class ConversionClassifier(nn.Module):
    """Three convolutions over spectral frames at the rate of the latents; mean and maximum over the
    real ones predict the labels.

    The auxiliary classifier of ACVAE-VC, which is trained on recordings and applied to what the
    decoder makes for other labels. Kameoka et al., 2018. arXiv:1808.05092
    """

    def __init__(
        self, spec: ConversionClassifierSpec, channels: int, ratio: int, sizes: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.noise = spec.noise
        self.first = nn.Conv1d(channels, spec.channels, 2 * ratio + 1, stride=ratio, padding=ratio)
        self.second = nn.Conv1d(spec.channels, spec.channels, 5, padding="same")
        self.third = nn.Conv1d(spec.channels, spec.channels, 5, padding="same")
        self.out = ModulesByName(
            {name: nn.Linear(2 * spec.channels, size) for name, size in sizes.items()}
        )

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Standardised frames (B, C, ratio F), mask (B, F) of latents -> logits (B, values) of each
        label.
        """
        frames = keyed.noisy(frames, self.noise) if self.training else frames
        weight = (
            torch.ones_like(frames[:, :1, :: self.first.stride[0]])
            if mask is None
            else mask[:, None].to(frames.dtype)
        )
        x = self.first(frames * weight.repeat_interleave(self.first.stride[0], -1))
        for layer in (self.second, self.third):
            x = layer(F.relu(x) * weight)
        x = F.relu(x) * weight
        pooled = torch.cat([x.sum(-1) / weight.sum(-1).clamp(min=1.0), x.amax(-1)], 1)
        return {name: layer(pooled) for name, layer in self.out.items()}

    def losses(
        self,
        recorded: Tensor,
        labels: Mapping[str, Tensor],
        converted: Tensor,
        targets: Mapping[str, Tensor],
        mask: Tensor | None = None,
    ) -> ConversionOutput:
        """Frames of recordings and of their conversions (B, C, ratio F), the labels of either: name
        -> (B,).
        """
        on_recorded = _sum_of_losses(self(recorded.detach(), mask), labels)
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        predicted = torch.func.functional_call(self, fixed, (converted, mask))
        on_converted = _sum_of_losses(predicted, targets)
        right = torch.stack(
            [logits.argmax(1) == targets[name] for name, logits in predicted.items()]
        ).all(0)
        return ConversionOutput(on_recorded, on_converted, right.float().mean())


def _sum_of_losses(logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    first, *others = [F.cross_entropy(each, labels[name]) for name, each in logits.items()]
    return sum(others, first)
