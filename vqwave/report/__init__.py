"""The listening page: one HTML file, with sound and pictures inside, that shows what runs have
reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vqwave.atomic_files import write_text
from vqwave.errors import UserInputError
from vqwave.report.figures import require_matplotlib
from vqwave.report.page import page
from vqwave.report.run import read_run

__all__ = ["write_report"]


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of one or several run folders to `out`, completely or not at all, and return
    its path.

    Runs that belong together (a VQ-VAE and its student) share the page: their outputs for one
    utterance are side by side. What a run has not written yet is left out. The page needs no
    other file and no network.

    Raises `UserInputError` that names the file, for a folder that is no run, for files in it that
    cannot be used, and where matplotlib (the extra `report`) is not installed.
    """
    if not runs:
        raise UserInputError("no run folder given, expected at least one")
    require_matplotlib()
    folders = {folder.resolve(): folder for folder in map(Path, runs)}
    html = page([read_run(folder) for folder in folders.values()])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)
    return out
