"""The embedding of a voice that a model was not trained on, fitted to a recording of it.

One vector conditions a spectral decoder on a voice: the sum of the embeddings of its labels. For
another voice that vector is fitted alone, by gradient descent on the error of the frames that are
predicted from the codes of the recording. All weights stay as they are. The codes have something of
a voice in them, those of another recording something of another voice: so the vector is then moved
further away from that of the recording that is converted, or, where there are only its codes, from
the mean of the voices that the model knows. Beyond what was fitted, frames may be amplified, so the
level stays that of the fitted one.

Reference: Arik et al., 2018 (speaker adaptation of the embedding alone), sec. 3.1. arXiv:1802.06006
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.codes import CodeSequence
from vqwave.distributed.threads import limited_to
from vqwave.distributed.torch_defaults import ordinary
from vqwave.models import VQVAE
from vqwave.nn.auxiliary.spectral_decoder import EMBEDDING, SpectralDecoder
from vqwave.nn.masks import stretched

STEPS, RATE = 150, 0.1  # of Adam; the rate falls linearly to zero
# of the distance from the mean voice, and from that of the recording that is converted
BEYOND_MEAN, BEYOND_SOURCE = 0.5, 0.3
LEVEL_STEPS = 4  # of Newton's method
WINDOW, BATCH = 48, 4  # latents, as many as the clips of a training have; windows a step


@dataclass(frozen=True)
class Clips:
    """What an embedding is fitted to: latents z (N, D, F), the standardised frames of their
    recordings (N, M, F'), pitch (N, 2, F'') of a model with melody, mask (N, F) of real latents.
    """

    z: Tensor
    frames: Tensor
    pitch: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class FittedEmbedding:
    """The embedding of least error, and that of the mean voice of the model, (1, C) each; what it
    was fitted to.
    """

    embedding: Tensor
    mean: Tensor
    predictor: SpectralDecoder
    clips: Clips

    def beyond_mean(self) -> Tensor:
        """Where only codes are at hand."""
        return self._beyond(self.mean, BEYOND_MEAN, self.clips)

    def beyond(self, source: FittedEmbedding) -> Tensor:
        """For the conversion of a recording with this embedding."""
        return self._beyond(source.embedding, BEYOND_SOURCE, source.clips)

    def _beyond(self, other: Tensor, share: float, clips: Clips) -> Tensor:
        moved = torch.lerp(other, self.embedding, 1 + share)
        return at_level_of(self.embedding, moved, self.predictor, clips)


@limited_to(1)  # another number of threads may round otherwise
def fit_embedding(
    model: VQVAE,
    coded: CodeSequence,
    wave: Tensor,
    labels: Mapping[str, Tensor],
    speakers: Tensor,
) -> FittedEmbedding:
    """The codes of a recording, and itself, wave (T,) -> the embedding (1, C), for `EMBEDDING`.

    labels: of the voice to begin with, and the range of the pitch of a model with melody; speakers
    (K,): the voices that the model knows.
    """
    predictor = model.spectral_decoder
    assert predictor is not None
    device = wave.device
    codes, pitch = coded.codes[None].to(device), None
    z = model.quantizer.decode(codes)
    frames = z.shape[-1]
    if coded.pitch is not None:
        pitch = model.pitch(coded.pitch.codes[None].to(device), labels, frames)
    padded = F.pad(wave[None], (0, frames * model.hop - wave.shape[-1]))
    length = min(WINDOW, frames)
    count = frames // length
    with torch.inference_mode(mode=False):
        clips = Clips(
            _windows(z, count, length),
            _windows(predictor.frontend(ordinary(padded)), count, length * predictor.ratio),
            None if pitch is None else _windows(pitch, count, length * predictor.pitch_frames),
        )
        own = {name: ordinary(value) for name, value in labels.items()}
        every = {name: value.expand(len(speakers), *value.shape[1:]) for name, value in own.items()}
        every["speaker"] = ordinary(speakers)
        mean = predictor.embedded(every).detach().mean(0, keepdim=True)
        fitted = descend(predictor, clips, predictor.embedded(own))
        return FittedEmbedding(fitted, mean, predictor, clips)


def descend(predictor: SpectralDecoder, clips: Clips, start: Tensor) -> Tensor:
    """From an embedding (1, C) on -> that by which the predicted frames have the least error."""
    embedding, count = start.detach().clone().requires_grad_(), len(clips.z)
    optimizer = torch.optim.Adam([embedding], RATE)
    for step in range(STEPS):
        rows = torch.arange(step * BATCH, step * BATCH + min(BATCH, count)) % count
        pitch, mask = (x if x is None else x[rows] for x in (clips.pitch, clips.mask))
        with torch.enable_grad():
            given = {EMBEDDING: embedding.expand(len(rows), -1)}
            predicted = predictor(clips.z[rows], given, mask, pitch)
            error = (predicted - clips.frames[rows]).abs().mean(1)
            if mask is not None:
                error = error[stretched(mask, error.shape[-1])]
            # of the embedding alone: the model's parameters keep no gradient
            (embedding.grad,) = torch.autograd.grad(error.mean(), [embedding])
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.step()
    return embedding.detach()


@limited_to(1)
def at_level_of(
    embedding: Tensor, moved: Tensor, predictor: SpectralDecoder, clips: Clips
) -> Tensor:
    """`moved` (1, C), moved on along the gradient of the level of the log-mel frames predicted for
    the clips, until this is that of `embedding`; as it is for other frames.
    """
    if predictor.spectrum is None:
        return moved
    with torch.inference_mode(mode=False), torch.enable_grad():
        wanted = _level(predictor, clips, embedding).detach()
        nearest, least = moved, math.inf
        for _ in range(LEVEL_STEPS + 1):
            moved = moved.detach().clone().requires_grad_()
            level = _level(predictor, clips, moved)
            off = float((level.detach() - wanted).abs())
            if off < least:
                nearest, least = moved.detach(), off
            (slope,) = torch.autograd.grad(level, [moved])
            moved = moved - (level - wanted) * slope / slope.square().sum().clamp_min(1e-12)
        return nearest


def _level(predictor: SpectralDecoder, clips: Clips, embedding: Tensor) -> Tensor:
    """ln of the mean power of the frames predicted with an embedding (1, C)."""
    given = {EMBEDDING: embedding.expand(len(clips.z), -1)}
    log_mel = predictor.log_mel(predictor(clips.z, given, clips.mask, clips.pitch))
    power = (2 * log_mel).exp().sum(1)
    if clips.mask is not None:
        power = power[stretched(clips.mask, power.shape[-1])]
    return power.mean().log()


def _windows(x: Tensor, count: int, length: int) -> Tensor:
    """x (1, C, F) -> (count, C, length), one after the other; what is left is dropped."""
    return ordinary(x)[0, :, : count * length].unflatten(-1, (count, length)).transpose(0, 1)
