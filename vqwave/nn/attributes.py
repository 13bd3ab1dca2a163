"""What conditions a network and does not change in time: labels, and given vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from vqwave.errors import UserInputError
from vqwave.nn.by_name import ModulesByName
from vqwave.rng import keyed


class Attributes(nn.Module):
    """Labels (B,) and vectors (B, V) by name -> a vector (B, C) of each, to be added.

    A label has an embedding, which after a linear projection equals a one-hot (van den Oord et al.,
    2016, sec. 2.5); a given vector (a speaker embedding from elsewhere) is projected: unseen
    speakers have one, too.

    label_dropout: how often training replaces the embeddings of an utterance's labels, all of them,
    by a learned vector (zero at first). The vectors then suffice where labels are not given.
    """

    def __init__(
        self,
        channels: int,
        label_sizes: Mapping[str, int],
        vector_sizes: Mapping[str, int],
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = tuple(label_sizes)
        self.vector_sizes = dict(vector_sizes)
        self.embeddings = ModulesByName(
            {name: nn.Embedding(size, channels) for name, size in label_sizes.items()}
        )
        self.vectors = ModulesByName(
            {name: nn.Linear(size, channels, bias=False) for name, size in vector_sizes.items()}
        )
        self.label_dropout = label_dropout if label_sizes and vector_sizes else 0.0
        self.unlabelled = nn.Parameter(torch.zeros(channels)) if self.label_dropout else None

    @property
    def vectors_suffice(self) -> bool:
        """Whether labels may be left out where vectors are given."""
        return bool(self.vector_sizes) and (not self.labels or self.unlabelled is not None)

    def each(self, labels: Mapping[str, Tensor]) -> list[Tensor]:
        """(B, C) of each attribute. Raises UserInputError for a vector that is not given or has
        another size.
        """
        return self._of_labels(labels) + [
            layer(self._vector(labels, name)) for name, layer in self.vectors.items()
        ]

    def _of_labels(self, labels: Mapping[str, Tensor]) -> list[Tensor]:
        unlabelled = self.unlabelled
        if unlabelled is None or all(name in labels for name in self.labels):
            embedded = [self.embeddings[name](labels[name]) for name in self.labels]
            if unlabelled is None or not (self.training and self.label_dropout):
                return embedded
            dropped = keyed.uniforms(len(embedded[0]), 1, like=unlabelled.device)
            total = torch.stack(embedded).sum(0)
            return [torch.where(dropped < self.label_dropout, unlabelled, total)]
        return [unlabelled.expand(len(labels[next(iter(self.vector_sizes))]), -1)]

    def _vector(self, labels: Mapping[str, Tensor], name: str) -> Tensor:
        size = self.vector_sizes[name]
        if name not in labels:
            raise UserInputError(
                f"vector {name!r} is not given, expected {size} numbers an utterance"
                f" (CORPUS/vectors/{name}.npy)"
            )
        if labels[name].shape[-1] != size:
            raise UserInputError(
                f"vector {name!r}: {labels[name].shape[-1]} numbers an utterance, expected {size}"
            )
        return labels[name].to(cast("nn.Linear", self.vectors[name]).weight.dtype)
