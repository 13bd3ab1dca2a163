"""The command line of an experiment: settings, training, one line for an error, the exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vqwave import config as settings
from vqwave.distributed.collectives import Elsewhere
from vqwave.distributed.torch_defaults import own_defaults
from vqwave.errors import UserInputError
from vqwave.training.experiment import Experiment
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

    Exit status 0; 2 with one line for bad input; 130 after Ctrl-C, 143 after SIGTERM, 1 if a
    process of several is lost.
    """
    stop = StopSignal()
    with stop.handling_signals():
        _main(experiment, sys.argv[1:] if argv is None else argv, stop, program)


def _main(
    experiment: type[Experiment[Any, Any]],
    argv: Sequence[str],
    stop: StopSignal,
    program: str | None,
) -> None:
    running = False
    try:
        request = settings.parse(
            experiment.config_class,
            argv,
            program=program or f"experiments/{experiment.name}.py",
            description=(experiment.__doc__ or "").strip(),
        )
        ignored = set(FREE) - {"train.steps"}  # a sweep may well try several
        config = replace(
            request.config,
            run=own_folder(request.config.run, settings.to_tree(request.config), ignored),
        )
        if request.dry_run:
            print(settings.dump(config) + "\n" + experiment(config).describe())
            return
        chosen = experiment(config)
        running = True
        Trainer(chosen, restart=request.restart, quiet=request.quiet, stop=stop).run()
    except KeyboardInterrupt:  # before the trainer could report it, or once more while it ended
        if _first_process_here():
            where = (
                "at once: run the same command to go on"
                if running
                else "before anything was begun: run the same command again"
            )
            print(f"stopped {where}", file=sys.stderr)
        raise SystemExit(128 + (stop.signal or signal.SIGINT)) from None
    except UserInputError as error:
        # before the training all processes of this host have the same error: the first reports it
        reports = running or _first_process_here()
        if not isinstance(error, Elsewhere) and str(error) and reports:
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except RunInterruptedError as error:
        lost = error.status == LOST  # each process has a message of its own
        if str(error) and ((running and lost) or _first_process_here()):
            print(f"error: {error}" if lost else error, file=sys.stderr)
        if error.abrupt:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.status)  # tidying up would wait for other processes
        raise SystemExit(error.status) from None


def _first_process_here() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
