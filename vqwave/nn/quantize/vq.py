"""Vector quantizers: one book of code vectors, which follow their latents by averages or learn by a
loss.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.distributed.collectives import masked_mean, sum_over_ranks
from vqwave.nn.quantize.base import Quantized, Quantizer, QuantizerSpec, recomputing, usage
from vqwave.nn.quantize.codebook import Codebook, EMACodebook, GradientCodebook, nearest_codes
from vqwave.nn.quantize.entropy_loss import EntropySpec, assignment_entropy
from vqwave.nn.quantize.estimators import ESTIMATORS, EstimatorName
from vqwave.nn.quantize.projected import projected


@spec
class CodebookQuantizerSpec(QuantizerSpec):
    """What both kinds of codebooks have."""

    learned_by: ClassVar[frozenset[str]] = frozenset({"commitment"})
    """Its losses without the optional ones."""

    codebook_size: Annotated[int, Field(ge=1, le=65536)] = option(default=512, help="codes K")
    decay: Annotated[float, Field(ge=0, lt=1)] = option(default=0.99, help="of the moving averages")
    dead_code_threshold: Annotated[float, Field(ge=0, lt=1)] = option(
        default=0.03, help="codes below this part of their fair share are restarted; 0: none"
    )
    kmeans_after_steps: Annotated[int, Field(ge=0)] = option(
        default=0,
        help="training steps that pass the latents through before k-means places the codes on them",
    )
    l2_normalize: bool = option(
        default=False,
        help=(
            "latents and codes on the sphere of radius sqrt(D): the nearest code is that of the"
            " largest cosine"
        ),
    )
    gradient_estimator: EstimatorName = option(
        default="straight_through",
        help="gradient through the code: straight_through as in the paper, or rotation",
    )
    codebook_dim: Annotated[int, Field(ge=1)] | None = option(
        default=None,
        help="dimensions in which it is quantized, learned orthonormal directions; none: all D",
    )
    entropy: EntropySpec | None = option(
        default=None, help="adds the loss `entropy`, which needs a weight"
    )

    @property
    def losses(self) -> frozenset[str]:
        return self.learned_by if self.entropy is None else self.learned_by | {"entropy"}

    def build(self, dim: int) -> Quantizer:
        """Raises UserInputError if there are more code dimensions than `dim`."""
        return projected(dim, self.codebook_dim, self.unprojected)

    def unprojected(self, dim: int) -> VectorQuantizer:
        """Of latents that have the codes' dimension."""
        return VectorQuantizer(
            self.codebook(dim), self.gradient_estimator, self.kmeans_after_steps, self.entropy
        )

    @abstractmethod
    def codebook(self, dim: int) -> Codebook:
        """The book of codes of `dim` dimensions."""


@spec
class EMAQuantizerSpec(CodebookQuantizerSpec):
    """One codebook that follows its vectors by moving averages.

    van den Oord et al., 2017, appendix A.1
    """

    kind: Literal["ema"] = "ema"

    def codebook(self, dim: int) -> Codebook:
        return EMACodebook(
            self.codebook_size,
            dim,
            decay=self.decay,
            dead_code_threshold=self.dead_code_threshold,
            l2_normalize=self.l2_normalize,
        )


@spec
class GradientQuantizerSpec(CodebookQuantizerSpec):
    """One codebook that learns by the loss `codebook`. van den Oord et al., 2017, eq. 3"""

    kind: Literal["gradient"] = "gradient"
    learned_by: ClassVar[frozenset[str]] = frozenset({"commitment", "codebook"})
    lr_scale: Annotated[float, Field(gt=0)] = option(
        default=1.0, help="learning rate of the codes, times that of the network"
    )

    def codebook(self, dim: int) -> Codebook:
        return GradientCodebook(
            self.codebook_size,
            dim,
            decay=self.decay,
            dead_code_threshold=self.dead_code_threshold,
            l2_normalize=self.l2_normalize,
            lr_scale=self.lr_scale,
        )


class VectorQuantizer(Quantizer):
    r"""Each latent vector -> its nearest code.

    .. math:: L = |sg(z) - e|^2 + \beta |z - sg(e)|^2

    The first term is the loss ``codebook`` of a codebook that learns by gradients (moving averages
    replace it), the second the loss ``commitment``; both are averaged over frames and over the D
    channels.

    Reference: van den Oord et al., 2017, sec. 3.2. arXiv:1711.00937
    """

    num_codebooks = 1
    framewise = True
    waited: Tensor
    """Training passes so far without codes."""

    def __init__(
        self,
        codebook: Codebook,
        gradient_estimator: EstimatorName,
        kmeans_after_steps: int,
        entropy: EntropySpec | None,
    ) -> None:
        super().__init__()
        self.codebook = codebook
        self.codebook_size, self.dim = codebook.size, codebook.dim
        self.gradient_estimator, self.kmeans_after_steps = gradient_estimator, kmeans_after_steps
        self.entropy = entropy
        self.register_buffer("waited", torch.tensor(0))

    @property
    def initialized(self) -> bool:
        return bool(self.codebook.started)

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        z = self.codebook.normalize(z, 1)
        vectors = z.transpose(1, 2)  # (B, F, D)
        real = vectors.flatten(0, 1) if mask is None else vectors[mask]
        again = self.training and recomputing()
        if self.training and not self.codebook.started:
            if self.waited - int(again) < self.kmeans_after_steps * self.calls_per_step:
                self.waited += int(not again)
                return Quantized(z, self._encode(z), self._idle_losses(z), {})
            self.codebook.start(real.detach())
        codes = self.codebook.codes
        # (B, F)
        index = nearest_codes(vectors.detach().flatten(0, 1), codes).view(vectors.shape[:2])
        q = F.embedding(index, codes).transpose(1, 2).contiguous()
        losses = {
            "commitment": masked_mean(F.mse_loss(z, q.detach(), reduction="none").mean(1), mask)
        }
        if self.codebook.by_loss:
            losses["codebook"] = masked_mean(
                F.mse_loss(q, z.detach(), reduction="none").mean(1), mask
            )
        if self.entropy is not None:
            losses["entropy"] = assignment_entropy(real, codes, self.entropy)
        used = index.flatten() if mask is None else index[mask]
        metrics = usage(sum_over_ranks(torch.bincount(used, minlength=self.codebook_size)))
        if self.training and not again:
            self.codebook.update(real.detach(), used)
        return Quantized(ESTIMATORS[self.gradient_estimator](z, q), index[:, None], losses, metrics)

    def _idle_losses(self, z: Tensor) -> dict[str, Tensor]:
        """Zero, with a gradient of zero for all that will learn: under DDP no parameter may be left
        out.
        """
        nothing = 0.0 * (z.sum() + self.codebook.codes.sum())
        return (
            {"commitment": nothing}
            | ({"codebook": nothing} if self.codebook.by_loss else {})
            | self._idle_entropy(nothing)
        )

    def _idle_entropy(self, nothing: Tensor) -> dict[str, Tensor]:
        return {} if self.entropy is None else {"entropy": nothing}

    def _encode(self, z: Tensor) -> Tensor:
        B, _, F_ = z.shape
        codes = self.codebook.codes
        vectors = self.codebook.normalize(z, 1).transpose(1, 2).flatten(0, 1).to(codes.dtype)
        return nearest_codes(vectors, codes).view(B, 1, F_)

    def _decode(self, codes: Tensor) -> Tensor:
        return F.embedding(codes[:, 0], self.codebook.codes).transpose(1, 2)

    def extra_repr(self) -> str:
        return (
            f"gradient_estimator={self.gradient_estimator},"
            f" kmeans_after_steps={self.kmeans_after_steps}"
        )
