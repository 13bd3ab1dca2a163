"""Clips as codes and as frames: what a spectral decoder is adapted on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vqwave.data import Batch
from vqwave.data.frame_tracks import PITCH
from vqwave.models import VQVAE

Labels = Mapping[str, Tensor]


@dataclass(frozen=True)
class CodedClips:
    """N clips of one length: quantized latents z (N, D, F), the recordings' standardised frames (N,
    M, F'), mask (N, F) of real latents, pitch codes (N, Q, F'') of a model with melody, labels.
    """

    z: Tensor
    frames: Tensor
    mask: Tensor
    pitch_codes: Tensor | None
    labels: Labels

    @classmethod
    @torch.no_grad()
    def of(cls, model: VQVAE, batches: Iterable[Batch]) -> CodedClips:
        """Raises ValueError for no batch."""
        parts = []
        for batch in batches:
            codes, mask = model.encode(batch.wave, batch.lengths), batch.frame_mask(model.hop)
            assert model.spectral_decoder is not None
            frames = model.spectral_decoder.frontend(batch.wave, mask=mask)
            melody = model.encode_pitch(batch.labels, batch.lengths)
            labels = {name: x for name, x in batch.labels.items() if name != PITCH}
            parts.append(cls(model.quantizer.decode(codes), frames, mask, melody, labels))
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence[CodedClips]) -> CodedClips:
        """Raises ValueError for none."""
        if not parts:
            raise ValueError("no clips")
        melodies = [part.pitch_codes for part in parts if part.pitch_codes is not None]
        return cls(
            torch.cat([part.z for part in parts]),
            torch.cat([part.frames for part in parts]),
            torch.cat([part.mask for part in parts]),
            torch.cat(melodies) if melodies else None,
            {name: torch.cat([part.labels[name] for part in parts]) for name in parts[0].labels},
        )

    def __len__(self) -> int:
        return len(self.z)

    def at(self, rows: Tensor) -> CodedClips:
        """Some of them."""
        codes = None if self.pitch_codes is None else self.pitch_codes[rows]
        labels = {name: value[rows] for name, value in self.labels.items()}
        return CodedClips(self.z[rows], self.frames[rows], self.mask[rows], codes, labels)

    def mixed(self, other: CodedClips) -> CodedClips:
        """Every second one from as many others."""
        both, n = CodedClips.joined([self, other]), len(self)
        return both.at(torch.arange(n) + n * (torch.arange(n) % 2))
