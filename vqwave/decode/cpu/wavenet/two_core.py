"""Whether one stream runs on one core or on two: as measured, from chunk to chunk.

The bits are the same.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from vqwave.decode.cpu.compiled import Compiled
from vqwave.decode.cpu.wavenet.state import (
    SIGNALS,
    Buffers,
    ConditionWindow,
    Integers,
    PastTapCache,
    State,
    signals,
)
from vqwave.decode.plan import Floats, Plan
from vqwave.decode.sampling import Temperatures

decode_one = Compiled("vqwave.decode.cpu.wavenet.single_stream", "decode_one")
produce = Compiled("vqwave.decode.cpu.wavenet.two_core_kernel", "produce")
consume = Compiled("vqwave.decode.cpu.wavenet.two_core_kernel", "consume")

# samples by which a way is measured: to begin with two threads takes as long as some dozens
TRIAL = 512
TRIALS = 2  # in a row: a thread that wakes late spoils one
AGAIN = 12  # chunks, at the most, after which the slower way is tried again
SHORTEST = 48  # samples worth a second thread

_busy = threading.Lock()


@cache
def _second() -> ThreadPoolExecutor:
    """The second thread, one for the process: it idles while there is nothing to consume."""
    return ThreadPoolExecutor(1, thread_name_prefix="vqwave")


@dataclass(frozen=True)
class ChunkTask:
    """A chunk of one stream: arrays of one row, as `batch_kernel.decode` takes them."""

    plan: Plan
    state: State
    buffers: Buffers
    conditions: ConditionWindow
    cache: PastTapCache
    streams: Integers
    seed: np.uint64
    temperatures: Temperatures
    given: Floats
    sampled: Floats
    params: Floats

    @property
    def samples(self) -> int:
        return self.sampled.shape[1]

    def part(self, start: int, stop: int) -> ChunkTask:
        """Samples `start` to `stop` of it."""
        cut = slice(start, stop)
        given, sampled, params = self.given[:, cut], self.sampled[:, cut], self.params[:, cut]
        about = (
            self.plan,
            self.state,
            self.buffers,
            self.conditions,
            self.cache,
            self.streams,
            self.seed,
            self.temperatures,
        )
        return ChunkTask(*about, given, sampled, params)


def run_alone(task: ChunkTask) -> None:
    draws = (task.streams, task.seed, task.temperatures, task.given, task.sampled, task.params)
    decode_one(task.plan, task.state, task.buffers, task.conditions, task.cache, *draws)


def run_together(task: ChunkTask) -> None:
    """On two threads; whatever the second one leaves undone is done here."""
    flags, layers = signals(SIGNALS), (task.plan, task.state, task.buffers, task.conditions)
    draws = (task.streams, task.seed, task.temperatures, task.given, task.sampled, task.params)
    second = _second().submit(consume, *layers, flags, 0, task.samples, *draws)
    produced = produce(*layers, task.cache, flags, task.samples)
    consumed = 0 if second.cancel() else second.result()
    if consumed < produced:
        consume(*layers, flags, consumed, produced, *draws)
    if produced < task.samples:
        run_alone(task.part(produced, task.samples))


@dataclass
class ThreadPolicy:
    """Seconds a sample of either way, as last measured, and when the slower one is tried again.

    One trial is a poor measure: a thread wakes slowly, another process takes a core for a moment.
    So the slower way is tried again soon, and later and later as long as it stays the slower one.
    """

    alone: float | None = None
    together: float | None = None
    quicker: str = ""
    since: int = 0  # chunks since the slower way's last trial
    wait: int = 1  # chunks until its next
    trials: int = 0  # of those in a row

    def choose(self) -> str:
        """Which way is next: one that was never tried, the slower one now and then, else the
        faster.
        """
        if self.together is None or self.alone is None:
            return "together" if self.together is None else "alone"
        quicker, slower = (
            ("together", "alone") if self.together < self.alone else ("alone", "together")
        )
        if quicker != self.quicker:
            self.quicker, self.since, self.wait, self.trials = quicker, 0, 1, 0
        if self.since < self.wait:
            self.since += 1
            return quicker
        self.trials += 1
        if self.trials == TRIALS:
            self.since, self.wait, self.trials = 0, min(2 * self.wait, AGAIN), 0
        return slower

    def is_quickest(self, way: str) -> bool:
        """Whether both ways were measured and this one takes less time."""
        if self.alone is None or self.together is None:
            return False
        return getattr(self, way) == min(self.alone, self.together)


@dataclass
class TwoCoreDecoder:
    """One stream on up to two cores."""

    policy: ThreadPolicy = field(default_factory=ThreadPolicy)

    def run(self, task: ChunkTask) -> None:
        done = 0
        while done < task.samples:
            left = task.samples - done
            if left < SHORTEST or not _busy.acquire(blocking=False):
                run_alone(task.part(done, task.samples))
                return
            try:
                done += self._run_part(task, done, left)
            finally:
                _busy.release()

    def _run_part(self, task: ChunkTask, done: int, left: int) -> int:
        way = self.policy.choose()
        samples = left if self.policy.is_quickest(way) else min(left, TRIAL)
        began = time.perf_counter()
        (run_together if way == "together" else run_alone)(task.part(done, done + samples))
        setattr(self.policy, way, (time.perf_counter() - began) / samples)
        return samples


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
