"""A small classifier of raw audio: its features are what the perceptual loss compares."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import UserInputError, nearest
from vqwave.models.wavenet import Vocabulary
from vqwave.nn.by_name import ModulesByName
from vqwave.nn.causal import dilation_cycle, receptive_field

Positive = Annotated[int, Field(ge=1)]


@spec
class ClassifierSpec:
    """Dilated convolutions over raw audio, one output a label column."""

    kind: Literal["classifier"] = "classifier"
    categorical: tuple[str, ...] = option(
        default=("speaker",),
        help="what to classify: label columns of the corpus, e.g. [speaker, text]",
    )
    layers: Positive = option(
        default=8, help="dilated layers; the features of each enter the perceptual loss"
    )
    dilation_cycle: Positive = option(
        default=8, help="layers after which the dilation starts again from 1"
    )
    kernel_size: Positive = option(default=3, help="taps of each layer (odd)")
    channels: Positive = option(default=64, help="channels")
    stride: Positive = option(default=4, help="samples a column")

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> Classifier:  # noqa: ARG002
        """vocabulary: label column -> its values.

        Raises UserInputError for a label that is not in it.
        """
        for name in self.categorical:
            if name not in vocabulary:
                raise UserInputError(
                    f"model.categorical: {name!r}, expected of"
                    f" {', '.join(vocabulary)}{nearest(name, list(vocabulary))}"
                )
        return Classifier(self, {name: len(vocabulary[name]) for name in self.categorical})


class Classifier(nn.Module):
    """Strided convolution, residual dilated layers, mean over time, one linear output a label.

    Weights of the first layer start with a spread of `GAIN`: level-normalised speech has a standard
    deviation near 0.07.
    """

    GAIN = 5.0

    def __init__(self, spec: ClassifierSpec, sizes: dict[str, int]) -> None:
        super().__init__()
        self.spec = spec
        C, stride, k = spec.channels, spec.stride, spec.kernel_size
        self.front = nn.Conv1d(1, C, 2 * stride, stride, padding=stride // 2)
        nn.init.normal_(self.front.weight, std=self.GAIN / (2 * stride) ** 0.5)
        self.layers = nn.ModuleList(
            nn.Conv1d(C, C, k, dilation=d, padding="same") for d in self.dilations
        )
        self.outputs = ModulesByName({name: nn.Linear(C, size) for name, size in sizes.items()})

    @property
    def dilations(self) -> list[int]:
        return dilation_cycle(self.spec.layers, self.spec.dilation_cycle)

    @property
    def hop(self) -> int:
        return 1

    @property
    def receptive_field(self) -> int:
        """Samples that one column of the last layer sees."""
        return (receptive_field(self.spec.kernel_size, self.dilations) + 1) * self.spec.stride

    def features(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """x, mask (B, T) -> the output of each layer, (B, C, T / stride): zero where no valid
        sample is.
        """
        features, columns = [], self.front(x[:, None])
        weight = self.columns(x, mask, columns.shape[-1])
        columns = columns * weight
        for layer in self.layers:
            columns = (columns + F.relu(layer(columns))) * weight
            features.append(columns)
        return features

    def columns(self, x: Tensor, mask: Tensor | None, count: int) -> Tensor:
        """x, mask (B, T) -> 1 for each of `count` columns that hold valid samples, else 0, (B, 1,
        count).
        """
        valid = torch.ones_like(x) if mask is None else mask.to(x)
        return F.adaptive_max_pool1d(valid[:, None], count)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """x, mask (B, T) -> logits of each label (B, K), from the columns that hold valid
        samples.
        """
        last = self.features(x, mask)[-1]
        mean = last.sum(-1) / self.columns(x, mask, last.shape[-1]).sum(-1).clamp(min=1.0)
        return {name: layer(mean) for name, layer in self.outputs.items()}
