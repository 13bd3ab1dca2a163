"""How a training ends before its end: signals, which all processes heed after the same step, and a process that is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from vqwave.nn.ranks import largest_over_ranks

LOST = 1  # the exit status where a process of several is gone
AGAIN = 1.0  # seconds after which a second Ctrl-C is one: a launcher passes on what its process group has had already


class Interrupted(Exception):
    """A signal asked the run to stop and all is saved, or another process is gone. Exit status `status`."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Stop:
    """Whether the run shall end: `signal`, the number of the one that this process got."""

    def __init__(self) -> None:
        self.signal = 0
        self._asked = 0.0

    def agreed(self, device: torch.device) -> int:
        """The signal that some process got, 0 if none did; every process must call."""
        return int(largest_over_ranks(torch.tensor(self.signal, device=device)))

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM are noted within; a second Ctrl-C is raised at once."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT and time.monotonic() - self._asked > AGAIN:
            raise KeyboardInterrupt
        self._asked = self._asked if self.signal else time.monotonic()
        self.signal = number
