"""Residual vector quantization (RVQ): each stage quantizes what the stages before left.

Zeghidour et al., 2021 (SoundStream). arXiv:2107.03312
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.nn.module_lists import elements
from vqwave.nn.quantize.base import (
    Quantized,
    Quantizer,
    QuantizerSpec,
    joint_metrics,
    mean_losses,
)
from vqwave.nn.quantize.estimators import ESTIMATORS, EstimatorName
from vqwave.nn.quantize.projected import projected
from vqwave.nn.quantize.vq import EMAQuantizerSpec, GradientQuantizerSpec, VectorQuantizer
from vqwave.rng import keyed

VectorSpec = Annotated[EMAQuantizerSpec | GradientQuantizerSpec, Field(discriminator="kind")]


@spec
class ResidualQuantizerSpec(QuantizerSpec):
    """Stages, each of which quantizes what the ones before left.

    Zeghidour et al., 2021 (SoundStream). arXiv:2107.03312
    """

    kind: Literal["residual"] = "residual"
    num_quantizers: Annotated[int, Field(ge=1)] = option(default=2, help="books Q")
    quantizer_dropout: Annotated[float, Field(ge=0, le=1)] = option(
        default=0.0, help="share of training items that use 1 .. Q stages, drawn uniformly"
    )
    quantizer: VectorSpec = option(
        default=EMAQuantizerSpec(codebook_size=16),
        help="each stage; its gradient_estimator and codebook_dim act once, on the sum",
    )

    @property
    def losses(self) -> frozenset[str]:
        return self.quantizer.losses

    def build(self, dim: int) -> Quantizer:
        """Raises UserInputError for stages on a sphere, and if there are more code dimensions than
        `dim`.
        """
        if self.quantizer.l2_normalize:
            raise UserInputError(
                "model.quantizer.quantizer.l2_normalize: true, expected false in residual stages: a"
                " residual has a length"
            )
        return projected(dim, self.quantizer.codebook_dim, self._unprojected)

    def _unprojected(self, dim: int) -> ResidualQuantizer:
        stages = [self.quantizer.unprojected(dim) for _ in range(self.num_quantizers)]
        return ResidualQuantizer(stages, self.quantizer.gradient_estimator, self.quantizer_dropout)


class ResidualQuantizer(Quantizer):
    r"""Stage i quantizes the residual of the stages before it; the sum is the latent.

    .. math:: r_1 = z,\quad q_i = Q_i(r_i),\quad r_{i+1} = r_i - sg(q_i),\quad \hat z = \sum q_i

    The losses are those of each stage on r_i, averaged, and the estimator acts once, on the sum: a
    straight-through at each stage would leave the later ones without a commitment gradient. With
    dropout an item uses a drawn number of stages, all Q of them included; the others do not see it,
    as if it were padding. Fewer books than Q decode to a coarser latent.

    Reference: Zeghidour et al., 2021, sec. III-C. arXiv:2107.03312
    """

    framewise = True

    def __init__(
        self,
        stages: Sequence[VectorQuantizer],
        gradient_estimator: EstimatorName,
        quantizer_dropout: float,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.num_codebooks, self.codebook_size = len(stages), stages[0].codebook_size
        self.gradient_estimator = gradient_estimator
        self.quantizer_dropout = quantizer_dropout

    def draw_depths(self, items: int, device: torch.device) -> Tensor:
        """(items,) how many stages each training item uses, 1 .. Q."""
        depth, dropped = keyed.uniforms(items, 2, like=device).unbind(1)
        return torch.where(
            dropped < self.quantizer_dropout,
            1 + (depth * self.num_codebooks).long(),
            self.num_codebooks,
        )

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        drops = self.training and self.quantizer_dropout > 0
        depths = self.draw_depths(len(z), z.device) if drops else None
        residual, total, parts = z, torch.zeros_like(z), []
        for depth, stage in enumerate(self.stages):
            used = None if depths is None else (depths > depth)[:, None]  # (B, 1)
            part = stage(residual, _both(mask, used, z))
            q = part.z.detach()
            residual = residual - q
            total = total + (q if used is None else q * used[..., None])
            parts.append(part)
        codes = torch.cat([part.codes for part in parts], 1)
        return Quantized(
            ESTIMATORS[self.gradient_estimator](z, total),
            codes,
            mean_losses(parts),
            joint_metrics(parts),
        )

    def _encode(self, z: Tensor) -> Tensor:
        codes = []
        for stage in elements(self.stages, VectorQuantizer):
            codes.append(stage.encode(z))
            z = z - stage.decode(codes[-1])
        return torch.cat(codes, 1)

    def _decode(self, codes: Tensor) -> Tensor:
        """codes (B, n, F) of the first n stages, n <= Q."""
        parts = zip(elements(self.stages, VectorQuantizer), codes.split(1, 1), strict=False)
        return sum(
            (stage.decode(book) for stage, book in parts), torch.zeros((), device=codes.device)
        )

    def extra_repr(self) -> str:
        return (
            f"gradient_estimator={self.gradient_estimator},"
            f" quantizer_dropout={self.quantizer_dropout}"
        )


def _both(mask: Tensor | None, used: Tensor | None, z: Tensor) -> Tensor | None:
    """Frames (B, F) that are real and whose item is used."""
    if used is None:
        return mask
    return used.expand(z.shape[0], z.shape[2]) if mask is None else mask & used
