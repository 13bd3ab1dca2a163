"""How fast this processor multiplies: by which the fastest precision is chosen, and in `vqwave
bench` the floor of a decoder.
"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from vqwave.decode.cpu.compiled import Compiled
from vqwave.decode.cpu.processor import has
from vqwave.decode.plan import WIDTH, aligned

FLOAT32, DOT, QUADS = 0, 1, 2  # multiply-adds of float32, of bfloat16 pairs, of int8 quadruples
A_LANE = {FLOAT32: 1, DOT: 2, QUADS: 4}  # multiply-adds of one lane of one instruction
CHAINS = 12  # independent sums, more than an instruction's latency
SHORT, TRIALS = 4000, 7  # turns of a trial, some 20 microseconds

_MODULE = "vqwave.decode.cpu.rate_kernels"
read_all = Compiled(_MODULE, "read_all")
MULTIPLY = {
    FLOAT32: Compiled(_MODULE, "multiply_float32"),
    DOT: Compiled(_MODULE, "multiply_dot"),
    QUADS: Compiled(_MODULE, "multiply_quads"),
}
"""By the kind of multiply-add: (words, turns), CHAINS instructions of WIDTH lanes a turn."""


def can(kind: int) -> bool:
    """Whether this processor has the instruction."""
    return kind == FLOAT32 or has({DOT: "avx512bf16", QUADS: "avx512vnni"}[kind])


@cache
def dot_gain() -> float:
    """Multiply-adds a second by dot products of bfloat16 pairs, over those in float32: measured in
    a millisecond, by the quickest of several trials, since other work can only slow one.
    """
    seconds: dict[int, list[float]] = {FLOAT32: [], DOT: []}
    words = aligned((WIDTH,), np.int32)
    for _ in range(1 + TRIALS):
        for kind, taken in seconds.items():
            start = time.perf_counter()
            MULTIPLY[kind](words, SHORT)
            taken.append(time.perf_counter() - start)
    return A_LANE[DOT] * min(seconds[FLOAT32]) / min(seconds[DOT])
