"""A sweep without a server: one trial after another, each a command of its own; killed at any
moment, the same command goes on.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from vqwave.atomic_files import write_text
from vqwave.config import differences
from vqwave.errors import UserInputError, nearest
from vqwave.sweep.plan import Plan
from vqwave.training.tracking import flatten

GIVE_UP = 3  # first trials that all fail: then the sweep itself is wrong
STATE, ROWS = "sweep.json", "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """A row of `trials.jsonl`. `metric` is None where the trial failed, and `reason` says why."""

    trial: int
    values: dict[str, Any]
    run: str
    metric: float | None
    seconds: float
    reason: str = ""


class Stopped(Exception):
    """A signal asked the sweep to stop; the trial at hand has saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Sweep:
    """The trials of a plan in the folder `out`: trial-001/ (a run folder), trial-001.log, ..., and
    a row each in trials.jsonl.

    `overrides` (key=value) are put after every trial's own settings; `environment` is that of the
    trials.
    """

    plan: Plan
    out: Path
    count: int | None = None
    seed: int = 0
    overrides: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    quiet: bool = False

    def run(self) -> list[Trial]:
        """Every trial that is not finished yet -> all, in order.

        Raises UserInputError, or Stopped after a signal.
        """
        wanted = self.plan.trials(self.count, self.seed)
        with self._claimed(), _signals():
            for number, values in enumerate(wanted, 1):
                if number not in self.rows():
                    self._trial(number, values, len(wanted))
                rows = self.rows()
                if number == len(rows) == GIVE_UP and all(
                    row.metric is None for row in rows.values()
                ):
                    # they are tried again by the next command: nothing is learnt from them
                    (self.out / ROWS).unlink()
                    raise UserInputError(
                        f"{self.out}: the first {number} trials all failed, the last:"
                        f" {rows[number].reason}"
                    )
        rows = self.rows()
        return [rows[number] for number in range(1, len(wanted) + 1)]

    def command(self, number: int, values: dict[str, Any]) -> list[str]:
        """The command line of a trial, word by word: in a folder of its own, and with the overrides
        last.
        """
        return [
            *self.plan.words(values),
            f"run={self._run(number)}",
            "train.tracker=none",
            *self.overrides,
        ]

    def _run(self, number: int) -> Path:
        return self.out / f"trial-{number:03d}"

    def rows(self) -> dict[int, Trial]:
        """Finished and failed trials by number. A torn last row is one that was not written."""
        path = self.out / ROWS
        found = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                row = Trial(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue
            found[row.trial] = row
        return found

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """The folder, made or checked, with no other sweep at work in it."""
        state = {"sweep": self.plan.tree, "seed": self.seed, "overrides": list(self.overrides)}
        state = json.loads(json.dumps(state, default=str))
        path = self.out / STATE
        if path.exists():
            old = json.loads(path.read_text())
            changed = [
                key
                for key in differences(old, state)
                if not key.startswith(("sweep.description", "sweep.run_cap"))
            ]
            if changed:
                raise UserInputError(
                    f"{self.out}: holds another sweep (other {', '.join(changed)}); choose another"
                    " --out"
                )
        elif self.out.exists() and any(self.out.iterdir()):
            raise UserInputError(f"{self.out}: not empty and holds no sweep; choose another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserInputError(
                    f"{self.out}: another `vqwave sweep` is at work here"
                ) from None
            if not path.exists():
                write_text(path, json.dumps(state, indent=1))
            yield

    def _trial(self, number: int, values: dict[str, Any], of: int) -> None:
        run, log = self._run(number), self.out / f"{self._run(number).name}.log"
        began = time.perf_counter()
        if not self.quiet:
            print(f"trial {number} of {of}: {told(values)}  (see {log})", file=sys.stderr)
        status = self._finish(self.command(number, values), log)
        metric, reason = self._outcome(status, run, log)
        row = Trial(number, values, str(run), metric, round(time.perf_counter() - began, 1), reason)
        with (self.out / ROWS).open("a") as file:
            file.write(json.dumps(asdict(row), default=str) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if not self.quiet:
            said = f"{self.plan.metric} {metric:.4f}" if metric is not None else f"failed: {reason}"
            print(f"trial {number} of {of}: {said}  ({row.seconds:.0f} s)", file=sys.stderr)

    def _finish(self, command: list[str], log: Path) -> int:
        """Run a command to its end, output into `log` -> its exit status.

        On a signal, let it save first.

        The log is locked by whoever writes into it, launchers and what they launch, so that nobody
        runs a trial twice at once.
        """
        with log.open("a") as output:
            self._wait_for_lock(output, log)
            output.write(f"$ {shlex.join(command)}\n")
            output.flush()
            environment = dict(self.environment if self.environment is not None else os.environ)
            environment["PATH"] = os.pathsep.join(
                (str(Path(sys.executable).parent), environment.get("PATH", os.defpath))
            )
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise UserInputError(f"{command[0]}: cannot be run ({error.strerror})") from None
        try:
            return process.wait()
        except Stopped as stop:
            self._end(process, log, stop)
            raise

    def _end(self, process: subprocess.Popen, log: Path, stop: Stopped) -> None:
        """Ask all processes of a trial to save and leave, and wait until none is left; a second
        signal ends them at once.
        """
        print(f"{stop}: trial saves and leaves (again: ends at once)", file=sys.stderr)
        try:
            os.killpg(process.pid, signal.SIGTERM)
            with log.open("a") as output:
                fcntl.flock(output, fcntl.LOCK_EX)
        except Stopped:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def _wait_for_lock(self, output: IO[str], log: Path) -> None:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(
                f"{log}: a killed sweep left this trial running; waiting for its end",
                file=sys.stderr,
            )
            fcntl.flock(output, fcntl.LOCK_EX)

    def _outcome(self, status: int, run: Path, log: Path) -> tuple[float | None, str]:
        """The trial's last value of the metric, or why there is none.

        A trial that somebody stopped stops the sweep.
        """
        if status:
            told = last_words(log.read_text(errors="replace"))
            if told.startswith("stopped at "):
                raise Stopped(signal.SIGTERM)
            return None, told.removeprefix("error: ")
        series = metrics_of(run)
        if self.plan.metric not in series:
            return (
                None,
                (
                    f"no metric {self.plan.metric} in"
                    f" {run / 'metrics.jsonl'}{nearest(self.plan.metric, series)}"
                ),
            )
        value = series[self.plan.metric]
        return (value, "") if math.isfinite(value) else (None, f"{self.plan.metric} is {value}")

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """The finished trial with the best metric; the earlier one of two equals."""
        finished = [row for row in trials if row.metric is not None]
        sign = 1 if self.plan.minimize else -1
        return min(finished, key=lambda row: (sign * row.metric, row.trial)) if finished else None

    def table(self, trials: Sequence[Trial]) -> str:
        """A line a trial, the best marked, then the best in a line of its own."""
        best = self.best(trials)
        names = [p.name for p in self.plan.parameters if p.distribution != "constant"]
        head = ["", "trial", *names, self.plan.metric, "seconds"]
        cells = [head]
        for row in trials:
            flat = flatten(row.values)
            shown = f"{row.metric:.4f}" if row.metric is not None else f"failed: {row.reason}"
            cells.append(
                [
                    "*" if row is best else "",
                    str(row.trial),
                    *(short(flat.get(n)) for n in names),
                    shown,
                    f"{row.seconds:.0f}",
                ]
            )
        widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        if best is None:
            return "\n".join([*lines, "no trial finished"])
        return "\n".join(
            [
                *lines,
                f"best: trial {best.trial}, {self.plan.metric} {best.metric:.4f}, in {best.run}",
            ]
        )


def last_words(log: str) -> str:
    """Why the last command in a log ended: its `error:` or `stopped at` line, else its exception
    (not the launcher's).

    >>> log = "$ a\\nstopped at step 3\\n$ a\\nValueError: x\\nsubprocess.CalledProcessError: a"
    >>> last_words(log)
    'ValueError: x'
    """
    lines = [
        line.strip() for line in f"\n{log}".rpartition("\n$ ")[2].splitlines()[1:] if line.strip()
    ]
    raised = [
        line
        for line in lines
        if re.match(r"[\w.]+(Error|Exception)\b", line) and "CalledProcessError" not in line
    ]
    said = [line for line in lines if line.startswith(("error: ", "stopped at "))]
    return (said or raised or lines or ["it said nothing"])[-1]


def metrics_of(run: Path) -> dict[str, float]:
    """The last value of every number in a run's `metrics.jsonl`."""
    path = run / "metrics.jsonl"
    last: dict[str, float] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        last |= {name: value for name, value in row.items() if isinstance(value, int | float)}
    return last


def told(values: Mapping[str, Any]) -> str:
    """Values in one line."""
    return ", ".join(f"{name}={short(value)}" for name, value in flatten(values).items())


def short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal raise Stopped."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
