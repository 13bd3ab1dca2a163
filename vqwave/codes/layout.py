"""The `.vqw` file: speech as packed codes, whole or as a stream.

    magic b"VQW\\x02" | facts | samples, frames [prior, check] | codes | CRC-32 of all before              whole
    magic b"VQW\\x02" | facts | CRC-32 | (frames | codes | CRC-32) ... | 0 | samples | CRC-32              streamed

Numbers are little-endian: CRCs are uint32, the others variable-length (seven bits a byte, the highest bit says that more follow).
The codes are packed, frame by frame, book by book, ceil(log2 K) bits each, lowest bit first; or they are entropy-coded with a
prior. The facts: a byte of flags (1 speaker, 2 prior, 4 streamed), sample rate, hop, size K, books, the fingerprint of the codec
and the speaker; where a prior is, its fingerprint and a CRC-32 of the packed codes. About 25 bytes, since the codes of a word are
no more than 50. In a stream every CRC is that of all before it, other CRCs left out: each block can be trusted when it is there.

Version 1, which is read but no longer written, had these facts as JSON: magic | its length, uint32 | JSON | codes | CRC-32.
Own format, since the usual containers (npz, safetensors) neither pack bits nor name the codec.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

import torch
from torch import Tensor

from vqwave.codes.coded import Coded, Coder, Header, pack, unpack
from vqwave.errors import BadInput

MAGIC = b"VQW\x02"
VERSION_1 = b"VQW\x01"
SPEAKER, PRIOR, STREAMED = 1, 2, 4  # flags
LONGEST_NAME = 1 << 16  # twice the bytes that a name may have
PIECE = 1 << 16  # bytes that are asked of a pipe at once: a forged length must not take memory that it does not fill
LONGEST_BLOCK = 1 << 20  # frames
TRUNCATED = "the checksum does not match: the file is truncated or damaged"


def to_bytes(coded: Coded, coder: Coder | None = None) -> bytes:
    """A whole file: the codes packed, or entropy-coded by `coder`."""
    header, packed = Header.of(coded), pack(coded.codes, coded.bits_per_code)
    if coder is None:
        return seal(header, packed)
    return seal(replace(header, prior=coder.fingerprint, check=zlib.crc32(packed)), coder.encode(coded))


def seal(header: Header, payload: bytes) -> bytes:
    """A whole file of these facts and these bytes of codes."""
    body = facts(header) + number(header.samples) + number(header.frames)
    if header.prior is not None:
        body += _text(header.prior) + struct.pack("<I", header.check)
    body += payload
    return body + struct.pack("<I", zlib.crc32(body))


def facts(header: Header, *, streamed: bool = False) -> bytes:
    """What a file begins with."""
    flags = (SPEAKER if header.speaker is not None else 0) | (PRIOR if header.prior is not None else 0) | STREAMED * streamed
    sizes = b"".join(map(number, (header.sample_rate, header.hop, header.size, header.books)))
    speaker = b"" if header.speaker is None else _text(header.speaker)
    return MAGIC + bytes([flags]) + sizes + _text(header.fingerprint) + speaker


def number(value: int) -> bytes:
    """A whole number, not negative, seven bits a byte, the lowest first.

    >>> number(5), number(300)
    (b'\\x05', b'\\xac\\x02')
    """
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def _text(text: str) -> bytes:
    """Length and bytes; a name of hexadecimal digits takes half as many: its length is odd, 2 n + 1 for n bytes."""
    if text and len(text) % 2 == 0 and set(text) <= set("0123456789abcdef"):
        return number(len(text) + 1) + bytes.fromhex(text)
    data = text.encode()
    return number(2 * len(data)) + data


class Source:
    """Bytes that are read one after another, from memory or from a pipe; `crc` is that of all so far, without the checks."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.crc = file, name, 0
        self.seen: bytearray | None = bytearray()  # all that was read, for those who must go back to it

    def take(self, count: int) -> bytes:
        """Raises BadInput where there are fewer."""
        data = bytearray()
        while len(data) < count and (more := self.file.read(min(count - len(data), PIECE))):
            data += more
        if self.seen is not None:
            self.seen += data
        if len(data) < count:
            raise BadInput(f"{self.name}: {TRUNCATED if self.seen is None or self.seen else 'empty, expected a .vqw file'}")
        self.crc = zlib.crc32(data, self.crc)
        return bytes(data)

    def number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise BadInput(f"{self.name}: {TRUNCATED}")

    def text(self) -> str:
        length = self.number()
        if length > LONGEST_NAME:
            raise BadInput(f"{self.name}: its header cannot be read (a name of {length} bytes)")
        data = self.take(length // 2)
        try:
            return data.hex() if length % 2 else data.decode()
        except UnicodeDecodeError as error:
            raise BadInput(f"{self.name}: its header cannot be read ({error})") from None

    def check(self) -> None:
        """Raises BadInput unless the next four bytes are the CRC of all before."""
        expected = self.crc
        if struct.unpack("<I", self.take(4))[0] != expected:
            raise BadInput(f"{self.name}: {TRUNCATED}")
        self.crc = expected

    def version(self) -> int:
        """Raises BadInput for another file or version."""
        magic = self.take(4)
        if magic[:3] != MAGIC[:3]:
            raise BadInput(f"{self.name}: not a .vqw file")
        if magic not in (MAGIC, VERSION_1):
            raise BadInput(f"{self.name}: .vqw version {magic[3]}, expected {VERSION_1[3]} or {MAGIC[3]}")
        return magic[3]

    def facts(self) -> tuple[Header, int]:
        """What `facts` writes after the version: a header whose samples and frames are not yet known, and the flags."""
        (flags,) = self.take(1)
        if flags > SPEAKER | PRIOR | STREAMED:
            raise BadInput(f"{self.name}: {TRUNCATED}")
        rate, hop, size, books = (self.number() for _ in range(4))
        codec = self.text()
        speaker = self.text() if flags & SPEAKER else None
        if min(rate, hop, size, books) < 1:
            raise BadInput(f"{self.name}: its header cannot be read ({books} books of {size} codes, hop {hop} at {rate} Hz)")
        return Header(rate, hop, 0, size, codec, books, 0, speaker), flags


def from_bytes(data: bytes, name: str, coder: Coder | None = None) -> Coded:
    """Raises BadInput, with `name` in its line, for anything but a whole `.vqw` file, or if it needs another `coder`."""
    header, payload = _parse(data, name)
    if isinstance(payload, Tensor):
        codes = payload
    elif header.prior is None:
        codes = unpack(payload, header.books, header.frames, header.bits_per_code)
    else:
        codes = _decoded(payload, header, name, coder)
    return header.with_codes(checked(codes, header, name))


def checked(codes: Tensor, header: Header, name: str) -> Tensor:
    """Raises BadInput for codes that the codebook does not have."""
    if codes.numel() and int(codes.max()) >= header.size:
        raise BadInput(f"{name}: holds code {int(codes.max())}, expected codes below {header.size}")
    return codes


def _parse(data: bytes, name: str) -> tuple[Header, bytes | Tensor]:
    """The header and the bytes of the codes; of a streamed file, the codes."""
    source = Source(io.BytesIO(data), name)
    version = source.version()
    if version > 1 and len(data) > 4 and data[4] & STREAMED:
        return _parse_stream(source)
    if len(data) < 12 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise BadInput(f"{name}: {TRUNCATED}")
    if version == 1:
        return _parse_version_1(data, name)
    header, flags = source.facts()
    header = replace(header, samples=source.number(), frames=source.number())
    if flags & PRIOR:
        header = replace(header, prior=source.text(), check=struct.unpack("<I", source.take(4))[0])
    payload = data[len(source.seen) : -4]
    return _fitting(replace(header, payload=len(payload)), name), payload


def _fitting(header: Header, name: str) -> Header:
    """Raises BadInput for a header that does not fit its codes."""
    if header.prior is None and header.payload != -(-header.packed_bits // 8):
        found = f"{header.books} x {header.frames} codes do not fit its {header.payload} bytes of codes"
    elif header.prior is not None and not 0 <= header.frames * header.hop - header.samples < header.hop:
        found = f"{header.frames} frames of {header.hop} do not fit {header.samples} samples"
    elif header.books < 1 or header.frames < 0:
        found = f"{header.books} x {header.frames} codes"
    else:
        return header
    raise BadInput(f"{name}: its header cannot be read ({found})")


def _parse_version_1(data: bytes, name: str) -> tuple[Header, bytes]:
    try:
        (length,) = struct.unpack("<I", data[4:8])
        payload = data[8 + length : -4]
        return _fitting(Header(**json.loads(data[8 : 8 + length]), payload=len(payload)), name), payload
    except BadInput:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{name}: its header cannot be read ({error})") from None


def _parse_stream(source: Source) -> tuple[Header, Tensor]:
    header, _ = source.facts()
    source.check()
    parts = [torch.zeros(header.books, 0, dtype=torch.int64)]
    for block in blocks(source, header):
        parts.append(block.codes)
        header = block.header
    if source.file.read(1):
        raise BadInput(f"{source.name}: more follows after its end, expected one stream of codes")
    return header, torch.cat(parts, 1)


@dataclass(frozen=True)
class Block:
    """Codes (Q, n) of a stream, and its header as far as it is known; the last one has none, and the number of samples."""

    codes: Tensor
    header: Header


def blocks(source: Source, header: Header) -> Iterator[Block]:
    """What follows the facts of a stream. Raises BadInput."""
    while count := source.number():
        if count > LONGEST_BLOCK:
            raise BadInput(f"{source.name}: a block of {count} frames, expected at most {LONGEST_BLOCK}")
        payload = -(-header.books * count * header.bits_per_code // 8)
        codes = unpack(source.take(payload), header.books, count, header.bits_per_code)
        source.check()
        header = replace(header, frames=header.frames + count, payload=header.payload + payload)
        yield Block(checked(codes, header, source.name), header)
    samples = source.number()
    source.check()
    if samples + header.frames and not (header.frames - 1) * header.hop < samples <= header.frames * header.hop:
        raise BadInput(f"{source.name}: {samples} samples do not fit {header.frames} frames of {header.hop}")
    yield Block(torch.zeros(header.books, 0, dtype=torch.int64), replace(header, samples=samples))


def header_of(data: bytes, name: str) -> Header:
    """What a file says of its codes; needs no prior."""
    return _parse(data, name)[0]


def _decoded(payload: bytes, header: Header, name: str, coder: Coder | None) -> Tensor:
    if coder is None:
        raise BadInput(f"{name}: is entropy-coded with prior {header.prior}, expected that prior: --prior RUN")
    if coder.fingerprint != header.prior:
        raise BadInput(f"{name}: is entropy-coded with prior {header.prior}, found prior {coder.fingerprint}")
    codes = coder.decode(payload, header)
    if zlib.crc32(pack(codes, header.bits_per_code)) != header.check:
        raise BadInput(f"{name}: its codes do not match their checksum: this machine computes the prior's probabilities otherwise")
    return codes
