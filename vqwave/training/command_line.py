"""The command line of an experiment: settings, training, one line for an error, the exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vqwave import config as settings
from vqwave.distributed.collectives import Elsewhere
from vqwave.distributed.torch_defaults import own_defaults
from vqwave.failures import ending
from vqwave.terminal import message, output
from vqwave.training.experiment import Experiment
from vqwave.training.experiment_files import with_config_files
from vqwave.training.run_folder import FREE
from vqwave.training.signals import LOST, RunInterruptedError, StopSignal
from vqwave.training.tracking import own_folder
from vqwave.training.trainer import Trainer


@own_defaults()
def main(
    experiment: type[Experiment[Any, Any]],
    argv: Sequence[str] | None = None,
    *,
    program: str | None = None,
) -> None:
    """What `experiments/*.py` and `vqwave train` run; `program`: its name in `--help`.

    Exit status 0; 2 with one line for bad input, a full disk and the like; 130 after Ctrl-C, 143
    after SIGTERM; 1 if a process of several is lost, or after a mistake of the package, whose
    traceback is in the run folder.
    """
    started, stop = Started(), StopSignal()
    with ending(reports=started.reports, folder=started.folder), stop.handling_signals():
        _main(experiment, sys.argv[1:] if argv is None else argv, stop, started, program)


@dataclass
class Started:
    """How far a command came: the run it is about, and whether it trains."""

    run: Path | None = None
    training: bool = False

    def reports(self, error: BaseException) -> bool:
        """Before the training all processes of this host have the same error, which the first
        reports.
        """
        return not isinstance(error, Elsewhere) and (self.training or _first_process_here())

    def folder(self) -> Path | None:
        """The run folder, once it is one."""
        known = self.run is not None and (self.run / "config.yaml").exists()
        return self.run if known else None


def _main(
    experiment: type[Experiment[Any, Any]],
    argv: Sequence[str],
    stop: StopSignal,
    started: Started,
    program: str | None,
) -> None:
    try:
        request = settings.parse(
            experiment.config_class,
            with_minutes(with_config_files(experiment.name, argv)),
            program=program or f"experiments/{experiment.name}.py",
            description=(experiment.__doc__ or "").strip(),
        )
        ignored = set(FREE) - {"train.steps", "train.minutes"}  # a sweep may well try several
        config = replace(
            request.config,
            run=own_folder(request.config.run, settings.to_tree(request.config), ignored),
        )
        if request.dry_run:
            output(settings.dump(config) + "\n" + experiment(config).describe())
            return
        chosen = experiment(config)
        started.run, started.training = config.run, True
        Trainer(chosen, restart=request.restart, quiet=request.quiet, stop=stop).run()
    except KeyboardInterrupt:  # before the trainer could report it, or once more while it ended
        if _first_process_here():
            where = (
                "at once: run the same command to go on"
                if started.training
                else "before anything was begun: run the same command again"
            )
            message(f"stopped {where}")
        raise SystemExit(128 + (stop.signal or signal.SIGINT)) from None
    except RunInterruptedError as error:
        lost = error.status == LOST  # each process has a message of its own
        if str(error) and ((started.training and lost) or _first_process_here()):
            message(f"error: {error}" if lost else error)
        if error.abrupt:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.status)  # tidying up would wait for other processes
        raise SystemExit(error.status) from None


def with_minutes(argv: Sequence[str]) -> list[str]:
    """`--minutes 30` is `train.minutes=30`.

    >>> with_minutes(["--minutes", "30", "--minutes=2", "seed=1"])
    ['--train.minutes', '30', '--train.minutes=2', 'seed=1']
    """
    flag = "--minutes"
    return [
        "--train.minutes" + word.removeprefix(flag)
        if word == flag or word.startswith(f"{flag}=")
        else word
        for word in argv
    ]


def _first_process_here() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
