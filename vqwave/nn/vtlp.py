"""Frequency warping of an encoder's input: against a voice in what should be content."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vqwave.rng import keyed


class VocalTractLengthPerturbation(nn.Module):
    """Stretch the mel axis of each utterance by a factor drawn from 1 - spread to 1 + spread, in
    training alone.

    Each item of a batch sounds as if spoken through a longer or a shorter vocal tract, while what
    is to be predicted stays as it is: where formants lie then depends little on the speaker, and
    the codes learn to ignore it. Vocal tract length perturbation, on mel bands rather than on the
    spectrum: Jaitly and Hinton, 2013 (ICML workshop on deep learning for audio).
    """

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        """x (B, M, F) log-mel frames -> the same shape, bands read between their neighbours; the
        top one beyond the top.
        """
        if not self.training or self.spread == 0:
            return x
        B, M, F_ = x.shape
        factor = 1 + self.spread * (2 * keyed.uniforms(B, 1, like=x) - 1)
        # (B, M)
        place = (torch.arange(M, device=x.device, dtype=x.dtype) * factor).clamp(max=M - 1)
        below = place.long().clamp(max=max(M - 2, 0))
        share = (place - below)[..., None]
        low, high = (
            x.gather(1, band[..., None].expand(B, M, F_))
            for band in (below, (below + 1).clamp(max=M - 1))
        )
        return low + share * (high - low)

    def extra_repr(self) -> str:
        return f"spread={self.spread}"
