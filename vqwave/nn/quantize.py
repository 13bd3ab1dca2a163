"""Quantizers: continuous latents -> codes of a finite alphabet, with gradients through."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.nn.codebook import Codebook, nearest_codes
from vqwave.nn.ranks import masked_mean, sum_over_ranks


@dataclass(frozen=True)
class Quantized:
    """z (B, D, F) the quantized latents with gradient, codes (B, Q, F) int64, unweighted losses, metrics to log."""

    z: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


def frame_mask(lengths: Tensor, hop: int, frames: int) -> Tensor:
    """(B, F), true for frames that hold at least one sample of an utterance of `lengths` (B,) samples."""
    return torch.arange(frames, device=lengths.device) * hop < lengths[:, None]


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """q, bit for bit, with the gradient of z: `q + (z - z)`, not `z + (q - z)`, which rounds. arXiv:1711.00937, sec. 3.2"""
    return q.detach() + (z - z.detach())


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the code distribution that counts (..., K) estimate: K when all are used alike."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.special.entr(p).sum(-1).exp()


class TimeJitter(nn.Module):
    """Replace each frame, with total probability `p`, by its left or its right neighbour (half each), in training alone.

    Each item of a batch draws its own; at the edges, and where the neighbour is padding, the frame itself stands in. Acts
    on the decoder's input, after the straight-through and outside the codebook's statistics.

    Reference: Chorowski et al., 2019, sec. III-C. arXiv:1901.08810
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, D, F), mask (B, F) true where a frame is real -> (B, D, F); gradients reach the frames that were taken."""
        if not self.training or self.p == 0:
            return z
        B, D, F_ = z.shape
        u = torch.rand(B, F_, device=z.device)
        offset = (u < self.p).long() - 2 * (u < self.p / 2).long()  # -1, +1 or 0
        own = torch.arange(F_, device=z.device).expand(B, F_)
        index = (own + offset).clamp(0, F_ - 1)
        if mask is not None:
            index = torch.where(mask.gather(1, index), index, own)
        return z.gather(2, index[:, None].expand(B, D, F_))

    def extra_repr(self) -> str:
        return f"p={self.p}"


@spec
class EMAQuantizerSpec:
    """One codebook that follows its vectors by moving averages. van den Oord et al., 2017, appendix A.1"""

    kind: Literal["ema"] = "ema"
    size: Annotated[int, Field(ge=1, le=65536)] = option(512, "codes K")
    decay: Annotated[float, Field(ge=0, lt=1)] = option(0.99, "of the moving averages")
    restart: Annotated[float, Field(ge=0, lt=1)] = option(0.03, "codes below this part of their fair share are restarted; 0: none")
    start_after: int = option(0, "training steps that pass the latents through before k-means places the codes on them")

    def build(self, dim: int) -> EMAQuantizer:
        return EMAQuantizer(self, dim)


class EMAQuantizer(nn.Module):
    """Vector quantizer with an EMA codebook; search, averages and loss run in float32 (or above) whatever the autocast.

    The loss ``commitment`` is :math:`|z - sg(e)|^2` averaged over frames and over the D channels. In evaluation nothing
    changes: no start, no averages, no restart.
    """

    books = 1
    waited: Tensor

    def __init__(self, spec: EMAQuantizerSpec, dim: int) -> None:
        super().__init__()
        self.codebook = Codebook(spec.size, dim, decay=spec.decay, restart=spec.restart)
        self.size = spec.size
        self.dim = dim
        self.start_after = spec.start_after
        self.register_buffer("waited", torch.tensor(0))

    @property
    def bits_per_frame(self) -> float:
        """Nominal: log2 K a book."""
        return self.books * math.log2(self.size)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """z (B, D, F), mask (B, F) true where a frame is real: padding enters no statistic and no loss."""
        with torch.autocast(z.device.type, enabled=False):
            z = z if z.dtype == torch.float64 else z.float()
            vectors = z.detach().transpose(1, 2)  # (B, F, D)
            real = vectors.flatten(0, 1) if mask is None else vectors[mask]
            if self.training and not self.codebook.started:
                if self.waited < self.start_after:
                    self.waited += 1
                    return Quantized(z, self.encode(z), {"commitment": 0.0 * z.sum()}, {})
                self.codebook.start(real)
            codes = self.encode(z)
            q = self.decode(codes)
            losses = {"commitment": masked_mean((z - q.detach()).square().mean(1), mask)}
            index = codes[:, 0].flatten() if mask is None else codes[:, 0][mask]
            counts = sum_over_ranks(torch.bincount(index, minlength=self.size))
            metrics = {"perplexity": perplexity(counts), "codes_used": (counts > 0).sum()}
            if self.training:
                self.codebook.update(real, index)
            return Quantized(straight_through(z, q), codes, losses, metrics)

    def encode(self, z: Tensor) -> Tensor:
        """z (B, D, F) -> codes (B, 1, F)."""
        B, _, F_ = z.shape
        vectors = z.transpose(1, 2).flatten(0, 1).to(self.codebook.sums.dtype)
        return nearest_codes(vectors, self.codebook.codes).view(B, 1, F_)

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, 1, F) -> (B, D, F)."""
        return F.embedding(codes[:, 0], self.codebook.codes).transpose(1, 2)
