"""Speech as codes, and what a file says of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Sized:
    """What follows from the rate, the length and the alphabet."""

    sample_rate: int
    samples: int
    size: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def bits_per_code(self) -> int:
        return max(1, (self.size - 1).bit_length())


@dataclass(frozen=True)
class Coded(Sized):
    """Speech as codes (Q, F) int64, with all that decoding needs to know."""

    codes: Tensor
    sample_rate: int
    hop: int
    samples: int
    size: int
    fingerprint: str
    speaker: str | None = None

    @property
    def bit_rate(self) -> float:
        """Bits a second that the packed codes take."""
        return self.codes.numel() * self.bits_per_code / max(self.seconds, 1e-9)

    def as_speaker(self, speaker: str | None) -> Coded:
        return replace(self, speaker=speaker)


@dataclass(frozen=True)
class Header(Sized):
    """What a file says of its codes; `payload` is how many bytes they take in it, `check` the CRC-32 of the packed codes."""

    sample_rate: int
    hop: int
    samples: int
    size: int
    fingerprint: str
    books: int
    frames: int
    speaker: str | None = None
    prior: str | None = None
    check: int | None = None
    payload: int = 0

    @property
    def packed_bits(self) -> int:
        """Bits of the codes without a prior."""
        return self.books * self.frames * self.bits_per_code

    @property
    def bit_rate(self) -> float:
        """Bits a second that the codes take in the file."""
        return (self.packed_bits if self.prior is None else 8 * self.payload) / max(self.seconds, 1e-9)

    @classmethod
    def of(cls, coded: Coded) -> Header:
        facts = {name: value for name, value in vars(coded).items() if name != "codes"}
        return cls(**facts, books=coded.codes.shape[0], frames=coded.codes.shape[1])

    def with_codes(self, codes: Tensor) -> Coded:
        return Coded(codes, self.sample_rate, self.hop, self.samples, self.size, self.fingerprint, self.speaker)


class Coder(Protocol):
    """Codes <-> fewer bits: `prior.CodePrior`."""

    @property
    def fingerprint(self) -> str: ...

    def encode(self, coded: Coded) -> bytes: ...

    def decode(self, data: bytes, header: Header) -> Tensor: ...


def fingerprint(*modules: nn.Module, about: str = "") -> str:
    """16 hexadecimal digits that name the modules' weights: what one codec or prior has coded, only the same one reads."""
    digest = hashlib.sha256(about.encode())
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]


def pack(codes: Tensor, bits: int) -> bytes:
    """codes (Q, F) of `bits` bits each -> bytes, frame by frame. `unpack` is the inverse."""
    flat = codes.t().reshape(-1).cpu().numpy().astype(np.uint64)
    planes = (flat[:, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little").tobytes()


def unpack(data: bytes, books: int, frames: int, bits: int) -> Tensor:
    """bytes -> codes (Q, F) int64."""
    planes = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little", count=books * frames * bits)
    flat = (planes.reshape(-1, bits).astype(np.int64) << np.arange(bits)).sum(1)
    return torch.from_numpy(flat).view(frames, books).t().contiguous()
