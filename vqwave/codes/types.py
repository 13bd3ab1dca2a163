"""Speech as codes, and the header of a file of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from vqwave import inputs
from vqwave.codes.packing import digit_bits, digit_bytes, pack, pack_digits, unpack, unpack_digits
from vqwave.codes.pitch import CodeBlock, PitchCodes, PitchFormat, pitch_due
from vqwave.config.renamed import old_parameter
from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Sized:
    """What follows from rate, length and codebooks, of codes and of the header of a file.

    sample_rate: Hz; samples: of the waveform; size: codes of a codebook; hop: samples a frame;
    books: codebooks, Q.
    """

    sample_rate: int
    samples: int
    size: int
    hop: int
    books: int

    @property
    def sizes(self) -> str:
        """What a codec and its codes must have in common, as an error prints it."""
        return f"{self.books} books of {self.size} codes, hop {self.hop} at {self.sample_rate} Hz"

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def bits_per_code(self) -> int:
        return max(1, (self.size - 1).bit_length())


@dataclass(frozen=True)
class CodeSequence(Sized):
    """Speech as codes (Q, F) int64, with all that decoding needs to know.

    sample_rate: Hz; hop: samples a frame; samples: of the waveform; size: codes of a codebook;
    fingerprint: of the codec; pitch: pitch codes of a codec with melody.

    Raises UserInputError unless the pitch codes cover the frames.
    """

    codes: Tensor
    sample_rate: int
    hop: int
    samples: int
    size: int
    fingerprint: str
    speaker: str | None = None
    pitch: PitchCodes | None = None

    def __post_init__(self) -> None:
        if self.pitch is None:
            return
        frames, given = self.codes.shape[1], self.pitch.codes.shape[1]
        due = pitch_due(0, frames, self.ratio)
        if given != due:
            wanted = f"expected {due}: one for {self.ratio}"
            raise UserInputError(f"pitch codes: {given} for {frames} frames, {wanted}")

    @property
    def ratio(self) -> int:
        """Frames that a pitch code covers; 1 where there are none."""
        return 1 if self.pitch is None else self.pitch.format.ratio(self.hop)

    @property
    def block(self) -> CodeBlock:
        """All codes of both streams."""
        pitch = None if self.pitch is None else self.pitch.codes
        return CodeBlock(self.codes, pitch, 0, self.ratio)

    @property
    def bit_rate(self) -> float:
        """Bits a second that the packed codes take."""
        return Header.of(self).bit_rate

    @property
    def books(self) -> int:  # type: ignore[override]  # a field of what it shares with a header
        return self.codes.shape[0]

    def as_speaker(self, speaker: str | None) -> CodeSequence:
        return replace(self, speaker=speaker)

    @classmethod
    def checked(cls, coded: object) -> CodeSequence:
        """The same, its codes int64 on the CPU.

        Raises UserInputError for codes that contradict the other fields.
        """
        if not isinstance(coded, cls):
            given = type(coded).__name__
            raise UserInputError(f"codes: a {given}, expected a CodeSequence, as `encode` gives it")
        least = {"sample_rate": 1, "hop": 1, "size": 1, "samples": 0}
        sizes = {
            name: inputs.whole_number(getattr(coded, name), name, low)
            for name, low in least.items()
        }
        if not isinstance(coded.speaker, str | None):
            raise UserInputError(f"speaker: {coded.speaker!r}, expected a name")
        codes, pitch = inputs.codes(coded.codes, None, sizes["size"]), coded.pitch
        inputs.fits(sizes["samples"], codes.shape[1], sizes["hop"])
        if pitch is not None:
            melody = inputs.codes(pitch.codes, None, pitch.size, "pitch codes")
            pitch = replace(pitch, codes=melody)
        return replace(coded, codes=codes, pitch=pitch, **cast("dict[str, Any]", sizes))

    def cut(self, first: int, last: int) -> CodeSequence:
        """The frames [first, last).

        Raises UserInputError for others than there are, and where `first` is within a pitch code.
        """
        frames = self.codes.shape[1]
        if not 0 <= first <= last <= frames or first % self.ratio:
            start = f", the first a multiple of {self.ratio}" if self.ratio > 1 else ""
            raise UserInputError(
                f"frames {first} to {last}: expected frames from 0 to {frames}{start}"
            )
        pitch = self.pitch
        if pitch is not None:
            span = slice(first // self.ratio, -(-last // self.ratio))
            pitch = replace(pitch, codes=pitch.codes[:, span])
        samples = max(0, min(last * self.hop, self.samples) - first * self.hop)
        return replace(self, codes=self.codes[:, first:last], samples=samples, pitch=pitch)


def join(parts: Sequence[CodeSequence]) -> CodeSequence:
    """Codes one after another: the inverse of cutting at whole pitch codes.

    Raises UserInputError where parts are of different codecs or voices, or where one but the last
    ends within a frame or a pitch code.
    """
    import torch

    first, formats = parts[0], {replace(Header.of(part), frames=0, samples=0) for part in parts}
    if len(formats) > 1:
        different = "codes of different codecs, speakers or pitch statistics"
        raise UserInputError(f"{different}: expected the same, to be joined")
    for part in parts[:-1]:
        frames = part.codes.shape[1]
        if part.samples != frames * part.hop or frames % part.ratio:
            wanted = "expected whole frames and pitch codes"
            raise UserInputError(f"{frames} frames for {part.samples} samples: {wanted}")
    pitch = first.pitch
    if pitch is not None:
        melodies = [cast("PitchCodes", part.pitch).codes for part in parts]
        pitch = replace(pitch, codes=torch.cat(melodies, 1))
    codes = torch.cat([part.codes for part in parts], 1)
    samples = sum(part.samples for part in parts)
    return replace(first, codes=codes, samples=samples, pitch=pitch)


@dataclass(frozen=True)
class Header(Sized):
    """The header of a file of codes; `payload` is how many bytes they take in it, `check` the
    CRC-32 of the packed codes.
    """

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
    pitch: PitchFormat | None = None

    @property
    def ratio(self) -> int:
        """Frames that a pitch code covers; 1 where there are none."""
        return 1 if self.pitch is None else self.pitch.ratio(self.hop)

    @property
    def packed_bits(self) -> int:
        """Bits of the codes without a prior: whole bits each, or digits where there is pitch."""
        if self.pitch is None:
            return self.books * self.frames * self.bits_per_code
        return digit_bits(self.books * self.frames, self.size) + self.pitch_bits

    @property
    def pitch_bits(self) -> int:
        """Of these, the bits of the pitch codes."""
        if self.pitch is None:
            return 0
        return digit_bits(self._pitch_count(0, self.frames), self.pitch.size)

    @property
    def bit_rate(self) -> float:
        """Bits a second that the codes take in the file."""
        return (self.packed_bits if self.prior is None else 8 * self.payload) / max(
            self.seconds, 1e-9
        )

    @classmethod
    def of(cls, coded: CodeSequence) -> Header:
        facts = {name: value for name, value in vars(coded).items() if name != "codes"}
        facts["pitch"] = None if coded.pitch is None else coded.pitch.format
        return cls(**facts, books=coded.codes.shape[0], frames=coded.codes.shape[1])

    def with_codes(self, codes: Tensor, pitch: Tensor | None = None) -> CodeSequence:
        """codes (Q, F) and, where the header has them, pitch codes (Q_p, F_p)."""
        return CodeSequence(
            codes,
            self.sample_rate,
            self.hop,
            self.samples,
            self.size,
            self.fingerprint,
            self.speaker,
            None if self.pitch is None else self.pitch.with_codes(cast("Tensor", pitch)),
        )

    def packed_bytes(self, frames: int, first: int = 0) -> int:
        """Of `frames` frames from frame `first` on."""
        if self.pitch is None:
            return -(-self.books * frames * self.bits_per_code // 8)
        pitch = digit_bytes(self._pitch_count(first, first + frames), self.pitch.size)
        return pitch + digit_bytes(self.books * frames, self.size)

    def pack(self, block: CodeBlock) -> bytes:
        """A block's pitch codes, then its codes.

        Raises UserInputError unless both or none have them.
        """
        if (self.pitch is None) != (block.pitch is None):
            given = "without" if block.pitch is None else "with"
            raise UserInputError(f"codes {given} pitch codes, unlike the header")
        if self.pitch is None or block.pitch is None:
            return pack(block.codes, self.bits_per_code)
        return pack_digits(block.pitch, self.pitch.size) + pack_digits(block.codes, self.size)

    def unpack(self, data: bytes, frames: int, first: int = 0) -> CodeBlock:
        """The inverse. Raises UserInputError for codes that the books do not have."""
        if self.pitch is None:
            block = CodeBlock(unpack(data, self.books, frames, self.bits_per_code), None, first)
            self.check_codes(block)
            return block
        count = pitch_due(first, first + frames, self.ratio)
        place = digit_bytes(self.pitch.books * count, self.pitch.size)
        pitch = unpack_digits(data[:place], self.pitch.books, count, self.pitch.size)
        codes = unpack_digits(data[place:], self.books, frames, self.size)
        block = CodeBlock(codes, pitch, first, self.ratio)
        self.check_codes(block)
        return block

    def check_codes(self, block: CodeBlock) -> None:
        """Raises UserInputError for codes that the books do not have."""
        streams = [(block.codes, self.size, "code")]
        if self.pitch is not None and block.pitch is not None:
            streams.append((block.pitch, self.pitch.size, "pitch code"))
        for codes, size, name in streams:
            if codes.numel() and int(codes.max()) >= size:
                raise UserInputError(
                    f"holds {name} {int(codes.max())}, expected {name}s below {size}"
                )

    def _pitch_count(self, first: int, last: int) -> int:
        return 0 if self.pitch is None else self.pitch.books * pitch_due(first, last, self.ratio)


class Coder(Protocol):
    """Codes <-> fewer bits: `prior.CodePrior`."""

    @property
    def fingerprint(self) -> str: ...

    def encode(self, coded: CodeSequence) -> bytes: ...

    def decode(self, data: bytes, header: Header) -> CodeBlock: ...


def fingerprint(*modules: nn.Module, about: str = "") -> str:
    """16 hexadecimal digits that name the modules' weights: what one codec or prior has coded, only
    the same one reads.
    """
    digest = hashlib.sha256(about.encode())
    for module in modules:
        older = {old_parameter(name): tensor for name, tensor in module.state_dict().items()}
        for name, tensor in sorted(older.items()):
            digest.update(name.encode() + np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
