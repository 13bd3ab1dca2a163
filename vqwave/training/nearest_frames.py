"""The frames of a voice for what others say: for each of their latents the mean of the frames of
those recorded latents of the voice that are nearest.

Conversion by nearest neighbours: Baas, van Niekerk and Kamper, 2023, "Voice conversion with just
nearest neighbors". arXiv:2305.18975. There features of a large network are compared, and the frames
are vocoded. Here latents of codes are, each among those before and after it, and the frames are
what a spectral decoder is trained towards, which smooths them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.training.coded_clips import CodedClips

COUNT = 4  # neighbours
AROUND = 4  # latents before and after, the n-th of which counts 1 / (1 + n)


@torch.no_grad()
def nearest_frames(clips: CodedClips, voice: CodedClips) -> Tensor:
    """The frames (N, M, F') of `clips`, made of those of `voice`."""
    ratio = voice.frames.shape[-1] // voice.z.shape[-1]
    real = voice.mask
    bank = F.normalize(_among_others(voice).transpose(1, 2)[real], dim=1)  # (n, D')
    frames = voice.frames.unflatten(-1, (-1, ratio)).transpose(1, 2)[real]  # (n, M, ratio)
    result = []
    for each in _among_others(clips):
        similarity = F.normalize(each.T, dim=1) @ bank.T
        nearest = similarity.topk(min(COUNT, len(bank)), 1).indices
        result.append(frames[nearest].mean(1).transpose(0, 1).flatten(1))
    return torch.stack(result)


def _among_others(clips: CodedClips) -> Tensor:
    """Latents (N, D, F) side by side with those around them, (N, D', F)."""
    latents = clips.z.shape[-1]
    padded = F.pad(clips.z * clips.mask[:, None], (AROUND, AROUND))
    offsets = range(2 * AROUND + 1)
    parts = [padded[..., n : n + latents] / (1 + abs(n - AROUND)) for n in offsets]
    return torch.cat(parts, 1)
