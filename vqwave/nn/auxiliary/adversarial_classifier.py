"""A classifier that the codes are to fool: against speaker identity in what should be content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from vqwave.config import option, spec
from vqwave.errors import UserInputError


@spec
class AdversarialClassifierSpec:
    """Which label the codes must not carry."""

    label: str = option(default="speaker", help="label column that the codes are to hide")
    channels: Annotated[int, Field(ge=1)] = option(default=128, help="channels of the classifier")

    def build(self, dim: int, vocabulary: Mapping[str, Sequence[str]]) -> AdversarialClassifier:
        """Raises UserInputError for an unknown label."""
        if self.label not in vocabulary:
            known = ", ".join(vocabulary)
            raise UserInputError(
                f"adversarial_classifier.label: {self.label!r}, expected a label column of the"
                f" corpus: {known}"
            )
        return AdversarialClassifier(self, dim, len(vocabulary[self.label]))


class ReverseGradient(torch.autograd.Function):
    """x forwards, -gradient backwards. Ganin et al., 2016, sec. 4.2. arXiv:1505.07818"""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return -gradient


@dataclass(frozen=True)
class AdversarialOutput:
    """loss: cross-entropy, nats an utterance, scalar; accuracy of the classifier, scalar."""

    loss: Tensor
    accuracy: Tensor


class AdversarialClassifier(nn.Module):
    """Two convolutions over the latents; the mean over real frames predicts the label, and the
    encoder gets the reversed gradient.

    One backward pass trains the classifier to find the speaker and the encoder to hide it. Used for
    voice conversion by Chou et al., 2018, sec. 2. arXiv:1804.02812
    """

    def __init__(self, spec: AdversarialClassifierSpec, dim: int, classes: int) -> None:
        super().__init__()
        self.label, self.classes = spec.label, classes
        self.first = nn.Conv1d(dim, spec.channels, 5, padding="same")
        self.second = nn.Conv1d(spec.channels, spec.channels, 5, padding="same")
        self.out = nn.Linear(spec.channels, classes)

    def forward(
        self, z: Tensor, labels: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> AdversarialOutput:
        """z (B, D, F), labels name -> (B,), mask (B, F)."""
        weight = torch.ones_like(z[:, :1]) if mask is None else mask[:, None].to(z.dtype)
        x = F.relu(self.first(ReverseGradient.apply(z) * weight))
        x = F.relu(self.second(x * weight)) * weight
        logits = self.out(x.sum(-1) / weight.sum(-1).clamp(min=1.0))
        wanted = labels[self.label]
        return AdversarialOutput(
            F.cross_entropy(logits, wanted), (logits.argmax(1) == wanted).float().mean()
        )

    def extra_repr(self) -> str:
        return f"label={self.label}, classes={self.classes}"
