"""A live page: written again while runs are trained, until they have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vqwave.atomic_files import is_held, write_text
from vqwave.errors import UserInputError
from vqwave.report.page import Live, duration, page
from vqwave.report.run import Run, read_run

FILES = (
    "config.yaml",
    "pace.json",
    "metrics.jsonl",
    "evaluation.json",
    "metrics.json",
    "model/config.json",
    "samples/index.json",
)
SHORTEST, LONGEST = 1.0, 86_400.0  # seconds between two versions of a page


def watch(
    folders: Sequence[Path | str],
    out: Path,
    every: float,
    *,
    wrote: Callable[[Path], None],
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Write the page of runs to `out`, and again, every so many seconds, after something in them
    has changed; return once all of them have made their last step and nothing changes any more.

    The last version, which is written however this ends, takes over no further one. `wrote` is
    called after the first. What is being written by a run just then is read the next time.

    Raises UserInputError for what cannot be read at first, and where no run is trained.
    """
    if not SHORTEST <= every <= LONGEST:
        raise UserInputError(
            f"--watch {every:g}: expected at least {SHORTEST:g} s, and at most {LONGEST:g}"
        )
    runs = [read_run(folder) for folder in folders]
    if not any(run.is_run for run in runs):
        raise UserInputError("--watch: a trained model does not change, expected a run folder")
    write_text(out, page(runs, Live(every, status(runs))))
    wrote(out)
    seen = state(runs)
    try:
        while True:
            wait(every)
            now = state(runs)
            if now != seen:
                with suppress(UserInputError):  # half of what a run replaces: the next time
                    runs = [read_run(folder) for folder in folders]
                    write_text(out, page(runs, Live(every, status(runs))))
                    seen = now
            elif all(ended(run) for run in runs):
                return
    finally:
        with suppress(UserInputError):
            write_text(out, page(runs, Live(0.0, status(runs))))


def state(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Time and size of the files that a page is made of."""
    paths = [run.folder / name for run in runs for name in FILES]
    states = []
    for path in paths:
        try:
            about = path.stat()
        except OSError:
            states.append((0, 0))
        else:
            states.append((about.st_mtime_ns, about.st_size))
    return states


def ended(run: Run) -> bool:
    """Whether a run has made its last step and was evaluated after it."""
    if not run.is_run:
        return True
    evaluated = run.evaluation.step if run.evaluation else None
    if evaluated is None:
        return False
    planned = run.planned_steps
    if planned is not None and evaluated >= planned:
        return True
    return evaluated >= (run.steps or 0) and not is_held(run.folder)  # stopped by patience, say


def status(runs: Sequence[Run]) -> str:
    """How far the runs are, and when that was."""
    parts = [_progress(run) for run in runs if run.is_run]
    return f"{'; '.join(parts)}. Written at {time.strftime('%H:%M:%S')}."


def _progress(run: Run) -> str:
    steps, planned = run.steps or 0, run.planned_steps
    if planned is None:
        return f"{run.name}: step {steps:,}"
    if steps >= planned:
        return f"{run.name}: all {planned:,} steps"
    line = f"{run.name}: step {steps:,} of {planned:,}"
    if steps and run.seconds:
        line += f", about {duration(run.seconds / steps * (planned - steps))} to go"
    return line
