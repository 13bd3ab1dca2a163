"""Commands about many runs: sweep."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from vqwave.cli.arguments import Add
from vqwave.errors import UserInputError
from vqwave.terminal import message, output


def add(add: Add) -> None:
    sweep = add(
        "sweep",
        run_sweep,
        "Run the trials of a sweep file without a server, and print the best.",
    )
    sweep.add_argument(
        "file",
        type=Path,
        metavar="SWEEP.yaml",
        help="the same file that `wandb sweep` takes; grid, random or bayes",
    )
    sweep.add_argument(
        "--count", type=int, help="trials in all; default: the whole grid, or the file's run_cap"
    )
    sweep.add_argument(
        "--out",
        type=Path,
        help=(
            "folder of the trials (default runs/sweeps/NAME); the same command goes on in it, and"
            " shares them with others that run it at the same time"
        ),
    )
    sweep.add_argument("--seed", type=int, default=0, help="of random draws (default %(default)s)")
    sweep.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="key=value",
        help="settings for every trial, after the file's own",
    )
    sweep.add_argument(
        "--dry-run", action="store_true", help="print the commands of the trials, then stop"
    )


def run_sweep(arguments: argparse.Namespace) -> None:
    if arguments.count is not None and arguments.count < 1:
        raise UserInputError(f"--count {arguments.count}: expected 1 or more")
    for word in arguments.set:
        if "=" not in word:
            raise UserInputError(f"--set {word}: expected key=value")

    from vqwave.sweep import StoppedError, Sweep, best_of, read, text_table

    plan = read(arguments.file)
    if plan.program.endswith(".py") and not Path(plan.program).is_file():
        raise UserInputError(f"{arguments.file}: program: {plan.program}, no such file here")
    out = arguments.out or Path("runs/sweeps") / arguments.file.stem
    sweep = Sweep(plan, out, arguments.count, arguments.seed, arguments.set, quiet=arguments.quiet)
    if arguments.dry_run:
        for number, values in enumerate(plan.trials(arguments.count, arguments.seed), 1):
            if values is None:
                results = "method bayes chooses by the results of earlier trials"
                raise UserInputError(f"--dry-run: {results}, expected method grid or random")
            output(shlex.join(sweep.command(number, values)))
        return
    try:
        trials = sweep.run()
    except StoppedError as stop:
        done = f"{len(sweep.finished())} trials are done, all is in {out}"
        message(f"stopped: {done}; run the same command to go on")
        raise SystemExit(128 + stop.number) from None
    output(text_table(plan, trials, out))
    if best_of(trials, minimize=plan.minimize) is None:
        raise SystemExit(2)
