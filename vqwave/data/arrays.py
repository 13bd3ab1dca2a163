"""Arrays of .npy files: plain, finite numbers, or a line says what is wrong."""

from __future__ import annotations

import math
import tokenize
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vqwave import parsing
from vqwave.errors import UserInputError


def read_array(path: Path) -> NDArray[np.float32]:
    """The array in a .npy file, as float32.

    Raises `UserInputError` for anything else, and where a number is not finite.
    """
    try:
        # what float32 does not hold becomes infinite, and is refused below
        with np.errstate(over="ignore"), parsing.open_regular(path) as file:
            _check_array(file, path.stat().st_size)
            array = np.lib.format.read_array(file, allow_pickle=False).astype(np.float32)
    except UserInputError:
        raise
    except FileNotFoundError:
        raise UserInputError(f"{path}: no such file, expected an array (.npy)") from None
    except (OSError, ValueError, TypeError, LookupError, EOFError, RecursionError) as error:
        raise UserInputError(
            f"{path}: no array of numbers ({error}), expected what numpy.save writes"
        ) from error
    wrong = array.size - int(np.isfinite(array).sum())
    if wrong:
        raise UserInputError(
            f"{path}: {wrong:,} of {array.size:,} numbers are not finite, expected all of them"
            " to be"
        )
    return array


def _check_array(file: BinaryIO, size: int) -> None:
    """Raises ValueError for the header of anything but plain numbers, and for more of these than
    there are in `size` bytes; at the beginning of the file again afterwards.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version[0]}.{version[1]}")
    headers = (np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0)
    try:
        shape, _, kind = headers[version[0] - 1](file)
    except (SyntaxError, tokenize.TokenError) as error:  # numpy's own parts
        raise ValueError(str(error)) from None
    if kind.kind not in "fiub" or min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} of {kind}")
    if math.prod(shape) * kind.itemsize > size - file.tell():
        raise ValueError(f"shape {shape} of {kind} in {size} bytes")
    file.seek(0)
