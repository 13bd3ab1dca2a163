"""How many optimizer steps a run makes: `train.steps`, or as many as fit into `train.minutes`.

The speed is measured in the first steps and written into the run folder, so that a resumed run has
the schedule that it began with.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vqwave import parsing
from vqwave.atomic_files import write_text
from vqwave.distributed.collectives import by_main
from vqwave.training.settings import TrainSpec

FILE = "pace.json"
WARM = 2  # first steps, which allocate and compile
MARKS = (12, 25, 50, 100)  # steps of this process after which the speed is looked at
ENOUGH_SECONDS = 5.0  # of measured steps
SHARE = 0.9  # of the minutes that steps are given; validation and checkpoints have the rest
ENDLESS = 1 << 40  # steps, until they are known: a schedule that has just begun


@dataclass(frozen=True)
class Measured:
    """`pace.json`."""

    steps_per_minute: Annotated[parsing.Finite, Field(gt=0)]
    minutes_before: Annotated[parsing.Finite, Field(ge=0)] = 0.0  # the first step, see `spend`


class Pace:
    """The steps of one run; `steps` is `ENDLESS` until `after` has measured them."""

    def __init__(self, train: TrainSpec) -> None:
        self.minutes, self.run = train.minutes, Path()
        self.steps = train.steps if train.minutes is None else ENDLESS
        self.before = 0.0
        self._from, self._measuring = (0, 0.0), True

    def spend(self, seconds: float) -> None:
        """Of the minutes, before the first step: steps have the rest, at least half of them.

        All processes must call it; the main one's seconds count.
        """
        self.before = by_main(lambda: seconds / 60)

    def resume(self, run: Path) -> None:
        """Take what an earlier process of the run measured, if one did.

        Raises UserInputError for a damaged file.
        """
        self.run = run
        if self.minutes is not None and (measured := by_main(self._stored)) is not None:
            self.steps = self._fitting(measured)

    @property
    def known(self) -> bool:
        """Whether `steps` are final."""
        return self.steps < ENDLESS

    def after(self, done: int, step: int, seconds: float) -> str | None:
        """Called after each step -> a line about how long the run takes, once that is known.

        done: steps of this process; step: of the run; seconds: of this process, within its steps.
        All processes must call it; the main one measures.
        """
        if not self._measuring:
            return None
        if done == WARM:
            self._from = (done, seconds)
        last = done >= MARKS[-1] or step >= self.steps
        if done not in MARKS and not last:
            return None
        first, began = self._from
        a_step = (seconds - began) / max(1, done - first)
        speed = by_main(lambda: a_step if last or seconds - began >= ENOUGH_SECONDS else None)
        if speed is None:
            return None
        self._measuring = False
        speed = max(speed, 1e-6)
        if not self.known:
            measured = Measured(60 * SHARE / speed, self.before)
            self.steps = max(step, self._fitting(measured))
            by_main(lambda: self._store(measured))
        return _line(self.steps, step, speed) if step < self.steps else None

    def _fitting(self, measured: Measured) -> int:
        assert self.minutes is not None  # asked for where they are given
        return _steps_of(measured, self.minutes)

    def _stored(self) -> Measured | None:
        return _read(self.run)

    def _store(self, measured: Measured) -> None:
        write_text(self.run / FILE, json.dumps(asdict(measured)) + "\n")


def planned(run: Path, minutes: float) -> int | None:
    """The steps of a run of so many minutes; None as long as they are not known.

    Raises UserInputError for what cannot be read.
    """
    measured = _read(run)
    return None if measured is None else _steps_of(measured, minutes)


def _steps_of(measured: Measured, minutes: float) -> int:
    left = max(minutes - measured.minutes_before, minutes / 2)
    return max(1, round(left * measured.steps_per_minute))


def _read(run: Path) -> Measured | None:
    path = run / FILE
    return parsing.read_json(path, "the speed of a run", Measured) if path.exists() else None


def _line(steps: int, step: int, a_step: float) -> str:
    left = steps - step
    minutes = left * a_step / SHARE / 60
    return f"estimate: {left:,} steps of {a_step:.2g} s, {minutes:.1f} min"
