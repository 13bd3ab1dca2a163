"""What threads of this machine can do at most: reading memory that they read over and over, and
multiplying out of registers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from vqwave.decode.cpu.rates import (
    A_LANE,
    CHAINS,
    DOT,
    FLOAT32,
    MULTIPLY,
    QUADS,
    can,
    read_all,
)
from vqwave.decode.plan import WIDTH, aligned

__all__ = ["DOT", "FLOAT32", "QUADS", "bandwidth", "can", "multiplies"]

SECONDS = 0.05  # that a measurement takes, about


def bandwidth(size: int, threads: int, *, shared: bool = False) -> float:
    """Bytes a second that `threads` threads read together: each all of `size` bytes again and
    again, or, if `shared`, its part.
    """
    part = max(4 * WIDTH, size // 4 // (threads if shared else 1) // (4 * WIDTH) * 4 * WIDTH)
    words = [aligned((part,), np.int32) for _ in range(threads)]
    times = max(1, int(SECONDS * 9e10 / (4 * part)))
    return threads * times * 4 * part / together(lambda i: read_all(words[i], times), threads)


def multiplies(kind: int, threads: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Multiply-adds a second, by `clock`, of `threads` threads together."""
    words, turns = (
        [aligned((WIDTH,), np.int32) for _ in range(threads)],
        int(SECONDS * 3.5e9 / CHAINS),
    )
    taken = together(lambda i: MULTIPLY[kind](words[i], turns), threads, clock)
    return threads * turns * CHAINS * WIDTH * A_LANE[kind] / taken


def together(
    work: Callable[[int], object], threads: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds until every thread has done the work once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(time.sleep, [0.001] * threads))
        start = clock()
        list(pool.map(work, range(threads)))
        return clock() - start
