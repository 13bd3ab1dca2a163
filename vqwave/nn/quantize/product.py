"""Product quantization: a codebook for each group of channels. Jégou et al., 2011."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import OpenTo, option, spec
from vqwave.errors import UserInputError
from vqwave.nn.quantize.base import (
    Quantized,
    Quantizer,
    QuantizerSpec,
    joint_metrics,
    mean_losses,
)
from vqwave.nn.quantize.fsq import FSQuantizerSpec
from vqwave.nn.quantize.rvq import ResidualQuantizerSpec
from vqwave.nn.quantize.vq import EMAQuantizerSpec, GradientQuantizerSpec

VectorSpec = Annotated[EMAQuantizerSpec | GradientQuantizerSpec, Field(discriminator="kind")]


@spec
class ProductQuantizerSpec(QuantizerSpec):
    """The channels in groups, each with a book of its own. Jégou et al., 2011"""

    kind: Literal["product"] = "product"
    groups: Annotated[int, Field(ge=1)] = option(default=2, help="parts of the D channels")
    quantizer: Annotated[
        EMAQuantizerSpec | GradientQuantizerSpec | FSQuantizerSpec | ResidualQuantizerSpec,
        OpenTo(QuantizerSpec),
    ] = option(default=EMAQuantizerSpec(codebook_size=16), help="each group")

    @property
    def losses(self) -> frozenset[str]:
        return self.quantizer.losses

    def build(self, dim: int) -> ProductQuantizer:
        """Raises UserInputError for channels that do not divide into the groups."""
        if dim % self.groups:
            raise UserInputError(
                f"model.quantizer.groups: {self.groups}, expected a divisor of the {dim} latent"
                " channels"
            )
        return ProductQuantizer(
            [self.quantizer.build(dim // self.groups) for _ in range(self.groups)]
        )


class ProductQuantizer(Quantizer):
    """Each group of channels is quantized alone: K^G combinations from G books of K.

    References: Jégou et al., 2011, IEEE TPAMI 33(1); Chen & Hain, 2020 ("sliced" VQ).
    arXiv:2008.10234
    """

    def __init__(self, groups: Sequence[Quantizer]) -> None:
        super().__init__()
        self.groups = nn.ModuleList(groups)
        self.num_codebooks, self.codebook_size = (
            sum(group.num_codebooks for group in groups),
            groups[0].codebook_size,
        )
        self.downsample = math.lcm(*(group.downsample for group in groups))
        self.framewise = all(group.framewise for group in groups)

    @property
    def _each(self) -> Sequence[Quantizer]:
        return cast("Sequence[Quantizer]", self.groups)

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        parts = [
            group(part, mask)
            for group, part in zip(self._each, z.chunk(len(self.groups), 1), strict=True)
        ]
        joined, codes = (
            torch.cat([part.z for part in parts], 1),
            torch.cat([part.codes for part in parts], 1),
        )
        return Quantized(joined, codes, mean_losses(parts), joint_metrics(parts))

    def _encode(self, z: Tensor) -> Tensor:
        parts = z.chunk(len(self.groups), 1)
        return torch.cat(
            [group.encode(part) for group, part in zip(self._each, parts, strict=True)], 1
        )

    def _decode(self, codes: Tensor) -> Tensor:
        parts = codes.chunk(len(self.groups), 1)
        return torch.cat(
            [group.decode(part) for group, part in zip(self._each, parts, strict=True)], 1
        )
