"""Recordings of any length into codes, chunk by chunk; the codes are those of the complete
recording.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from vqwave.audio import Wave
from vqwave.distributed.torch_defaults import inference
from vqwave.errors import UserInputError
from vqwave.models.vqvae import VQVAE

CHUNK = 10.0  # seconds that are encoded at once, where latency does not matter


def default_chunk(model: VQVAE, sample_rate: int) -> int:
    """Frames of `CHUNK` seconds."""
    return math.ceil(CHUNK * sample_rate / model.hop)


class ChunkEncoder:
    """Prepared samples in, codes out, chunk by chunk."""

    def __init__(self, model: VQVAE, frames: int) -> None:
        """frames: how many are encoded at once, rounded up to what the quantizer's `downsample`
        divides.

        Raises UserInputError for an encoder whose frames depend on the complete utterance.
        """
        span, hop = model.encoder.receptive_span(), model.hop
        if span is None:
            raise UserInputError(
                "this model normalises over the whole utterance (encoder.instance_norm), expected"
                " one without, to stream"
            )
        ratio = model.quantizer.downsample
        self.model, self.hop, self.frames = model, hop, -(-frames // ratio) * ratio
        self.grid = model.encoder.alignment
        # frames around a chunk
        self.before, self.after = -(span.first // hop), max(0, -(-(span.last + 1 - hop) // hop))
        self.kept = np.zeros(0, np.float32)  # samples from frame `first` on
        self.first = self.frame = self.samples = 0

    @property
    def lag(self) -> int:
        """By how many samples the codes are behind the input, at the most."""
        return (self.frames + self.after) * self.hop - 1

    @inference()
    def push(self, wave: Wave) -> Tensor:
        """Samples (n,), any n -> the codes (Q, m) that are known now."""
        return self._codes(self.push_latents(wave))

    @inference()
    def flush(self) -> Tensor:
        """The last codes: the last frame is filled up with zeros."""
        return self._codes(self.flush_latents())

    def push_latents(self, wave: Wave) -> Iterator[Tensor]:
        """Samples (n,), any n -> the latents (1, D, m) that are known now, chunk by chunk.

        All of them must be taken before the next call.
        """
        self.kept = np.concatenate([self.kept, wave]) if len(self.kept) else wave
        self.samples += len(wave)
        return self._latents(self.samples // self.hop, last=False)

    def flush_latents(self) -> Iterator[Tensor]:
        """The last latents, as `flush` gives codes."""
        self.kept = np.pad(self.kept, (0, -self.samples % self.hop))
        return self._latents(-(-self.samples // self.hop), last=True)

    def _codes(self, latents: Iterable[Tensor]) -> Tensor:
        quantizer = self.model.quantizer
        parts = [torch.zeros(quantizer.num_codebooks, 0, dtype=torch.int64)]
        parts += [quantizer.encode(z)[0].cpu() for z in latents]
        return torch.cat(parts, 1)

    def _latents(self, known: int, *, last: bool) -> Iterator[Tensor]:
        weight = next(self.model.encoder.parameters())
        while self.frame < known and (last or self.frame + self.frames + self.after <= known):
            end = min(self.frame + self.frames, known)
            low, high = self._start(), min(known, end + self.after)
            window = self.kept[(low - self.first) * self.hop : (high - self.first) * self.hop]
            latents = self.model.encoder(torch.from_numpy(window)[None].to(weight))
            yield latents[..., self.frame - low : end - low].contiguous()
            self.frame = end
        keep = self._start()
        if keep > self.first:
            self.kept, self.first = self.kept[(keep - self.first) * self.hop :].copy(), keep

    def _start(self) -> int:
        """The first frame of the window of the next chunk."""
        return max(0, self.frame - self.before) // self.grid * self.grid


def encode_chunked(model: VQVAE, wave: Tensor, sample_rate: int) -> Tensor:
    """A prepared recording (T,) -> its codes (Q, F) on the CPU."""
    if model.encoder.receptive_span() is None:
        return model.encode(_padded(model, wave))[0].cpu()
    chunks = ChunkEncoder(model, default_chunk(model, sample_rate))
    return torch.cat([chunks.push(wave.cpu().numpy()), chunks.flush()], 1)


@inference()
def latents_chunked(model: VQVAE, wave: Tensor, sample_rate: int) -> Tensor:
    """A prepared recording (T,) -> the latents (D, F) that `encode_chunked` quantizes."""
    if model.encoder.receptive_span() is None:
        return model.encoder(_padded(model, wave))[0]
    chunks = ChunkEncoder(model, default_chunk(model, sample_rate))
    parts = [*chunks.push_latents(wave.cpu().numpy()), *chunks.flush_latents()]
    return torch.cat(parts, 2)[0]


def _padded(model: VQVAE, wave: Tensor) -> Tensor:
    """(T,) -> (1, T'), whole frames."""
    return torch.nn.functional.pad(wave, (0, -len(wave) % model.hop))[None]
