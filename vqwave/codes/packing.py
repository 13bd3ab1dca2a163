"""Codes as bytes: of whole bits each, or as the digits of long numbers in base K."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from torch import Tensor

DIGITS = 1024  # codes that make one number: the fill of its last byte costs about a thousandth


def pack(codes: Tensor, bits: int) -> bytes:
    """codes (Q, F) of `bits` bits each -> bytes, frame by frame. `unpack` is the inverse."""
    flat = codes.t().reshape(-1).cpu().numpy().astype(np.uint64)
    planes = (flat[:, None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(planes.astype(np.uint8).ravel(), bitorder="little").tobytes()


def unpack(data: bytes, books: int, frames: int, bits: int) -> Tensor:
    """bytes -> codes (Q, F) int64."""
    import torch

    count = books * frames * bits
    planes = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little", count=count)
    flat = (planes.reshape(-1, bits).astype(np.int64) << np.arange(bits)).sum(1)
    return torch.from_numpy(flat).view(frames, books).t().contiguous()


def digit_bits(count: int, size: int) -> int:
    """Bits that `count` codes below `size` take as digits, without the fill of last bytes.

    >>> digit_bits(750, 20), 750 * 5
    (3242, 3750)
    """
    full, rest = divmod(count, DIGITS)
    return full * _bits(DIGITS, size) + _bits(rest, size)


def digit_bytes(count: int, size: int) -> int:
    """Bytes that `pack_digits` makes of `count` codes below `size`."""
    full, rest = divmod(count, DIGITS)
    return full * -(-_bits(DIGITS, size) // 8) + -(-_bits(rest, size) // 8)


def pack_digits(codes: Tensor, size: int) -> bytes:
    """codes (Q, F) below `size` -> bytes: frame by frame, each 1,024 codes one number in base K.

    Little-endian, the first code the lowest digit: for K = 2^b the bytes are those of `pack`.
    Raises UserInputError for other codes. `unpack_digits` is the inverse.
    """
    digits, base, data = codes.t().reshape(-1).tolist(), max(size, 2), bytearray()
    if digits and not 0 <= min(digits) <= max(digits) < size:
        raise UserInputError(
            f"codes {min(digits)} to {max(digits)}, expected codes from 0 to {size - 1}"
        )
    for first in range(0, len(digits), DIGITS):
        block, value = digits[first : first + DIGITS], 0
        for digit in reversed(block):
            value = value * base + digit
        data += value.to_bytes(digit_bytes(len(block), size), "little")
    return bytes(data)


def unpack_digits(data: bytes, books: int, frames: int, size: int) -> Tensor:
    """bytes -> codes (Q, F) int64. Raises UserInputError for what `pack_digits` does not write."""
    import torch

    digits: list[int] = []
    base, count, place = max(size, 2), books * frames, 0
    while len(digits) < count:
        block = min(DIGITS, count - len(digits))
        length = digit_bytes(block, size)
        value, place = int.from_bytes(data[place : place + length], "little"), place + length
        for _ in range(block):
            value, digit = divmod(value, base)
            digits.append(digit)
        if value:
            raise UserInputError(f"a number that is no {block} codes below {size}")
    return torch.tensor(digits, dtype=torch.int64).view(frames, books).t().contiguous()


def _bits(count: int, size: int) -> int:
    """Of the largest number of `count` digits. With K = 1 a code takes a bit, as with K = 2."""
    return (max(size, 2) ** count - 1).bit_length()
