"""`.vqw` files on disk."""

from __future__ import annotations

from pathlib import Path

from vqwave import parsing
from vqwave.atomic_files import write_bytes
from vqwave.codes.file_format import from_bytes, header_of, to_bytes
from vqwave.codes.types import Coder, CodeSequence, Header
from vqwave.errors import UserInputError

LONGEST = 1 << 31  # bytes of a file: months of speech


def save_codes(path: str | Path, coded: CodeSequence, coder: Coder | None = None) -> None:
    """Write a `.vqw` file, completely or not at all; `coder`, a prior, takes fewer bits, and is
    needed to read it again.
    """
    data = to_bytes(coded, coder)
    try:
        write_bytes(Path(path), data)
    except OSError as error:
        raise UserInputError(f"{path}: cannot be written ({error.strerror})") from None


def load_codes(path: str | Path, coder: Coder | None = None) -> CodeSequence:
    """Read a `.vqw` file.

    Raises UserInputError for a missing, truncated, damaged or foreign file, or if it needs another
    prior.
    """
    return from_bytes(_read(path), str(path), coder)


def load_header(path: str | Path) -> Header:
    """The header of a `.vqw` file, which needs no prior."""
    return header_of(_read(path), str(path))


def _read(path: str | Path) -> bytes:
    return parsing.read_bytes(path, "a .vqw file", LONGEST)
