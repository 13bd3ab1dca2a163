"""A student's streams between tiles, and a tile on its way through a flow: the arrays that the
kernels are given.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqwave.decode.cpu.flow.plan import FlowPlan, Matrix
from vqwave.decode.plan import Floats, aligned

Integers = NDArray[np.int64]

# columns of a register tile: of four vectors of each, 24 sums and 5 operands in the 32 registers of
# AVX-512; of one, which is two registers of AVX2, 12 and 3 in its 16
ROWS = 6
STRIP = 96  # columns that pass through all layers before the next
WINDOW = 2 * STRIP  # rows of a window beyond its span: it is moved once in as many columns


class Memory(NamedTuple):
    """The past inputs of the layers of one flow of one stream, in the precision of its matrices."""

    # (rows, R): a window a layer, each of its span and WINDOW rows; and STRIP rows that are never
    # read, for what the last layer would pass on
    windows: Matrix
    begins: Integers  # (L + 1,) first row of each window, and of these
    used: Integers  # (L,) rows that each window holds beyond its span

    @staticmethod
    def silent(plan: FlowPlan) -> Memory:
        spans = (plan.kernel - 1) * plan.dilations
        rows = spans + WINDOW
        begins = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        kind = plan.dilated.dtype.type
        windows = aligned((int(begins[-1]) + STRIP, len(plan.input_bias)), kind)
        return Memory(windows, begins, np.zeros(len(spans), np.int64))


class Scratch(NamedTuple):
    """Scratch for the activations of a tile in one thread."""

    units: Matrix  # (STRIP, G)
    rectified: Matrix  # (ROWS, R)
    hidden: Floats  # (ROWS, H)
    # (1 + rows, W): of each block, its n locations, after those of the block that was known before
    locations: Floats
    scales: Floats  # (1 + rows, W): its n scales, from lane n on

    @staticmethod
    def of(plan: FlowPlan, columns: int) -> Scratch:
        kind, rows = plan.dilated.dtype.type, 1 + padded_rows(columns)
        return Scratch(
            aligned((STRIP, plan.gate), kind),
            aligned((ROWS, len(plan.input_bias)), kind),
            aligned((ROWS, len(plan.hidden_bias)), np.float32),
            *(aligned((rows, len(plan.out_bias)), np.float32) for _ in range(2)),
        )


class Columns(NamedTuple):
    """A tile's columns on their way through a flow: `total` of the rows that there are."""

    total: int
    number: int  # of the first, counted from the first of the stream
    # columns of the condition: the number of the first of `features`, and how many blocks each
    # is held for
    first: int
    hold: int
    blocks: Floats  # (rows, n), or with a harmonic source (rows, 2n): samples, then the source's
    features: Floats  # (F, width): the condition
    conditions: Floats  # (F, L 2G), what `project` makes of it
    # (rows,): which column of the condition is a row's, as a place in conditions.flat
    places: Integers
    x: Floats  # (rows, R), or (STRIP, R)


class Samples(NamedTuple):
    """A tile's samples before and after a flow."""

    z: Floats  # (n,)
    x: Floats  # (n,)
    # its first, counted from the beginning of the block whose parameters are known already
    first: int
    known: Floats  # (2, W): that block's locations and scales; afterwards those of the last


def padded_rows(count: int) -> int:
    """Rows of as many register tiles as hold `count` columns."""
    return -(-count // ROWS) * ROWS
