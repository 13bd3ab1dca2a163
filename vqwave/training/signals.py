"""How a training ends before its end: signals, which all processes heed after the same step, and a
process that is lost.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from vqwave.atomic_files import newest_name
from vqwave.distributed.collectives import largest_over_ranks
from vqwave.training.checkpoint import STEP

LOST = 1  # the exit status where a process of several is gone
# seconds after which a second signal is one: a launcher passes on what its process group has had
# already
AGAIN = 1.0
HANGUP = getattr(signal, "SIGHUP", None)  # is not everywhere
STOPPING = (signal.SIGINT, signal.SIGTERM, *(() if HANGUP is None else (HANGUP,)))


class RunInterruptedError(Exception):
    """A signal asked the run to stop, or another process is gone. Exit status `status`.

    `abrupt`: without the agreement of the other processes, which this one must not wait for as it
    ends.
    """

    def __init__(self, message: str, status: int, *, abrupt: bool = False) -> None:
        super().__init__(message)
        self.status, self.abrupt = status, abrupt


def stopped_line(run: Path, step: int, steps: int) -> str:
    """Where a run was stopped at once, what is kept of it, and how it goes on."""
    newest = newest_name(run)
    if newest is None:
        where = (
            f"at step {step} of {steps}, before its first checkpoint"
            if step
            else "before the first step, nothing was begun"
        )
        return f"stopped {where}: run the same command to begin again"
    if newest == STEP.format(step):
        return (
            f"stopped at step {step} of {steps}, all saved in {run}: run the same command to go on"
        )
    where = f"at step {step} of {steps}" if step else "before it was resumed"
    return f"stopped {where}, {newest} is kept in {run}: run the same command to go on"


class StopSignal:
    """Whether the run shall end: `signal`, the number of the first one that this process got.

    Within `handling_signals`, Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt at once; within
    `deferring`, the first of them is recorded only.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._time, self._deferring = 0.0, False

    def agreed(self, device: torch.device) -> int:
        """The signal that some process got, 0 if none did; every process must call."""
        return int(largest_over_ranks(torch.tensor(self.signal, device=device)))

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Signals are handled here within the block.

        Within a thread, as `wandb.agent(function=...)` starts one, this does nothing: Python gives
        signals to the main thread alone.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self._handle)
            for number in STOPPING
            if number != HANGUP or signal.getsignal(number) is signal.SIG_DFL  # else of nohup
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Around the start of one process of several: a signal ends it, without a line.

        Until the others are there torch waits in C++, where Python handles no signal, and waits on
        after one; nothing is begun yet.
        """
        alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
        if alone or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, signal.SIG_DFL)
            for number in STOPPING
            if signal.getsignal(number) == self._handle
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """A signal within waits for `agreed`, or else for the end."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.signal:
            raise KeyboardInterrupt

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal and now - self._time <= AGAIN:
            return
        first = not self.signal
        if first:
            self.signal, self._time = number, now
        if not (first and self._deferring):
            raise KeyboardInterrupt
