"""Two levels: a slow code for stretches of frames above a fast one for each frame."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import OpenTo, option, spec
from vqwave.errors import UserInputError
from vqwave.features import held
from vqwave.nn.quantize.base import (
    Quantized,
    Quantizer,
    QuantizerSpec,
    joint_metrics,
    mean_losses,
)
from vqwave.nn.quantize.fsq import FSQuantizerSpec
from vqwave.nn.quantize.product import ProductQuantizerSpec
from vqwave.nn.quantize.rvq import ResidualQuantizerSpec
from vqwave.nn.quantize.vq import EMAQuantizerSpec, GradientQuantizerSpec
from vqwave.nn.repeat import repeated

LevelSpec = Annotated[
    EMAQuantizerSpec
    | GradientQuantizerSpec
    | FSQuantizerSpec
    | ProductQuantizerSpec
    | ResidualQuantizerSpec,
    OpenTo(QuantizerSpec),
]


@spec
class HierarchicalQuantizerSpec(QuantizerSpec):
    """A slow code above a fast one that is conditioned on it.

    Razavi et al., 2019 (VQ-VAE-2). arXiv:1906.00446
    """

    kind: Literal["hierarchical"] = "hierarchical"
    downsample: Annotated[int, Field(ge=2)] = option(default=4, help="frames that share a top code")
    top: LevelSpec = option(default=EMAQuantizerSpec(), help="the slow level")
    bottom: LevelSpec = option(
        default=EMAQuantizerSpec(), help="the fast level, of as many codes K a book as the slow one"
    )

    @property
    def losses(self) -> frozenset[str]:
        return self.top.losses | self.bottom.losses

    def build(self, dim: int) -> HierarchicalQuantizer:
        """Raises UserInputError for levels whose books differ in size."""
        top, bottom = self.top.build(dim), self.bottom.build(dim)
        if top.codebook_size != bottom.codebook_size:
            raise UserInputError(
                f"model.quantizer.bottom: books of {bottom.codebook_size} codes, expected"
                f" {top.codebook_size} as in model.quantizer.top"
            )
        return HierarchicalQuantizer(top, bottom, dim, self.downsample)


class HierarchicalQuantizer(Quantizer):
    r"""The top level quantizes `downsample` frames as one; the bottom level each frame, given
    the top's code; both are decoded.

    .. math:: t = Q_t(\text{down}(z)),\quad b = Q_b(W_b [z, \text{held}\,t]),\quad \hat z = W
    [\text{held}\,t, b]

    down is a convolution whose windows do not overlap, the W are 1x1. They start as a residual
    quantizer, t of the frames' mean and b of what it leaves, and learn to divide the work. Frames
    that a top code lacks, beyond the end or masked, repeat the last real one: a recording has the
    same codes alone and padded in a masked batch.

    The codes (B, Q_top + Q_bottom, F) are at the fast rate, the top ones held: decoding takes the
    first of each stretch, so codes may only be cut at multiples of `downsample`. `bits_per_frame`
    counts a top code once; a packed `.vqw` file repeats it, and entropy coding with a prior, which
    sees the codes before, hardly pays for repeats.

    Reference: Razavi et al., 2019, sec. 3.1. arXiv:1906.00446
    """

    def __init__(self, top: Quantizer, bottom: Quantizer, dim: int, downsample: int) -> None:
        super().__init__()
        self.top, self.bottom, self.downsample = top, bottom, downsample
        self.num_codebooks, self.codebook_size = (
            top.num_codebooks + bottom.num_codebooks,
            top.codebook_size,
        )
        self.down = nn.Conv1d(dim, dim, downsample, downsample, bias=False)
        self.to_bottom, self.out = (nn.Conv1d(2 * dim, dim, 1, bias=False) for _ in range(2))
        same = torch.eye(dim)
        with torch.no_grad():
            self.down.weight.copy_(same[..., None] / downsample)
            self.to_bottom.weight.copy_(torch.cat([same, -same], 1)[..., None])
            self.out.weight.copy_(torch.cat([same, same], 1)[..., None])

    @property
    def codes_per_frame(self) -> list[float]:
        """Of a frame of the bottom level: a top code counts once for its `downsample` frames."""
        slow = [codes / self.downsample for codes in self.top.codes_per_frame]
        return slow + self.bottom.codes_per_frame

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        frames = z.shape[-1]
        top = self.top(self._slow(z, mask), None if mask is None else self._slow_mask(mask))
        held = self._held(top.z, frames)
        bottom = self.bottom(self.to_bottom(torch.cat([z, held], 1)), mask)
        codes = torch.cat([self._held(top.codes, frames), bottom.codes], 1)
        parts = (top, bottom)
        return Quantized(
            self.out(torch.cat([held, bottom.z], 1)),
            codes,
            mean_losses(parts),
            joint_metrics(parts),
        )

    def _encode(self, z: Tensor) -> Tensor:
        frames = z.shape[-1]
        slow = self.top.encode(self._slow(z, None))
        held = self._held(self.top.decode(slow), frames)
        return torch.cat(
            [self._held(slow, frames), self.bottom.encode(self.to_bottom(torch.cat([z, held], 1)))],
            1,
        )

    def _decode(self, codes: Tensor) -> Tensor:
        slow, fast = codes.split([self.top.num_codebooks, self.bottom.num_codebooks], 1)
        held = self._held(self.top.decode(slow[..., :: self.downsample]), codes.shape[-1])
        return self.out(torch.cat([held, self.bottom.decode(fast)], 1))

    def _slow(self, z: Tensor, mask: Tensor | None) -> Tensor:
        """z (B, D, F), mask (B, F) -> (B, D, ceil(F / downsample)), of real frames only."""
        z = held(z, mask)
        return self.down(torch.cat([z, z[..., -1:].expand(-1, -1, self._missing(z))], -1))

    def _slow_mask(self, mask: Tensor) -> Tensor:
        """(B, F) -> (B, ceil(F / downsample)): a top frame is real if any of its frames is."""
        return F.pad(mask, (0, self._missing(mask))).unflatten(1, (-1, self.downsample)).any(-1)

    def _held(self, x: Tensor, frames: int) -> Tensor:
        """(B, C, ceil(F / downsample)) -> (B, C, F)."""
        return repeated(x, self.downsample)[..., :frames]

    def _missing(self, x: Tensor) -> int:
        """Frames that (..., F) lacks to a multiple of `downsample`."""
        return math.ceil(x.shape[-1] / self.downsample) * self.downsample - x.shape[-1]

    def extra_repr(self) -> str:
        return f"downsample={self.downsample}"
