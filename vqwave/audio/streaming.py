"""Sound as it comes: WAV and raw samples through pipes, and a resampler that goes on from chunk to
chunk.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from vqwave.audio import Downmix, check_format, read, to_int16
from vqwave.errors import UserInputError

Wave = NDArray[np.float32]
PIECE = 0.01  # seconds that are resampled at once
HELD = 1 << 16  # samples of a file that are read at once
UNKNOWN = 0xFFFFFFFF  # length of what is still to come
HEADER = 44  # bytes before the samples of what is written
INTEGER, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # kinds of samples


@dataclass(frozen=True)
class Recording:
    """A sound file that is read piece by piece."""

    path: Path
    sample_rate: int
    seconds: float

    @classmethod
    def open(cls, path: str | Path) -> Recording:
        """Raises UserInputError for what `audio.read` refuses, but for what lies beyond its first
        sample.
        """
        _, rate = read(path, 0, 1)
        return cls(Path(path), rate, soundfile.info(str(path)).frames / rate)

    def pieces(self) -> Iterator[Wave]:
        """Samples (n,), a few seconds at a time, channels averaged.

        Raises UserInputError for NaN, for a truncated file and, at the end, for channels that
        cancel.
        """
        mix = Downmix()
        try:
            yield from self._blocks(mix)
        except (soundfile.SoundFileError, RuntimeError) as error:
            reason = str(error).strip().rstrip(".")
            raise UserInputError(f"{self.path}: not readable as sound ({reason})") from None
        try:
            mix.check()
        except UserInputError as error:
            raise UserInputError(f"{self.path}: {error}") from None

    def _blocks(self, mix: Downmix) -> Iterator[Wave]:
        with soundfile.SoundFile(self.path) as file:
            count = 0
            # not `blocks`, which repeats the last one where a file ends early
            while len(block := file.read(HELD, dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    raise UserInputError(f"{self.path}: samples are NaN or infinite")
                count += len(block)
                yield mix.push(block)
            if count < file.frames:
                raise UserInputError(
                    f"{self.path}: truncated, {count} of {file.frames} samples could be read"
                )


class Resampler:
    """Samples at one rate -> at another, chunk by chunk, whatever the chunks."""

    def __init__(self, source: int, target: int) -> None:
        """Hz. Raises UserInputError for rates that are not above zero."""
        if min(source, target) <= 0:
            raise UserInputError(
                f"cannot resample from {source} Hz to {target} Hz: rates must be above zero"
            )
        self.source, self.target = source, target
        step = source // math.gcd(source, target)
        self.piece = max(1, round(PIECE * source / step)) * step
        self.pending = np.zeros(0, np.float32)
        self.samples_in = self.samples_out = 0
        self.soxr = soxr.ResampleStream(source, target, 1, "float32", quality="HQ")

    @property
    def latency(self) -> float:
        """Seconds; soxr does not report its own: about a hundredth of a second more."""
        return 0.0 if self.source == self.target else self.piece / self.source

    def push(self, wave: Wave) -> Wave:
        """(n,), any n -> (m,)."""
        if self.source == self.target:
            return wave
        self.samples_in += len(wave)
        self.pending, parts = np.concatenate([self.pending, wave]), [wave[:0]]
        while len(self.pending) >= self.piece:
            parts.append(self._next(self.piece, last=False))
        self.samples_out += sum(map(len, parts))
        return np.concatenate(parts)

    def flush(self) -> Wave:
        """What is left: round(T target / source) samples in all."""
        if self.source == self.target:
            return np.zeros(0, np.float32)
        parts = []
        while len(self.pending) > self.piece:
            parts.append(self._next(self.piece, last=False))
        parts.append(self._next(len(self.pending), last=True))
        rest, wanted = (
            np.concatenate(parts),
            round(self.samples_in * self.target / self.source) - self.samples_out,
        )
        return np.pad(rest[: max(wanted, 0)], (0, max(wanted - len(rest), 0))).astype(
            np.float32, copy=False
        )

    def _next(self, count: int, *, last: bool) -> Wave:
        piece, self.pending = self.pending[:count], self.pending[count:]
        return self.soxr.resample_chunk(np.ascontiguousarray(piece), last=last)


class WavReader:
    """A WAV as it comes through a pipe: `sample_rate`, then, iterated over, samples (n,) in [-1,
    1], channels averaged.

    16, 24 or 32 bits, or float. A header whose length is not known yet (0, or the largest) is read
    to the end of the pipe. Raises UserInputError for what is no WAV, for one that ends before its
    length, and for channels that cancel each other in the first second or in all.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name, self.mix = file, name, Downmix()
        head = self._take(12, f"{name}: empty, expected a WAV")
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            raise UserInputError(
                f"{name}: not a WAV, expected one (through a pipe no other kind of sound can be"
                " read)"
            )
        self.kind = 0
        while (chunk := self._take(8, f"{name}: truncated before its samples"))[:4] != b"data":
            length = struct.unpack("<I", chunk[4:])[0]
            length += length % 2
            if chunk[:4] == b"fmt ":
                content = self._take(min(length, HELD), f"{name}: truncated before its samples")
                self._format(content)
                length -= len(content)
            while length:  # a picture or a list, of any length
                part = self._take(min(length, HELD), f"{name}: truncated before its samples")
                length -= len(part)
        if not self.kind:
            raise UserInputError(f"{name}: its samples come before their format, expected a WAV")
        length = struct.unpack("<I", chunk[4:])[0]
        self.left = None if length == 0 or length >= 0x7FFFF000 else length

    def _format(self, content: bytes) -> None:
        if len(content) < 16:
            raise UserInputError(f"{self.name}: a format of {len(content)} bytes, expected a WAV")
        self.kind, self.channels, self.sample_rate, _, _, self.bits = struct.unpack(
            "<HHIIHH", content[:16]
        )
        if self.kind == EXTENSIBLE and len(content) >= 26:
            (self.kind,) = struct.unpack("<H", content[24:26])
        if (self.kind, self.bits) not in (
            (INTEGER, 16),
            (INTEGER, 24),
            (INTEGER, 32),
            (FLOAT, 32),
        ) or self.channels < 1:
            given = f"{self.channels} channels of {self.bits} bits, kind {self.kind}"
            wanted = "16, 24 or 32 bits, or float of 32 bits"
            raise UserInputError(f"{self.name}: {given}, expected {wanted}")
        check_format(self.sample_rate, self.channels, self.name)

    def __iter__(self) -> Iterator[Wave]:
        """About a fiftieth of a second at a time."""
        width = self.channels * self.bits // 8
        piece = max(1, self.sample_rate // 50) * width
        while self.left is None or self.left > 0:
            wanted = piece if self.left is None else min(piece, self.left)
            data = self._read(wanted)
            if self.left is not None:
                self.left -= len(data)
                if len(data) < wanted:
                    raise UserInputError(
                        f"{self.name}: truncated, {self.left} bytes of samples are missing"
                    )
            data = data[: len(data) // width * width]
            if data:
                before, wave = self.mix.count, self._samples(data)
                if before < self.sample_rate <= self.mix.count:
                    self._refuse_cancelled()
                yield wave
            if len(data) < wanted:
                break
        self._refuse_cancelled()

    def _refuse_cancelled(self) -> None:
        try:
            self.mix.check()
        except UserInputError as error:
            raise UserInputError(f"{self.name}: {error}") from None

    def _samples(self, data: bytes) -> Wave:
        if self.kind == FLOAT:
            flat = np.frombuffer(data, "<f4")
        elif self.bits == 24:
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            flat = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
        else:
            flat = np.frombuffer(data, f"<i{self.bits // 8}").astype(np.float32) / np.float32(
                2 ** (self.bits - 1)
            )
        return self.mix.push(flat.astype(np.float32).reshape(-1, self.channels))

    def _take(self, count: int, otherwise: str) -> bytes:
        data = self._read(count)
        if len(data) < count:
            raise UserInputError(
                otherwise if not data else f"{self.name}: truncated before its samples"
            )
        return data

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count and (more := self.file.read(count - len(data))):
            data += more
        return bytes(data)


class WavWriter:
    """16-bit samples as they come, after a WAV header whose length marks it as not known until the
    end; or `raw`, without.
    """

    def __init__(self, file: BinaryIO, sample_rate: int, *, raw: bool = False) -> None:
        self.file, self.count = file, 0
        self.start = file.tell() if not raw and file.seekable() else None
        if not raw:
            facts = struct.pack("<HHIIHH", INTEGER, 1, sample_rate, 2 * sample_rate, 2, 16)
            file.write(
                b"RIFF" + struct.pack("<I", UNKNOWN) + b"WAVEfmt " + struct.pack("<I", 16) + facts
            )
            file.write(b"data" + struct.pack("<I", UNKNOWN))
            file.flush()

    def write(self, wave: Wave) -> None:
        """(n,) in [-1, 1]; what lies outside is clipped."""
        if len(wave):
            self.count += self.file.write(to_int16(wave).astype("<i2").tobytes())
            self.file.flush()

    def finish(self) -> None:
        """The lengths, where the header can still be reached, as in a file that nobody else writes
        to meanwhile.
        """
        if self.start is not None:
            end = self.start + HEADER + self.count
            if self.file.tell() == end:
                for place, length in ((4, HEADER - 8 + self.count), (HEADER - 4, self.count)):
                    self.file.seek(self.start + place)
                    self.file.write(struct.pack("<I", length))
                self.file.seek(end)
