"""Codes through a pipe: written block by block as they come, and read as they are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from vqwave import inputs
from vqwave.codes.file_format import (
    LONGEST_BLOCK,
    STREAMED,
    Source,
    facts,
    from_bytes,
    number,
    parts_of,
)
from vqwave.codes.pitch import CodeBlock, InStep
from vqwave.codes.types import Coder, Header
from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from torch import Tensor


class CodeReader:
    """Codes as they come through a pipe: first `header`, then, iterated over, blocks.

    At the end, `header.samples` is known. A pitch code comes in the block of the first frame that
    it covers. A complete file, of any version, comes as one block, once it is there. Raises
    UserInputError as `from_bytes` does.
    """

    def __init__(self, file: BinaryIO, name: str, coder: Coder | None = None) -> None:
        self.source = source = Source(file, name)
        self.block: CodeBlock | None = None
        version = source.version()
        header, flags = source.facts(version) if version > 1 else (None, 0)
        self.header: Header
        if header is not None and flags & STREAMED:
            source.check()
            self.header, source.seen = header, None
        else:
            coded = from_bytes(bytes(source.seen or b"") + file.read(), name, coder)
            self.header, self.block = Header.of(coded), coded.block

    def __iter__(self) -> Iterator[CodeBlock]:
        if self.block is not None:
            yield self.block
            return
        for part in parts_of(self.source, self.header):
            self.header = part.header
            if part.block.codes.shape[1]:
                yield part.block


class CodeWriter:
    """A streamed `.vqw`, written block by block as the codes come.

    Codes and pitch codes may come at their own pace: a frame is written once the pitch code that
    covers it is there.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        """header: its samples and frames are not yet known."""
        self.file, self.header, self.crc, self.frame = file, header, 0, 0
        books = 0 if header.pitch is None else header.pitch.books
        self.in_step = InStep(header.books, books, header.ratio)
        self._put(facts(header, streamed=True))

    def write(self, codes: Tensor, pitch: Tensor | None = None) -> None:
        """Further codes (Q, n), and further pitch codes (Q_p, m) where the header has them.

        Raises UserInputError for codes that the books do not have.
        """
        codes, melody = inputs.codes(codes, self.header.books, self.header.size), self.header.pitch
        if melody is None:
            self._block(CodeBlock(codes, pitch))
            return
        if pitch is not None:
            pitch = inputs.codes(pitch, melody.books, melody.size, "pitch codes")
        self._block(self.in_step.push(codes, pitch))

    def finish(self, samples: int) -> None:
        """The end: how many samples the codes stand for.

        Raises UserInputError if some codes still wait, or are not those of so many samples.
        """
        if waiting := self.in_step.left_over:
            wanted = f"expected a pitch code for {self.header.ratio} frames"
            raise UserInputError(f"{waiting} are left over, {wanted}")
        inputs.fits(samples, self.frame, self.header.hop)
        self._put(number(0) + number(samples))

    def _block(self, block: CodeBlock) -> None:
        for part in block.split(LONGEST_BLOCK):
            if count := part.codes.shape[1]:
                self._put(number(count) + self.header.pack(part))
                self.frame += count

    def _put(self, data: bytes) -> None:
        self.crc = zlib.crc32(data, self.crc)
        self.file.write(data + struct.pack("<I", self.crc))
        self.file.flush()
