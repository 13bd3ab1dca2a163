"""A sweep without a server: one trial after another, each a command of its own; killed at any
moment, the same command goes on, and several at once share the trials.

optuna keeps the trials in a journal, chooses those of method bayes and stops hopeless ones early.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vqwave.atomic_files import lock
from vqwave.config import differences
from vqwave.data import counter_key
from vqwave.errors import UserInputError, located, nearest
from vqwave.sweep.journal import JOURNAL, library, open_study
from vqwave.sweep.plan import Plan
from vqwave.sweep.space import nested
from vqwave.sweep.table import metrics_of, one_line, outcome, reason_of
from vqwave.terminal import message

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

GIVE_UP = 3  # first trials that all fail: then the sweep itself is wrong
NO_ROOM = [os.strerror(number).lower() for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
POLL = 1.0  # seconds between two looks at the metrics of a trial that may be stopped early


class StoppedError(Exception):
    """A signal asked the sweep to stop; the trial at hand has saved."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass(frozen=True)
class Sweep:
    """The trials of a plan in the folder `out`: trial-001/ (a run folder), trial-001.log, ..., and
    optuna's journal of them.

    `overrides` (key=value) are put after every trial's own settings.
    """

    plan: Plan
    out: Path
    count: int | None = None
    seed: int = 0
    overrides: Sequence[str] = ()
    quiet: bool = False

    def run(self) -> list[FrozenTrial]:
        """Every trial that is not finished yet -> all, in order.

        Raises UserInputError, or StoppedError after a signal; OSErrors name a file or `out`.
        """
        planned = self.plan.trials(self.count, self.seed)
        with located(self.out):
            study = self._checked_study()
            with _signals():
                while self._run_next(study, planned):
                    self._check_hopes(study)
        return _finished(study)[: len(planned)]

    def command(self, number: int, values: dict[str, Any]) -> list[str]:
        """The command line of a trial, word by word: in a folder of its own, and with the overrides
        last.
        """
        own = [f"run={self._run(number)}", "train.tracker=none"]
        return [*self.plan.words(values), *own, *self.overrides]

    def finished(self) -> list[FrozenTrial]:
        """The trials that have ended, in order: completed, failed and stopped early."""
        return _finished(self._study()) if (self.out / JOURNAL).exists() else []

    def _run(self, number: int) -> Path:
        return self.out / f"trial-{number:03d}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes the study and claims trials."""
        with (self.out / ".lock").open("a") as file:
            lock(file, wait=True)
            yield

    def _study(self) -> optuna.Study:
        """The study in the folder's journal, made if need be."""
        return open_study(self.out, minimize=self.plan.minimize, hyperband=self.plan.hyperband)

    def _checked_study(self) -> optuna.Study:
        """The same. Raises UserInputError where the folder holds another sweep, or other files."""
        library()
        self.out.mkdir(parents=True, exist_ok=True)
        there = [path.name for path in self.out.iterdir() if not path.name.startswith(".")]
        if there and JOURNAL not in there:
            raise UserInputError(f"{self.out}: not empty and holds no sweep; choose another --out")
        state = {"sweep": self.plan.tree, "seed": self.seed, "overrides": list(self.overrides)}
        state = json.loads(json.dumps(state, default=str))
        with self._alone():
            study = self._study()
            changed = [
                key
                for key in differences(study.user_attrs.get("state", state), state)
                if not key.startswith(("sweep.description", "sweep.run_cap"))
            ]
            if changed:
                other = f"holds another sweep (other {', '.join(changed)})"
                raise UserInputError(f"{self.out}: {other}; choose another --out")
            study.set_user_attr("state", state)
        return study

    def _run_next(self, study: optuna.Study, planned: list[dict[str, Any] | None]) -> bool:
        """Run a trial to its end -> whether there was one."""
        with ExitStack() as claims:
            trial = self._claim(study, len(planned), claims)
            if trial is not None:
                chosen = ((p, p.suggested(trial)) for p in self.plan.parameters)
                self._run_trial(trial, planned[trial.number] or nested(chosen), len(planned))
        return trial is not None

    def _claim(self, study: optuna.Study, total: int, claims: ExitStack) -> Trial | None:
        """A trial that was interrupted, else a new one, else None once all have ended; no other
        process runs it until `claims` close.
        """
        optuna = library()
        while True:
            with self._alone():
                trials = study.get_trials(deepcopy=False)
                running = [t for t in trials[:total] if not t.state.is_finished()]
                for trial in running:
                    if self._hold(trial.number, claims, wait=False):
                        return optuna.trial.Trial(study, trial._trial_id)
                if (number := len(trials)) < total:
                    self._hold(number, claims, wait=False)
                    # seeded anew: no process repeats the draws of another
                    seed = counter_key("sweep", self.seed, number) % 2**32
                    study.sampler = optuna.samplers.TPESampler(seed=seed)
                    return study.ask()
            if not running:
                return None
            with ExitStack() as waiting:  # another process runs it, or was killed meanwhile
                self._hold(running[0].number, waiting, wait=True)

    def _hold(self, number: int, claims: ExitStack, *, wait: bool) -> bool:
        file = claims.enter_context((self.out / f".{self._run(number + 1).name}.lock").open("a"))
        return lock(file, wait=wait)

    def _run_trial(self, trial: Trial, values: dict[str, Any], total: int) -> None:
        number, began = trial.number + 1, time.perf_counter()
        run, log = self._run(number), self.out / f"{self._run(number).name}.log"
        trial.set_user_attr("values", json.loads(json.dumps(values, default=str)))
        if not self.quiet:
            message(f"trial {number} of {total}: {one_line(values)}  (see {log})")
        status = self._finish(self.command(number, values), log, trial)
        metric, reason = self._outcome(status, run, log)
        seconds = round(time.perf_counter() - began, 1)
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("reason", reason)
        state = "FAIL" if metric is None else "PRUNED" if status is None else "COMPLETE"
        value = metric if state == "COMPLETE" else None
        trial.study.tell(trial, value, library().trial.TrialState[state])
        if not self.quiet:
            name = "" if metric is None else f"{self.plan.metric} "
            text = name + outcome(trial.study.get_trials(deepcopy=False)[trial.number])
            message(f"trial {number} of {total}: {text}  ({seconds:.0f} s)")

    def _check_hopes(self, study: optuna.Study) -> None:
        """Raises UserInputError where the first trials all failed; the next command tries them
        again.
        """
        with self._alone():
            trials, ended = study.get_trials(deepcopy=False), _finished(study)
            if len(ended) < GIVE_UP or any(trial.state.name != "FAIL" for trial in ended):
                return
            if len(ended) == len(trials):
                (self.out / JOURNAL).write_bytes(b"")
        last = f"the last: {ended[-1].user_attrs['reason']}"
        raise UserInputError(f"{self.out}: the first {len(ended)} trials all failed, {last}")

    def _finish(self, command: list[str], log: Path, trial: Trial) -> int | None:
        """Run a command to its end, output into `log` -> its exit status, None if stopped early.

        On a signal, let it save first. The log is locked by whoever writes into it, launchers and
        what they launch, so that nobody runs a trial twice at once.
        """
        path = os.pathsep.join(
            (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
        )
        with log.open("a") as output:
            if not lock(output, wait=False):
                waiting = "a killed sweep left this trial running; waiting for its end"
                message(f"{log}: {waiting}")
                lock(output, wait=True)
            output.write(f"$ {shlex.join(command)}\n")
            output.flush()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PATH": path},
                    start_new_session=True,
                )
            except OSError as error:
                raise UserInputError(f"{command[0]}: cannot be run ({error.strerror})") from None
        try:
            status = self._wait(process, trial)
        except StoppedError as stop:
            message(f"{stop}: trial saves and leaves (again: ends at once)")
            _end(process, log)
            raise
        if status is None:
            _end(process, log)
        return status

    def _wait(self, process: subprocess.Popen, trial: Trial) -> int | None:
        """The exit status, or None as soon as the pruner gives the trial up."""
        if self.plan.hyperband is None:
            return process.wait()
        reported = trial.study.get_trials(deepcopy=False)[trial.number].last_step or 0
        status = None
        while status is None:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(POLL)
            series = metrics_of(self._run(trial.number + 1)).get(self.plan.metric, [])
            for value in series[reported:]:
                reported += 1
                trial.report(value, reported)
                if trial.should_prune() and status is None:
                    return None
        return status

    def _outcome(self, status: int | None, run: Path, log: Path) -> tuple[float | None, str]:
        """The trial's last value of the metric, or why there is none.

        A trial that somebody stopped stops the sweep, and so does a disk that is full: the trial
        has not failed, it is not over.
        """
        if status:
            reason = reason_of(log.read_text(errors="replace"))
            if reason.startswith("stopped at "):
                raise StoppedError(signal.SIGTERM)
            if any(word in reason.lower() for word in NO_ROOM):
                again = "make room and run the same command to go on"
                raise UserInputError(f"{log}: {reason.removeprefix('error: ')}; {again}")
            return None, reason.removeprefix("error: ")
        series = metrics_of(run)
        name = self.plan.metric
        if name not in series:
            return None, f"no metric {name} in {run / 'metrics.jsonl'}{nearest(name, series)}"
        value = series[name][-1]
        if not math.isfinite(value):
            return None, f"{name} is {value}"
        return value, ""


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _end(process: subprocess.Popen, log: Path) -> None:
    """Ask all processes of a trial to save and leave, and wait until none is left; a signal
    meanwhile ends them at once.
    """
    try:
        os.killpg(process.pid, signal.SIGTERM)
        with log.open("a") as output:
            lock(output, wait=True)
    except StoppedError:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


@contextmanager
def _signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and, but under nohup, a closed terminal raise StoppedError."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise StoppedError(number)

    before = {
        number: signal.signal(number, stop)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
