"""Time jitter: a decoder that cannot lean on any one frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqwave.rng import keyed


class TimeJitter(nn.Module):
    """Replace each frame, with total probability `p`, by its left or its right neighbour (half
    each), in training alone.

    Each item of a batch draws its own; at the edges, and where the neighbour is padding, the frame
    itself stands in. Acts on the decoder's input, after the straight-through and outside the
    codebook's statistics.

    Reference: Chorowski et al., 2019, sec. III-C. arXiv:1901.08810
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """z (B, D, F), mask (B, F) true where a frame is real -> (B, D, F); gradients reach the
        frames that were taken.
        """
        if not self.training or self.p == 0:
            return z
        B, D, F_ = z.shape
        u = keyed.uniforms(B, F_, like=z.device)
        offset = (u < self.p).long() - 2 * (u < self.p / 2).long()  # -1, +1 or 0
        own = torch.arange(F_, device=z.device).expand(B, F_)
        index = (own + offset).clamp(0, F_ - 1)
        if mask is not None:
            index = torch.where(mask.gather(1, index), index, own)
        return z.gather(2, index[:, None].expand(B, D, F_))

    def extra_repr(self) -> str:
        return f"p={self.p}"
