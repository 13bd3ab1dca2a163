"""The second, slower stream of codes: the melody, next to the content."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from torch import Tensor

FARTHEST = 7.0  # from ln 100 Hz, of a mean: 0.09 Hz and 110 kHz are no voices


def pitch_due(first: int, last: int, ratio: int) -> int:
    """How many pitch codes begin within the frames first .. last - 1; each covers `ratio` frames.

    >>> [pitch_due(first, first + 3, 4) for first in (0, 3, 6, 9)]
    [1, 1, 1, 0]
    """
    return -(-last // ratio) - -(-first // ratio)


@dataclass(frozen=True)
class PitchFormat:
    """What describes pitch codes: samples a code, K, books, and the voice's ln F0 statistics.

    `mean` and `deviation` of ln(F0 / 100 Hz) are those that the contour was normalised with: with
    them a voice that the model does not know is decoded in its own range. Kept as float32, as in a
    file. Raises UserInputError outside bounds.
    """

    hop: int
    size: int
    books: int
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            value, least = getattr(self, name), -FARTHEST if name == "mean" else 0.0
            if not math.isfinite(value) or not least <= value <= FARTHEST:
                wanted = f"that of ln(F0 / 100 Hz), {least:g} to {FARTHEST:g}"
                raise UserInputError(f"pitch codes: {name} {value}, expected {wanted}")
            object.__setattr__(self, name, float(np.float32(value)))
        if min(self.hop, self.size, self.books) < 1:
            raise UserInputError(
                f"pitch codes: {self.books} books of {self.size} codes, hop {self.hop}"
            )

    def ratio(self, hop: int) -> int:
        """Frames of `hop` samples that a pitch code covers. Raises UserInputError unless whole."""
        if self.hop % hop:
            raise UserInputError(
                f"pitch codes: hop {self.hop}, expected a multiple of the frames' {hop}"
            )
        return self.hop // hop

    def with_codes(self, codes: Tensor) -> PitchCodes:
        return PitchCodes(codes, self.hop, self.size, self.mean, self.deviation)


@dataclass(frozen=True)
class PitchCodes:
    """The melody as codes (Q_p, F_p) int64, each for `hop` samples; see `PitchFormat`."""

    codes: Tensor
    hop: int
    size: int
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            object.__setattr__(self, name, getattr(self.format, name))

    @property
    def books(self) -> int:
        """Q_p."""
        return self.codes.shape[0]

    @property
    def format(self) -> PitchFormat:
        return PitchFormat(self.hop, self.size, self.codes.shape[0], self.mean, self.deviation)


@dataclass(frozen=True)
class CodeBlock:
    """Consecutive frames: codes (Q, n) from frame `first` on, and the pitch codes (Q_p, m) due.

    A pitch code covers `ratio` frames, and comes with the first of these: those are due that
    begin within the block. `pitch` is None where the codec has none.
    """

    codes: Tensor
    pitch: Tensor | None = None
    first: int = 0
    ratio: int = 1

    def split(self, frames: int) -> Iterator[CodeBlock]:
        """Blocks of at most `frames` frames."""
        place, taken = self.first, 0
        for codes in self.codes.split(frames, 1):
            end = place + codes.shape[1]
            due = pitch_due(place, end, self.ratio)
            pitch = None if self.pitch is None else self.pitch[:, taken : taken + due]
            yield CodeBlock(codes, pitch, place, self.ratio)
            place, taken = end, taken + due


class InStep:
    """Codes and pitch codes that come at their own pace -> blocks of both.

    A frame comes once the pitch code that covers it is there, a pitch code with its first frame.
    """

    def __init__(self, books: int, pitch_books: int, ratio: int) -> None:
        """books: Q, of the codes and of the pitch codes; ratio: frames that a pitch code covers."""
        import torch

        self.ratio, self.frame = ratio, 0
        self.codes = torch.zeros(books, 0, dtype=torch.int64)  # without their pitch code
        self.pitch = torch.zeros(pitch_books, 0, dtype=torch.int64)  # without their frames

    def push(self, codes: Tensor, pitch: Tensor | None = None) -> CodeBlock:
        """Further codes (Q, n) and pitch codes (Q_p, m) -> all that is complete now."""
        import torch

        self.codes = torch.cat([self.codes, codes], 1)
        if pitch is not None:
            self.pitch = torch.cat([self.pitch, pitch], 1)
        covered = (-(-self.frame // self.ratio) + self.pitch.shape[1]) * self.ratio - self.frame
        frames = min(covered, self.codes.shape[1])
        due = pitch_due(self.frame, self.frame + frames, self.ratio)
        block = CodeBlock(self.codes[:, :frames], self.pitch[:, :due], self.frame, self.ratio)
        self.codes, self.pitch = self.codes[:, frames:], self.pitch[:, due:]
        self.frame += frames
        return block

    @property
    def left_over(self) -> str:
        """What still waits for the other; nothing if all has come out."""
        frames, pitch = self.codes.shape[1], self.pitch.shape[1]
        return f"{frames} frames and {pitch} pitch codes" if frames or pitch else ""
