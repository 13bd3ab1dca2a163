"""Training: train."""

from __future__ import annotations

import argparse

from vqwave.cli.arguments import Add


def add(add: Add) -> None:
    """Add the command to the parser."""
    from vqwave.training.experiment_files import experiment_summaries

    command = add(
        "train", run_train, "Train a model; the same command resumes a run that was interrupted."
    )
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.usage = "vqwave train EXPERIMENT [--config NAME|FILE] [--dry-run] [key=value ...]"
    summaries = experiment_summaries()
    rows = "\n".join(f"  {name:11} {text}" for name, text in summaries.items())
    command.epilog = (
        f"experiments:\n{rows}\n\n"
        "`vqwave train EXPERIMENT --help` lists the settings. Several processes or GPUs:\n"
        "`accelerate launch -m vqwave train EXPERIMENT ...`."
    )
    command.add_argument(
        "experiment", metavar="EXPERIMENT", help="a name below, or a .py file with one of your own"
    )
    command.add_argument(
        "settings",
        nargs=argparse.REMAINDER,
        metavar="...",
        help="--config NAME|FILE (repeatable), key=value, --dry-run, --restart, --quiet, --help",
    )


def run_train(arguments: argparse.Namespace) -> None:
    """Train, as `python experiments/NAME.py` does."""
    from vqwave.training.command_line import main
    from vqwave.training.experiment_files import load_experiment, with_config_files

    name = arguments.experiment
    experiment = load_experiment(name)
    settings = with_config_files(experiment.name, arguments.settings)
    if arguments.quiet:
        settings.append("--quiet")
    main(experiment, settings, program=f"vqwave train {name}")
