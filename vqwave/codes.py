"""The `.vqw` file: speech as packed codes.

    magic b"VQW\\x01" | header length, uint32 | header, JSON | codes | CRC-32 of all before, uint32

Numbers are little-endian. The codes are packed, frame by frame, book by book, ceil(log2 K) bits each, lowest bit first; or they
are entropy-coded with a prior. The header says what is needed to check and to decode: sample rate, hop, samples, books,
size, frames, speaker, the fingerprint of the codec of the codes, and the prior's, if any, with a CRC-32 of the packed codes.
Own format, since the usual containers (npz, safetensors) neither pack bits nor name the codec.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from vqwave.errors import BadInput

MAGIC = b"VQW\x01"


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


def to_bytes(coded: Coded, coder: Coder | None = None) -> bytes:
    """A whole file: the codes packed, or entropy-coded by `coder`."""
    header = {k: v for k, v in asdict(coded).items() if k != "codes"}
    header["books"], header["frames"] = coded.codes.shape
    payload = packed = pack(coded.codes, coded.bits_per_code)
    if coder is not None:
        header |= {"prior": coder.fingerprint, "check": zlib.crc32(packed)}
        payload = coder.encode(coded)
    text = json.dumps(header).encode()
    body = MAGIC + struct.pack("<I", len(text)) + text + payload
    return body + struct.pack("<I", zlib.crc32(body))


def from_bytes(data: bytes, name: str, coder: Coder | None = None) -> Coded:
    """Raises BadInput, with `name` in its line, for anything but a whole `.vqw` file, or if it needs another `coder`."""
    header, payload = _parse(data, name)
    if header.prior is None:
        codes = unpack(payload, header.books, header.frames, header.bits_per_code)
    else:
        codes = _decoded(payload, header, name, coder)
    if codes.numel() and int(codes.max()) >= header.size:
        raise BadInput(f"{name}: holds code {int(codes.max())}, expected codes below {header.size}")
    return header.with_codes(codes)


def _parse(data: bytes, name: str) -> tuple[Header, bytes]:
    if data[:3] != MAGIC[:3]:
        raise BadInput(f"{name}: not a .vqw file")
    if data[:4] != MAGIC:
        raise BadInput(f"{name}: .vqw version {data[3] if len(data) > 3 else '?'}, expected {MAGIC[3]}")
    if len(data) < 12 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise BadInput(f"{name}: the checksum does not match: the file is truncated or damaged")
    try:
        (length,) = struct.unpack("<I", data[4:8])
        payload = data[8 + length : -4]
        header = Header(**json.loads(data[8 : 8 + length]), payload=len(payload))
        if header.books < 1 or header.frames < 0 or (header.prior is None and len(payload) != -(-header.packed_bits // 8)):
            raise ValueError(f"{header.books} x {header.frames} codes do not fit its {len(payload)} bytes of codes")
        if header.prior is not None and header.frames * header.hop >= header.samples + header.hop:
            raise ValueError(f"{header.frames} frames of {header.hop} do not fit {header.samples} samples")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{name}: its header cannot be read ({error})") from None
    return header, payload


def _decoded(payload: bytes, header: Header, name: str, coder: Coder | None) -> Tensor:
    if coder is None:
        raise BadInput(f"{name}: is entropy-coded with prior {header.prior}, expected that prior: --prior RUN")
    if coder.fingerprint != header.prior:
        raise BadInput(f"{name}: is entropy-coded with prior {header.prior}, found prior {coder.fingerprint}")
    codes = coder.decode(payload, header)
    if zlib.crc32(pack(codes, header.bits_per_code)) != header.check:
        raise BadInput(f"{name}: its codes do not match their checksum: this machine computes the prior's probabilities otherwise")
    return codes


def save_codes(coded: Coded, path: str | Path, coder: Coder | None = None) -> None:
    """Write a `.vqw` file, whole or not at all; `coder`, a prior, takes fewer bits, and is needed to read it again."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    data = to_bytes(coded, coder)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None


def load_codes(path: str | Path, coder: Coder | None = None) -> Coded:
    """Read a `.vqw` file. Raises BadInput for a missing, truncated, damaged or foreign file, or if it needs another prior."""
    return from_bytes(_read(path), str(path), coder)


def load_header(path: str | Path) -> Header:
    """What a `.vqw` file says of its codes; needs no prior."""
    return _parse(_read(path), str(path))[0]


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror.lower()}, expected a .vqw file") from None
