"""Two streams of codes as one sequence: each pitch code stands before the frames that it covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.errors import UserInputError


@dataclass(frozen=True)
class PitchBooks:
    """Books of pitch codes: how many, codes in each, and the content frames that a code covers."""

    books: int
    size: int
    ratio: int


@dataclass(frozen=True)
class SymbolOrder:
    """The order in which a prior reads the codes of an utterance, and the alphabet of each.

    `ratio` frames are a group: its pitch codes, book by book, then its frames, each book by book.
    Without pitch a group is a frame. Each place in a group is a slot. A sequence is a grid
    (B, S, G), read group by group; without pitch it is the codes (B, Q, F) themselves.

    Symbols of a book are its own codes 0 .. K - 1, and END. B batch, Q and Q_p books, F frames,
    S slots, G groups.

    >>> order = SymbolOrder(books=1, size=8, pitch=PitchBooks(books=1, size=4, ratio=2))
    >>> codes, pitch = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 3]])
    >>> order.flat(codes, pitch).tolist()
    [0, 1, 2, 3, 3]
    """

    books: int
    size: int
    pitch: PitchBooks | None = None

    @property
    def pitch_books(self) -> int:
        """Q_p, 0 without pitch."""
        return 0 if self.pitch is None else self.pitch.books

    @property
    def ratio(self) -> int:
        """Frames in a group."""
        return 1 if self.pitch is None else self.pitch.ratio

    @property
    def slots(self) -> int:
        """S."""
        return self.pitch_books + self.ratio * self.books

    @property
    def end(self) -> int:
        """END: the symbol above all codes."""
        return self.size if self.pitch is None else max(self.size, self.pitch.size)

    @property
    def sizes(self) -> list[int]:
        """Codes of each book: the content's, then those of pitch."""
        pitch = [] if self.pitch is None else [self.pitch.size] * self.pitch_books
        return [self.size] * self.books + pitch

    @property
    def outputs(self) -> int:
        """Logits that a network gives: of content codes, of END, of pitch codes."""
        return self.size + 1 + (0 if self.pitch is None else self.pitch.size)

    @cached_property
    def slot_books(self) -> list[int]:
        """The book of each slot, as `sizes` counts them."""
        pitch = [self.books + i for i in range(self.pitch_books)]
        return pitch + list(range(self.books)) * self.ratio

    @cached_property
    def slot_frames(self) -> list[int]:
        """The frame in its group with which each slot comes."""
        frames = [frame for frame in range(self.ratio) for _ in range(self.books)]
        return [0] * self.pitch_books + frames

    @cached_property
    def frame_starts(self) -> list[bool]:
        """Whether a slot is the first of a frame: an utterance may end before it."""
        frames = self.slot_frames
        return [slot == 0 or frames[slot] > frames[slot - 1] for slot in range(self.slots)]

    def count(self, frames: int) -> int:
        """Symbols of `frames` frames."""
        return frames * self.books + -(-frames // self.ratio) * self.pitch_books

    def frames(self, count: int) -> int:
        """Complete frames that `count` symbols hold."""
        groups, rest = divmod(count, self.slots)
        return groups * self.ratio + max(0, rest - self.pitch_books) // self.books

    def merge(self, codes: Tensor, pitch: Tensor | None = None) -> Tensor:
        """codes (B, Q, F), pitch (B, Q_p, ceil(F / ratio)) -> a grid (B, S, G), filled up with
        zeros.

        Raises UserInputError for pitch codes where the order has none, or the other way round.
        """
        if (pitch is None) != (self.pitch is None):
            given = "without" if pitch is None else "with"
            raise UserInputError(f"codes {given} pitch codes, unlike those that this prior models")
        if pitch is None:
            return codes
        B, Q, frames = codes.shape
        padded = F.pad(codes, (0, -frames % self.ratio)).view(B, Q, -1, self.ratio)
        return torch.cat([pitch, padded.permute(0, 3, 1, 2).flatten(1, 2)], 1)

    def split(self, grid: Tensor) -> tuple[Tensor, Tensor | None]:
        """A grid (B, S, G) about symbols -> about codes (B, Q, G ratio) and pitch (B, Q_p, G)."""
        if self.pitch is None:
            return grid, None
        B, _, G = grid.shape
        content = grid[:, self.pitch_books :].reshape(B, self.ratio, self.books, G)
        return content.permute(0, 2, 3, 1).flatten(2), grid[:, : self.pitch_books]

    def flat(self, codes: Tensor, pitch: Tensor | None = None) -> Tensor:
        """codes (Q, F), pitch (Q_p, F_p) of one utterance -> its symbols (n,), in order."""
        grid = self.merge(codes[None], None if pitch is None else pitch[None])[0]
        return grid.t().flatten()[: self.count(codes.shape[1])]

    def unflatten(self, symbols: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inverse of `flat`; an incomplete last frame is left out."""
        frames = self.frames(len(symbols))
        count = self.count(frames)
        grid = F.pad(symbols[:count], (0, -count % self.slots)).view(-1, self.slots).t()[None]
        codes, pitch = self.split(grid)
        return codes[0, :, :frames].contiguous(), None if pitch is None else pitch[0].contiguous()
