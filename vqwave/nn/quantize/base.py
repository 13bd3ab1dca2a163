"""The interface of all quantizers: latents in, codes out and back; the results of training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vqwave.config import Part
from vqwave.features import held
from vqwave.nn.module_lists import submodules


class QuantizerSpec(Part):
    """Settings of a quantizer: a frozen dataclass (`@spec`) that builds one.

    A subclass from anywhere is a `model.quantizer.kind` of its own, `package.module:Spec`.
    """

    part: ClassVar[str] = "quantizer"

    @property
    def losses(self) -> frozenset[str]:
        """Names of the losses that the quantizer has in training; a weight chooses among them."""
        return frozenset()

    @abstractmethod
    def build(self, dim: int) -> Quantizer:
        """The quantizer of latents of `dim` channels."""


@dataclass(frozen=True)
class Quantized:
    """z (B, D, F) the quantized latents with gradient, codes (B, Q, F) int64, unweighted losses,
    metrics to log.
    """

    z: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


class Quantizer(nn.Module, ABC):
    """Latents (B, D, F) <-> codes (B, Q, F) of Q books with K codes each.

    Laws, whatever the variant: in evaluation nothing changes; `forward(z).codes` is `encode(z)`,
    and `forward(z).z` is `decode` of them bit for bit; padding enters no statistic and no loss; all
    of it runs in float32 (or above) whatever the autocast. A variant gives `num_codebooks`,
    `codebook_size`, `_quantize`, `_encode` and `_decode`, and where it differs from the defaults,
    `downsample`, `codes_per_frame`, `framewise` and `initialized`.
    """

    num_codebooks: int
    """Q, codes a frame."""
    codebook_size: int
    """K, codes of each book."""
    downsample: int = 1
    """Frames that share the slowest code: codes may be cut at multiples of it only."""
    framewise: bool = False
    """Whether the bits of a decoded frame depend on its own codes alone, however many frames are
    decoded together: entries of tables, and sums of a few of them, no products.
    """
    calls_per_step: int = 1
    """Training forward passes an optimizer step; set by the trainer where gradients accumulate."""

    @property
    def initialized(self) -> bool:
        """Whether the codes mean something yet: before that, validation would see noise."""
        parts = submodules(self, Quantizer)
        return all(part.initialized for part in parts if part is not self)

    @property
    def codes_per_frame(self) -> list[float]:
        """Of each book: 1, or 1 / n where a code is held for n frames."""
        return [1.0] * self.num_codebooks

    @property
    def bits_per_frame(self) -> float:
        """Nominal: log2 K a code."""
        return sum(self.codes_per_frame) * math.log2(self.codebook_size)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """z (B, D, F), mask (B, F) true where a frame is real: padding enters no statistic and no
        loss.
        """
        with torch.autocast(z.device.type, enabled=False):
            return self._quantize(_full(z), mask)

    def encode(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, D, F) -> codes (B, Q, F); where mask (B, F) is true they are those of each
        utterance alone.
        """
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            return self._encode(held(_full(z), mask))

    def decode(self, codes: Tensor) -> Tensor:
        """codes (B, Q, F) -> (B, D, F)."""
        with torch.autocast(codes.device.type, enabled=False):
            return self._decode(codes)

    @abstractmethod
    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized: ...

    @abstractmethod
    def _encode(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor: ...


def _full(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()


def recomputing() -> bool:
    """True while a backward pass runs a checkpointed forward again, which must not update
    statistics twice.
    """
    return torch._C._current_graph_task_id() != -1


def frame_mask(lengths: Tensor, hop: int, frames: int) -> Tensor:
    """(B, F), true for frames that hold at least one sample of an utterance of `lengths` (B,)
    samples.
    """
    return torch.arange(frames, device=lengths.device) * hop < lengths[:, None]


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the code distribution that counts (..., K) estimate: K when all are
    used alike.
    """
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.special.entr(p).sum(-1).exp()


def usage(counts: Tensor) -> dict[str, Tensor]:
    """The metrics of one book with counts (K,)."""
    return {"perplexity": perplexity(counts), "codes_used": (counts > 0).sum()}


def mean_losses(parts: Sequence[Quantized]) -> dict[str, Tensor]:
    """The mean over the parts that have it, so that a loss's weight means the same for any number
    of them.
    """
    names = dict.fromkeys(name for part in parts for name in part.losses)
    return {
        name: torch.stack([part.losses[name] for part in parts if name in part.losses]).mean()
        for name in names
    }


def joint_metrics(parts: Sequence[Quantized]) -> dict[str, Tensor]:
    """Perplexity is the mean over books, codes used their sum; nothing while the books are still
    waiting to start.
    """
    if not all(part.metrics for part in parts):
        return {}
    together = {
        name: torch.stack([part.metrics[name].float() for part in parts])
        for name in ("perplexity", "codes_used")
    }
    return {"perplexity": together["perplexity"].mean(), "codes_used": together["codes_used"].sum()}
