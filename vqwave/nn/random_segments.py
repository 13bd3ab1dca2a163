"""A random segment of each clip, for a decoder that costs more than its input: codes are of
complete clips, the decoder is trained on segments.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vqwave.data import Batch
from vqwave.rng import keyed


def sliced(batch: Batch, frames: Tensor, samples: float, hop: int) -> tuple[Batch, Tensor]:
    """`samples` of each clip, in whole frames of `hop`, from a random frame of its speech on; and
    the frames (B, C, F) there.

    The frames were computed from complete clips, so that those at the ends of a segment are what a
    decoder is given in use.

    Reference: Kim et al., 2021 (VITS), sec. 2.4. arXiv:2106.06103
    """
    clips, ratio = batch.wave.shape[1] // hop, frames.shape[-1] * hop // batch.wave.shape[1]
    count = min(max(1, round(samples / hop)), clips)
    slack = (-(-batch.lengths // hop) - count).clamp_min(0)
    starts = (
        (keyed.uniforms(len(batch), like=frames) * (slack + 1))
        .long()
        .clamp_max(clips - count)
        .tolist()
    )
    wave = torch.stack(
        [
            x[start * hop : (start + count) * hop]
            for x, start in zip(batch.wave, starts, strict=True)
        ]
    )
    segments = torch.stack(
        [
            x[:, start * ratio : (start + count) * ratio]
            for x, start in zip(frames, starts, strict=True)
        ]
    )
    lengths = (batch.lengths - hop * torch.tensor(starts, device=batch.lengths.device)).clamp_max(
        count * hop
    )
    return replace(batch, wave=wave, lengths=lengths), segments
