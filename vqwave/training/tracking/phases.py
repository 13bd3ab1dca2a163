"""What a step's time goes into."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PHASES = ("data", "forward", "backward", "optimizer")


class Phases:
    """Milliseconds of each phase of a step, summed up until a row of metrics takes them.

    A GPU's phases are separated by events in its own queue, so that nothing waits for it: its
    `data` is the time for which the queue stood waiting for a batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._clear()

    def _clear(self) -> None:
        self.milliseconds = dict.fromkeys(PHASES, 0.0)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.steps = 0

    @contextmanager
    def of(self, phase: str) -> Iterator[None]:
        """Adds the time that the block takes to a phase."""
        if self.on_gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            yield
            last.record()
            self.events.append((phase, first, last))
        else:
            began = time.perf_counter()
            yield
            self.milliseconds[phase] += 1000 * (time.perf_counter() - began)

    def taken(self) -> dict[str, float]:
        """`time/data` and so on: milliseconds a step since the last row; `time/loader_share`: of
        the step's. Begins again.
        """
        if self.events:
            torch.cuda.synchronize()
        for phase, first, last in self.events:
            self.milliseconds[phase] += first.elapsed_time(last)
        total = sum(self.milliseconds.values())
        row = {
            f"time/{phase}": value / max(1, self.steps)
            for phase, value in self.milliseconds.items()
        }
        row["time/loader_share"] = self.milliseconds["data"] / total if total else 0.0
        self._clear()
        return row
