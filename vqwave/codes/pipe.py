"""Codes through a pipe: written block by block as they come, and read as they are there."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from torch import Tensor

from vqwave.codes.coded import Coder, Header, pack
from vqwave.codes.layout import STREAMED, Source, blocks, facts, from_bytes, number


class CodeReader:
    """Codes as they come through a pipe: first `header`, then, iterated over, blocks (Q, n); last, `header.samples` is known.

    A whole file, of either version, comes as one block, once it is there. Raises BadInput as `from_bytes` does.
    """

    def __init__(self, file: BinaryIO, name: str, coder: Coder | None = None) -> None:
        self.source = source = Source(file, name)
        self.whole: Tensor | None = None
        header, flags = source.facts() if source.version() > 1 else (None, 0)
        if flags & STREAMED:
            source.check()
            self.header, source.seen = header, None
        else:
            coded = from_bytes(bytes(source.seen) + file.read(), name, coder)
            self.header, self.whole = Header.of(coded), coded.codes

    def __iter__(self) -> Iterator[Tensor]:
        if self.whole is not None:
            yield self.whole
            return
        for block in blocks(self.source, self.header):
            self.header = block.header
            if block.codes.shape[1]:
                yield block.codes


class CodeWriter:
    """A streamed `.vqw`, written block by block as the codes come."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        """header: its samples and frames are not yet known."""
        self.file, self.header, self.crc = file, header, 0
        self._put(facts(header, streamed=True))

    def write(self, codes: Tensor) -> None:
        """Codes (Q, n)."""
        if codes.shape[1]:
            self._put(number(codes.shape[1]) + pack(codes, self.header.bits_per_code))

    def finish(self, samples: int) -> None:
        """The end: how many samples the codes stand for."""
        self._put(number(0) + number(samples))

    def _put(self, data: bytes) -> None:
        self.crc = zlib.crc32(data, self.crc)
        self.file.write(data + struct.pack("<I", self.crc))
        self.file.flush()
