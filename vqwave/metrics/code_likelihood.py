"""What a prior over codes must beat: bits a code costs without a network, fitted on training codes,
scored on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

STRENGTHS = 2.0 ** np.arange(-2, 10)  # of the pull of a bigram's row towards the unigram
LARGEST = 4096  # codes of a codebook up to which pairs are counted


def unigram(codes: Sequence[Tensor], size: int) -> NDArray[np.float64]:
    """How often each code of each book occurs in utterances (Q, F): (Q, K), each row sums to one,
    none is zero.
    """
    counts = (
        np.stack(
            [
                np.bincount(book, minlength=size)
                for book in np.concatenate([c.numpy() for c in codes], 1)
            ]
        )
        + 0.1
    )
    return counts / counts.sum(1, keepdims=True)


def unigram_bits(train: Sequence[Tensor], test: Sequence[Tensor], size: int) -> float:
    """Bits a test code costs, each on its own."""
    p, codes = unigram(train, size), np.concatenate([c.numpy() for c in test], 1)
    return float(-np.mean([np.log2(p[book, row]) for book, row in enumerate(codes)]))


def bigram_bits(train: Sequence[Tensor], test: Sequence[Tensor], size: int) -> float:
    """Bits a test code costs given its book's code in the frame before (or that it is the first).

    Rows are pulled towards the unigram, as strongly as suits the *test* codes best: if anything,
    the figure is too low.
    """
    p, cost = unigram(train, size), np.zeros(len(STRENGTHS))
    for book in range(len(p)):
        pairs = np.zeros((size + 1, size))
        np.add.at(pairs, _pairs(train, book, size), 1)
        before, now = _pairs(test, book, size)
        seen, total = pairs[before, now], pairs.sum(1)[before]
        strength = STRENGTHS[:, None]
        cost -= np.log2((seen + strength * p[book, now]) / (total + strength)).sum(1)
    return float(cost.min() / sum(c.numel() for c in test))


def _pairs(
    codes: Sequence[Tensor], book: int, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each code and the one before it; `size` stands before the first."""
    rows = [c[book].numpy() for c in codes]
    return np.concatenate(
        [np.concatenate([[size], row[:-1]]) for row in rows if len(row)]
    ), np.concatenate(rows)


def baselines(train: Sequence[Tensor], test: Sequence[Tensor], size: int) -> dict[str, float]:
    """Bits a test code costs without a network, by name.

    Codes: (Q, F) an utterance, int64 on the CPU.
    """
    bits = {"uniform": math.log2(size), "unigram": unigram_bits(train, test, size)}
    return bits | ({"bigram": bigram_bits(train, test, size)} if size <= LARGEST else {})
