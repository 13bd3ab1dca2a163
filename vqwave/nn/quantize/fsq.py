"""Finite scalar quantization: no codebook to learn, each dimension rounds to its own few levels."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.distributed.collectives import moments_over_ranks, sum_over_ranks
from vqwave.nn.quantize.base import Quantized, Quantizer, QuantizerSpec, recomputing, usage
from vqwave.nn.quantize.estimators import straight_through
from vqwave.nn.quantize.projected import projected

SLACK = 1e-3
"""By how much the bound reaches beyond the outermost levels."""
DECAY = 0.95
"""Of the moving averages of each dimension's mean and deviation."""


@spec
class FSQuantizerSpec(QuantizerSpec):
    """Finite scalar quantization. Mentzer et al., 2024. arXiv:2309.15505"""

    kind: Literal["fsq"] = "fsq"
    levels: Annotated[tuple[Annotated[int, Field(ge=2, le=256)], ...], Field(min_length=1)] = (
        option(
            default=(8, 5, 5, 5),
            help=(
                "values of each dimension; K is their product: (8, 6, 5) 240, (4, 4, 4, 4) 256, (8,"
                " 5, 5, 5) 1000"
            ),
        )
    )

    def build(self, dim: int) -> Quantizer:
        """The latents are projected onto as many directions as there are levels.

        Raises UserInputError for more than `dim`.
        """
        dims = len(self.levels)
        return projected(dim, None if dim == dims else dims, lambda _: FSQuantizer(self.levels))


class FSQuantizer(Quantizer):
    r"""Each of d dimensions, bounded by a tanh, rounds to one of its L levels; the code is their
    mixed-radix number.

    .. math:: \tilde z = h \tanh(z + \text{shift}) - o,\quad \hat z = \text{round}(\tilde z) /
    \lfloor L / 2 \rfloor

    with :math:`h = (L - 1)(1 + \epsilon) / 2`, o one half for even L and zero for odd, shift =
    atanh(o / h): an even number of levels reaches one further down than up (8: -4 .. 3). Of two
    levels that form leaves one code, its threshold at 3.8 deviations; they are the signs,
    :math:`\tilde z = (1 + \epsilon) \tanh z` and :math:`\hat z = \pm 1`, as in the symmetric form
    of Parker et al., 2024 (arXiv:2411.19842), and in lookup-free quantization. The gradient passes
    the rounding straight through and the tanh by its derivative. There is neither a commitment nor
    a codebook loss. The first dimension is the fastest in the index.

    Each dimension is first brought to mean 0 and deviation 1 by moving averages over the training
    latents of all ranks (a batch norm without weights, whose statistics carry no gradient). Without
    it the latents of an untrained encoder all round to zero; by the statistics of the first batch
    alone they soon outgrow the tanh and stick to one corner. Either way one code is left, and a
    decoder conditioned on one code learns to ignore it.

    Reference: Mentzer et al., 2024, sec. 3.1. arXiv:2309.15505
    """

    num_codebooks = 1
    framewise = True
    levels: Tensor
    radix: Tensor
    mean: Tensor
    deviation: Tensor
    started: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.codebook_size = math.prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer(
            "radix",
            torch.tensor([math.prod(levels[:i]) for i in range(len(levels))]),
            persistent=False,
        )

        self.register_buffer("mean", torch.zeros(len(levels), 1))
        self.register_buffer("deviation", torch.ones(len(levels), 1))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update_statistics(self, x: Tensor) -> None:
        """Move mean and deviation towards those of the vectors x (N, d) of all ranks; each rank
        calls with its own, maybe none.
        """
        count, mean, squares = moments_over_ranks(x, torch.ones_like(x[:, 0]))
        if count > 1:
            share = 1 - DECAY if self.started else 1.0
            self.mean.lerp_(mean[:, None].to(self.mean), share)
            self.deviation.lerp_(
                (squares / count).clamp(min=1e-12).sqrt()[:, None].to(self.mean), share
            )
            self.started.fill_(1)

    @property
    def middle(self) -> Tensor:
        """How many levels of each dimension are below zero, (d, 1)."""
        return (self.levels // 2)[:, None]

    def bound(self, z: Tensor) -> Tensor:
        """z (B, d, F) -> the same, each dimension from -floor(L / 2) to ceil(L / 2) - 1, not yet
        rounded.
        """
        levels = self.levels.to(z.dtype)[:, None]
        half = (levels - 1) * (1 + SLACK) / 2
        offset = 0.5 * (1 - levels % 2)
        shift = torch.atanh(torch.where(levels > 2, offset / half, 0.0))
        return torch.tanh((z - self.mean) / self.deviation.clone() + shift) * half - offset

    def _scaled(self, bounded: Tensor) -> Tensor:
        """Levels, or what `bound` gives, (B, d, F) -> latents from -1 up to 1."""
        return torch.where(self.levels[:, None] > 2, bounded / self.middle, 2 * bounded + 1)

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        vectors = z.detach().transpose(1, 2)
        real = vectors.flatten(0, 1) if mask is None else vectors[mask]
        moves = self.training and not recomputing()
        if moves and not self.started:
            self.update_statistics(real)
        bounded = self.bound(z)
        rounded = bounded.round()
        codes = self._index(rounded)
        index = codes.flatten() if mask is None else codes[:, 0][mask]
        metrics = usage(sum_over_ranks(torch.bincount(index, minlength=self.codebook_size)))
        if moves:
            self.update_statistics(real)
        return Quantized(
            straight_through(self._scaled(bounded), self._scaled(rounded)), codes, {}, metrics
        )

    def _index(self, rounded: Tensor) -> Tensor:
        """Levels (B, d, F) -> codes (B, 1, F)."""
        return ((rounded.long() + self.middle) * self.radix[:, None]).sum(1, keepdim=True)

    def _encode(self, z: Tensor) -> Tensor:
        return self._index(self.bound(z).round())

    def _decode(self, codes: Tensor) -> Tensor:
        digits = codes // self.radix[:, None] % self.levels[:, None]  # (B, d, F)
        return self._scaled((digits - self.middle).to(torch.get_default_dtype()))

    def extra_repr(self) -> str:
        return f"levels={tuple(self.levels.tolist())}"
