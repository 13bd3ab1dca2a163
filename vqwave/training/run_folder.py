"""What a run folder must hold for a run to go on in it: the same experiment, settings and sources,
and no other process.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vqwave import config as settings
from vqwave import parsing
from vqwave.atomic_files import alone, empty, is_left, sweep, write_text, writing
from vqwave.errors import UserInputError, under
from vqwave.terminal import message
from vqwave.training import identity
from vqwave.training.experiment import Experiment
from vqwave.training.settings import ExperimentSpec
from vqwave.training.tracking import check_board

FREE = (
    "run",  # the folder may have been moved
    *(
        f"train.{name}"
        for name in (
            "steps",
            "minutes",
            "first_sample_minutes",
            "log_every",
            "valid_every",
            "save_every",
            "keep_checkpoints",
            "threads",
            "tracker",
        )
    ),
    "train.dist_timeout_minutes",
    "train.activation_checkpointing",
    "data.workers",
)
"""Settings that a resumed run may change."""


def claim(experiment: Experiment[Any, Any], held: ExitStack, *, restart: bool) -> int:
    """Make the run folder, or check that the run in it is this one -> the optimizer steps that it
    was to make until now.

    Until `held` closes no other process trains in it. Raises UserInputError, before anything in the
    folder is touched, for a run of other settings or of a corpus or model that is not what it was.
    """
    check_board(experiment.config.train.tracker)
    config, now = experiment.config, experiment.identity()
    run, steps, tree = (
        config.run,
        config.train.steps,
        {"experiment": experiment.name, **settings.to_tree(config)},
    )
    with writing(run, "the settings"):
        held.enter_context(alone(run))
        if restart and (run / "config.yaml").exists():
            empty(run)
        if (run / "config.yaml").exists():
            before = _settings_of(experiment, run)
            # a path may be another: what lies there is compared
            free = {*FREE, *(identity.begun_with(run).keys() & now.keys())}
            changed = [key for key in settings.differences(before, tree) if key not in free]
            if changed:
                raise UserInputError(
                    f"{run}: holds a run with another {', '.join(changed)}; choose another run=...,"
                    " or --restart"
                )
            note = identity.check(run, now)
            if note is not None and any((run / "checkpoints").glob("step-*")):
                message(f"note: {note}")
            steps = before["train"]["steps"]
            sweep(run)
        elif run.exists() and any(not is_left(path) for path in run.iterdir()):
            raise UserInputError(f"{run}: not empty and not a run folder, expected a new one")
        write_text(run / "config.yaml", f"experiment: {experiment.name}\n" + settings.dump(config))
        identity.write(run, now)
    return steps


def _settings_of(experiment: Experiment[Any, Any], run: Path) -> dict[str, Any]:
    """The settings that a run folder was made with; what they do not name, since it is newer, has
    its default.
    """
    tree = parsing.read_yaml(run / "config.yaml", "the settings of a run")
    name = tree.pop("experiment", None)
    if name is None:
        raise UserInputError(
            f"{run / 'config.yaml'}: names no experiment, expected the settings of a run; choose"
            " another run=..., or --restart"
        )
    if name != experiment.name:
        raise UserInputError(
            f"{run}: holds a run of experiment {name}, expected {experiment.name}; choose another"
            " run=..."
        )
    with under(str(run / "config.yaml")):
        return {
            "experiment": name,
            **settings.to_tree(settings.build(type(experiment.config), tree)),
        }


def resume_line(config: ExperimentSpec, step: int, before: int, steps: int) -> str:
    """What is printed as a run goes on at `step`; `before`: the optimizer steps that it was to make
    when that was saved, `steps`: those that it is to make now.
    """
    line = f"resuming {config.run} at step {step}"
    if steps == before:
        return line
    line += f" of {steps}, {before} before"
    was, now = (config.optim.lr_at(step, total) for total in (before, steps))
    return (
        line
        if was == now
        else f"{line}: the learning rate of the next step is {now:.4g}, {was:.4g} before"
    )
