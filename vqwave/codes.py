"""The `.vqw` file: speech as packed codes.

    magic b"VQW\\x01" | header length, uint32 | header, JSON | codes, ceil(log2 K) bits each | CRC-32 of all before, uint32

Numbers are little-endian; codes are packed frame by frame, book by book, lowest bit first. The header says what is needed to
check and to decode: sample rate, hop, samples, books, size, frames, speaker, and the fingerprint of the codec of the codes.
Own format, since the usual containers (npz, safetensors) neither pack bits nor name the codec.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqwave.errors import BadInput

MAGIC = b"VQW\x01"


@dataclass(frozen=True)
class Coded:
    """Speech as codes (Q, F) int64, with all that decoding needs to know."""

    codes: Tensor
    sample_rate: int
    hop: int
    samples: int
    size: int
    fingerprint: str
    speaker: str | None = None

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def bits_per_code(self) -> int:
        return max(1, (self.size - 1).bit_length())

    @property
    def bit_rate(self) -> float:
        """Bits a second that the packed codes take."""
        return self.codes.numel() * self.bits_per_code / max(self.seconds, 1e-9)

    def as_speaker(self, speaker: str | None) -> Coded:
        return replace(self, speaker=speaker)


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


def to_bytes(coded: Coded) -> bytes:
    header = {k: v for k, v in asdict(coded).items() if k != "codes"}
    header["books"], header["frames"] = coded.codes.shape
    text = json.dumps(header).encode()
    body = MAGIC + struct.pack("<I", len(text)) + text + pack(coded.codes, coded.bits_per_code)
    return body + struct.pack("<I", zlib.crc32(body))


def from_bytes(data: bytes, name: str) -> Coded:
    """Raises BadInput, with `name` in its line, for anything but a whole `.vqw` file."""
    if data[:3] != MAGIC[:3]:
        raise BadInput(f"{name}: not a .vqw file")
    if data[:4] != MAGIC:
        raise BadInput(f"{name}: .vqw version {data[3] if len(data) > 3 else '?'}, expected {MAGIC[3]}")
    if len(data) < 12 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise BadInput(f"{name}: the checksum does not match: the file is truncated or damaged")
    try:
        (length,) = struct.unpack("<I", data[4:8])
        header = json.loads(data[8 : 8 + length])
        books, frames = header.pop("books"), header.pop("frames")
        coded = Coded(codes=torch.empty(0, dtype=torch.int64), **header)
        packed = data[8 + length : -4]
        if books < 1 or frames < 0 or len(packed) != -(-books * frames * coded.bits_per_code // 8):
            raise ValueError(f"{books} x {frames} codes do not fit its {len(packed)} bytes of codes")
        codes = unpack(packed, books, frames, coded.bits_per_code)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{name}: its header cannot be read ({error})") from None
    if codes.numel() and int(codes.max()) >= coded.size:
        raise BadInput(f"{name}: holds code {int(codes.max())}, expected codes below {coded.size}")
    return replace(coded, codes=codes)


def save_codes(coded: Coded, path: str | Path) -> None:
    """Write a `.vqw` file, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(to_bytes(coded))
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None


def load_codes(path: str | Path) -> Coded:
    """Read a `.vqw` file. Raises BadInput for a missing, truncated, damaged or foreign file."""
    try:
        return from_bytes(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror.lower()}, expected a .vqw file") from None
