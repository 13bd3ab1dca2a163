"""The `.vqw` file: speech as packed codes, complete or as a stream.

    complete: magic b"VQW\\x02" | facts | samples, frames [prior, check] | codes | CRC-32 of all
              before
    streamed: magic b"VQW\\x02" | facts | CRC-32 | (frames | codes | CRC-32) ... | 0 | samples |
              CRC-32

Numbers are little-endian: CRCs are uint32, the others variable-length (seven bits a byte, the
highest bit marks that more follow). The codes are packed, frame by frame, book by book, ceil(log2
K) bits each, lowest bit first; or they are entropy-coded with a prior. The facts: a byte of flags
(1 speaker, 2 prior, 4 streamed), sample rate, hop, size K, books, the fingerprint of the codec and
the speaker; where a prior is, its fingerprint and a CRC-32 of the packed codes. About 25 bytes,
since the codes of a word are no more than 50. In a stream every CRC is that of all before it, other
CRCs left out: each block can be trusted when it is there.

Version 3 is version 2 with pitch codes, and is written for these alone. Its facts go on with:
frames a pitch code, its size K_p, books, and mean and deviation of ln(F0 / 100 Hz) (float32). The
codes of a file, or of a block of a stream, are preceded by the pitch codes that begin within its
frames; how many follows from the frames. Both are packed as digits (`packing.py`): 1,024 codes are
one number in base K, lowest digit first, in as few bytes as it can need: one of 20 codes takes 4.33
bits, one of 512 takes 9.

Version 1, which is read but no longer written, had these facts as JSON: magic | its length, uint32
| JSON | codes | CRC-32. Own format, since the usual containers (npz, safetensors) neither pack bits
nor name the codec.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, BinaryIO, ClassVar, cast

from pydantic import ConfigDict, Field

from vqwave import parsing
from vqwave.codes.pitch import CodeBlock, PitchFormat
from vqwave.codes.types import Coder, CodeSequence, Header
from vqwave.errors import UserInputError

MAGIC = b"VQW\x02"
VERSION_3 = b"VQW\x03"  # with pitch codes
VERSION_1 = b"VQW\x01"
SPEAKER, PRIOR, STREAMED = 1, 2, 4  # flags
LONGEST_NAME = 1 << 16  # twice the bytes that a name may have
# bytes that are asked of a pipe at once: a forged length must not take memory that it does not fill
PIECE = 1 << 16
LONGEST_BLOCK = 1 << 20  # frames
MOST_RATIO, MOST_PITCH_CODES = 1 << 12, 1 << 16
MOST_BOOKS = 1 << 8
MOST_RATE, MOST_HOP = 1_000_000, 1 << 20
MOST_CODES = 1 << 32  # of a book
# frames that no byte of entropy-coded codes needs to have paid for, and those that a byte may pay
# for: a file of few bytes must not take hours
FREE_FRAMES, FRAMES_A_BYTE = 1 << 12, 1 << 10
TRUNCATED = "the checksum does not match: the file is truncated or damaged"


def to_bytes(coded: CodeSequence, coder: Coder | None = None) -> bytes:
    """A complete file: the codes packed, or entropy-coded by `coder`. Raises UserInputError."""
    coded = CodeSequence.checked(coded)
    header = Header.of(coded)
    packed = header.pack(coded.block)
    if coder is None:
        return seal(header, packed)
    return seal(
        replace(header, prior=coder.fingerprint, check=zlib.crc32(packed)), coder.encode(coded)
    )


def seal(header: Header, payload: bytes) -> bytes:
    """A complete file of these facts and these bytes of codes."""
    body = facts(header) + number(header.samples) + number(header.frames)
    if header.prior is not None:
        body += _text(header.prior) + struct.pack("<I", header.check)
    body += payload
    return body + struct.pack("<I", zlib.crc32(body))


def facts(header: Header, *, streamed: bool = False) -> bytes:
    """What a file begins with."""
    flags = (
        (SPEAKER if header.speaker is not None else 0)
        | (PRIOR if header.prior is not None else 0)
        | STREAMED * streamed
    )
    sizes = b"".join(map(number, (header.sample_rate, header.hop, header.size, header.books)))
    speaker = b"" if header.speaker is None else _text(header.speaker)
    named = bytes([flags]) + sizes + _text(header.fingerprint) + speaker
    if header.pitch is None:
        return MAGIC + named
    pitch = header.pitch
    numbers = b"".join(map(number, (header.ratio, pitch.size, pitch.books)))
    return VERSION_3 + named + numbers + struct.pack("<ff", pitch.mean, pitch.deviation)


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
    """Length and bytes; a name of hexadecimal digits takes half as many: its length is odd, 2 n + 1
    for n bytes.
    """
    if text and len(text) % 2 == 0 and set(text) <= set("0123456789abcdef"):
        return number(len(text) + 1) + bytes.fromhex(text)
    data = text.encode()
    return number(2 * len(data)) + data


class Source:
    """Bytes that are read one after another, from memory or from a pipe; `crc` is that of all so
    far, without the checks.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.crc = file, name, 0
        # all that was read, for those who must go back to it
        self.seen: bytearray | None = bytearray()

    def take(self, count: int) -> bytes:
        """Raises UserInputError where there are fewer."""
        data = bytearray()
        while len(data) < count and (more := self.file.read(min(count - len(data), PIECE))):
            data += more
        if self.seen is not None:
            self.seen += data
        if len(data) < count:
            raise UserInputError(
                f"{self.name}:"
                f" {TRUNCATED if self.seen is None or self.seen else 'empty, expected a .vqw file'}"
            )
        self.crc = zlib.crc32(data, self.crc)
        return bytes(data)

    def number(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise UserInputError(f"{self.name}: {TRUNCATED}")

    def text(self) -> str:
        length = self.number()
        if length > LONGEST_NAME:
            raise UserInputError(
                f"{self.name}: its header cannot be read (a name of {length} bytes)"
            )
        data = self.take(length // 2)
        try:
            return data.hex() if length % 2 else data.decode()
        except UnicodeDecodeError as error:
            raise UserInputError(f"{self.name}: its header cannot be read ({error})") from None

    def check(self) -> None:
        """Raises UserInputError unless the next four bytes are the CRC of all before."""
        expected = self.crc
        if struct.unpack("<I", self.take(4))[0] != expected:
            raise UserInputError(f"{self.name}: {TRUNCATED}")
        self.crc = expected

    def refuse_more(self) -> None:
        """Raises UserInputError unless this is the end of the file."""
        if self.file.read(1):
            raise UserInputError(
                f"{self.name}: more follows after its end, expected one stream of codes"
            )

    def version(self) -> int:
        """Raises UserInputError for another file or version."""
        magic = self.take(4)
        if magic[:3] != MAGIC[:3]:
            raise UserInputError(f"{self.name}: not a .vqw file")
        if magic not in (VERSION_1, MAGIC, VERSION_3):
            wanted = f"expected {VERSION_1[3]} to {VERSION_3[3]}"
            raise UserInputError(f"{self.name}: .vqw version {magic[3]}, {wanted}")
        return magic[3]

    def facts(self, version: int) -> tuple[Header, int]:
        """What `facts` writes after the version: a header whose samples and frames are not yet
        known, and the flags.
        """
        (flags,) = self.take(1)
        if flags > SPEAKER | PRIOR | STREAMED:
            raise UserInputError(f"{self.name}: {TRUNCATED}")
        rate, hop, size, books = (self.number() for _ in range(4))
        codec = self.text()
        speaker = self.text() if flags & SPEAKER else None
        header = _bounded(Header(rate, hop, 0, size, codec, books, 0, speaker), self.name)
        if version != VERSION_3[3]:
            return header, flags
        return replace(header, pitch=self.pitch(hop)), flags

    def pitch(self, hop: int) -> PitchFormat:
        """What is said of pitch codes, for frames of `hop` samples. Raises UserInputError."""
        ratio, size, books = (self.number() for _ in range(3))
        mean, deviation = struct.unpack("<ff", self.take(8))
        fits = (
            1 <= ratio <= MOST_RATIO and 1 <= size <= MOST_PITCH_CODES and 1 <= books <= MOST_BOOKS
        )
        try:
            if not fits:
                raise UserInputError(f"{books} books of {size} pitch codes, one for {ratio} frames")
            return PitchFormat(ratio * hop, size, books, mean, deviation)
        except UserInputError as error:
            raise UserInputError(f"{self.name}: its header cannot be read ({error})") from None


def from_bytes(data: bytes, name: str, coder: Coder | None = None) -> CodeSequence:
    """Raises UserInputError, with `name` in its line, for anything but a complete `.vqw` file, or
    if it needs another `coder`.
    """
    header, payload = _parse(data, name)
    if isinstance(payload, CodeBlock):
        block = payload
    elif header.prior is None:
        block = unpacked(payload, header, name, header.frames)
    else:
        block = _decoded(payload, header, name, coder)
    return header.with_codes(block.codes, block.pitch)


def unpacked(data: bytes, header: Header, name: str, frames: int) -> CodeBlock:
    """The last `frames` of the header's frames.

    Raises UserInputError for codes that no book has.
    """
    try:
        return header.unpack(data, frames, header.frames - frames)
    except UserInputError as error:
        raise UserInputError(f"{name}: {error}") from None


def _parse(data: bytes, name: str) -> tuple[Header, bytes | CodeBlock]:
    """The header and the bytes of the codes; of a streamed file, the codes."""
    source = Source(io.BytesIO(data), name)
    version = source.version()
    if version > 1 and len(data) > 4 and data[4] & STREAMED:
        return _parse_stream(source, version)
    if len(data) < 12 or struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise UserInputError(f"{name}: {TRUNCATED}")
    if version == 1:
        return _parse_version_1(data, name)
    header, flags = source.facts(version)
    header = replace(header, samples=source.number(), frames=source.number())
    if flags & PRIOR:
        header = replace(header, prior=source.text(), check=struct.unpack("<I", source.take(4))[0])
    assert source.seen is not None  # of a file, whose digest is at its end
    payload = data[len(source.seen) : -4]
    return _fitting(replace(header, payload=len(payload)), name), payload


def _bounded(header: Header, name: str) -> Header:
    """Raises UserInputError for a rate, a frame or books that no codec has."""
    fits = 1 <= header.sample_rate <= MOST_RATE and 1 <= header.hop <= MOST_HOP
    if fits and 1 <= header.size <= MOST_CODES and 1 <= header.books <= MOST_BOOKS:
        return header
    raise UserInputError(f"{name}: its header cannot be read ({header.sizes})")


def _fitting(header: Header, name: str) -> Header:
    """Raises UserInputError for a header that does not fit its codes."""
    most = FREE_FRAMES + FRAMES_A_BYTE * header.payload
    if header.prior is None and header.payload != header.packed_bytes(header.frames):
        problem = (
            f"{header.books} x {header.frames} codes do not fit its {header.payload} bytes of codes"
        )
    elif header.samples < 0 or not 0 <= header.frames * header.hop - header.samples < header.hop:
        problem = f"{header.frames} frames of {header.hop} do not fit {header.samples} samples"
    elif header.prior is not None and header.frames > most:
        problem = f"{header.frames} frames in {header.payload} bytes, expected at most {most}"
    else:
        return _bounded(header, name)
    raise UserInputError(f"{name}: its header cannot be read ({problem})")


@dataclass(frozen=True)
class Version1:
    """The facts of version 1."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sample_rate: Annotated[parsing.Count, Field(ge=1)]
    hop: Annotated[parsing.Count, Field(ge=1)]
    samples: parsing.Count
    size: Annotated[parsing.Count, Field(ge=1)]
    fingerprint: str
    books: Annotated[parsing.Count, Field(ge=1)]
    frames: parsing.Count
    speaker: str | None = None
    prior: str | None = None
    check: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None


def _parse_version_1(data: bytes, name: str) -> tuple[Header, bytes]:
    (length,) = struct.unpack("<I", data[4:8])
    if length > min(len(data) - 12, LONGEST_NAME):
        raise UserInputError(f"{name}: its header cannot be read ({length} bytes)")
    payload, where = data[8 + length : -4], f"{name}: its header cannot be read"
    tree = parsing.parse_json(parsing.decoded(data[8 : 8 + length], where), where)
    given = parsing.checked(Version1, tree, where)
    if (given.prior is None) != (given.check is None):
        raise UserInputError(f"{where} (a prior and its check belong together)")
    return _fitting(Header(**vars(given), payload=len(payload)), name), payload


def _parse_stream(source: Source, version: int) -> tuple[Header, CodeBlock]:
    import torch

    header, _ = source.facts(version)
    source.check()
    parts: list[CodeBlock] = []
    for part in parts_of(source, header):
        parts.append(part.block)
        header = part.header
    source.refuse_more()
    pitch = (
        None
        if header.pitch is None
        else torch.cat([cast("torch.Tensor", block.pitch) for block in parts], 1)
    )
    return header, CodeBlock(torch.cat([block.codes for block in parts], 1), pitch, 0, header.ratio)


@dataclass(frozen=True)
class Part:
    """A block of a stream, and its header so far; the last has no codes, and the samples."""

    block: CodeBlock
    header: Header


def parts_of(source: Source, header: Header) -> Iterator[Part]:
    """What follows the facts of a stream. Raises UserInputError."""
    while count := source.number():
        if count > LONGEST_BLOCK:
            raise UserInputError(
                f"{source.name}: a block of {count} frames, expected at most {LONGEST_BLOCK}"
            )
        payload = header.packed_bytes(count, header.frames)
        data = source.take(payload)
        source.check()
        header = replace(header, frames=header.frames + count, payload=header.payload + payload)
        yield Part(unpacked(data, header, source.name, count), header)
    samples = source.number()
    source.check()
    if (
        samples + header.frames
        and not (header.frames - 1) * header.hop < samples <= header.frames * header.hop
    ):
        raise UserInputError(
            f"{source.name}: {samples} samples do not fit {header.frames} frames of {header.hop}"
        )
    yield Part(header.unpack(b"", 0, header.frames), replace(header, samples=samples))


def header_of(data: bytes, name: str) -> Header:
    """The header of a file, which needs no prior."""
    return _parse(data, name)[0]


def _decoded(payload: bytes, header: Header, name: str, coder: Coder | None) -> CodeBlock:
    if coder is None:
        raise UserInputError(
            f"{name}: is entropy-coded with prior {header.prior}, expected that prior: --prior RUN"
        )
    if coder.fingerprint != header.prior:
        raise UserInputError(
            f"{name}: is entropy-coded with prior {header.prior}, found prior {coder.fingerprint}"
        )
    try:
        block = coder.decode(payload, header)
    except UserInputError as error:
        raise UserInputError(f"{name}: {error}") from None
    try:
        header.check_codes(block)
        same = zlib.crc32(header.pack(block)) == header.check
    except UserInputError:  # symbols that are no codes: the decoder has lost its way
        same = False
    if not same:
        raise UserInputError(
            f"{name}: its codes do not match their checksum: this machine computes the prior's"
            " probabilities otherwise"
        )
    return block
