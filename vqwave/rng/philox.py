"""Uniforms from a counter: the same number for (seed, stream, time) whatever the batch, the
chunking or the back-end.
"""

from __future__ import annotations

import operator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.errors import UserInputError

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def checked_seed(seed: int) -> int:
    """The seed itself, which has 64 bits.

    Raises UserInputError for one that has more, is negative, or no whole number.
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise UserInputError(f"seed {seed!r}: expected a whole number") from None
    if not 0 <= seed < 2**64:
        raise UserInputError(f"seed {seed}: expected 0 to 2^64 - 1")
    return seed


def philox(counter: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Philox 4x32-10: counter (4, ...) of 32-bit words and a 64-bit seed -> 4 random 32-bit words
    (4, ...).

    Reference: Salmon et al., 2011, "Parallel random numbers: as easy as 1, 2, 3", sec. 5.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32 & 0xFFFFFFFF)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> _HALF) ^ c1 ^ k0, b & _LOW, (a >> _HALF) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return np.stack([c0, c1, c2, c3])


def uniforms(seed: int, streams: Tensor, start: int, count: int) -> Tensor:
    """The four uniforms of each stream (B,) at samples [start, start + count) -> (4, B, count)
    float32 in (0, 1).

    The counter is (time, stream, time's high word, stream's high word). 23 bits a number, at the
    middle of their interval: never 0, never 1. Raises UserInputError for a seed out of range.
    """
    time = np.arange(start, start + count, dtype=np.uint64)
    shape, numbers = (len(streams), count), streams.cpu().numpy().astype(np.uint64)[:, None]
    words = np.stack(
        [
            np.broadcast_to(time & _LOW, shape),
            np.broadcast_to(numbers & _LOW, shape),
            np.broadcast_to(time >> _HALF, shape),
            np.broadcast_to(numbers >> _HALF, shape),
        ]
    )
    random = philox(words, checked_seed(seed))
    return torch.from_numpy(
        ((random >> np.uint64(9)).astype(np.float64) + 0.5).astype(np.float32) * np.float32(2**-23)
    )
