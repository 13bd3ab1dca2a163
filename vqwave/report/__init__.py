"""The listening page: one HTML file, with sound and pictures inside, that shows what runs have
reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vqwave.atomic_files import write_text
from vqwave.errors import UserInputError
from vqwave.inference.hub import is_address
from vqwave.report.figures import require_matplotlib
from vqwave.report.page import page
from vqwave.report.run import read_run

__all__ = ["watch_report", "write_report"]


Source = Path | str  # a run folder, a model folder, or a model's name


def write_report(runs: Sequence[Source], out: Path, recordings: Sequence[Path] = ()) -> Path:
    """Write the page of one or several runs to `out`, completely or not at all, and return its
    path.

    A run is a run folder, a model folder or the name of a shipped model. Runs that belong together
    (a VQ-VAE and its student) share the page: their outputs for one utterance are side by side.
    What a run has not written yet is left out. The page needs no other file and no network.

    recordings: sound files or corpora that the models reconstruct and convert, in place of the
    samples that the runs have.

    Raises `UserInputError` that names the file, for a folder that is no run, for files in it that
    cannot be used, and where matplotlib (the extra `report`) is not installed.
    """
    folders = _checked(runs)
    read = [read_run(folder) for folder in folders]
    with TemporaryDirectory() as temporary:
        if recordings:
            from vqwave.report.demonstration import demonstrated

            read = demonstrated(read, recordings, Path(temporary))
        html = page(read)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)
    return out


def watch_report(
    runs: Sequence[Source], out: Path, every: float, wrote: Callable[[Path], None]
) -> None:
    """Write the page of run folders to `out` and, `every` so many seconds, what is new in them,
    until their trainings have ended; an open page takes over what changed.

    `wrote` is called once, after the first version. Raises `UserInputError` as `write_report`.
    """
    from vqwave.report.watch import watch

    watch(_checked(runs), out, every, wrote=wrote)


def _checked(runs: Sequence[Source]) -> list[Source]:
    """Each run once."""
    if not runs:
        raise UserInputError("no run folder given, expected at least one")
    require_matplotlib()
    return list({run if is_address(run) else Path(run).resolve(): run for run in runs}.values())
