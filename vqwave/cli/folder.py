"""Many files by one command: which ones this process takes, what is left to do, and what could not
be done.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vqwave.errors import UserInputError
from vqwave.failures import line_of
from vqwave.terminal import message, output

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """One file to make of another."""

    source: Path
    target: Path
    refused: str = ""  # why it is not read


def share(arguments: argparse.Namespace, suffixes: Collection[str], suffix: str) -> list[Work]:
    """What there is to do for this process: every WORLD_SIZE-th file of the folder, and of those
    the ones not yet there.

    `accelerate launch` and torchrun set RANK and WORLD_SIZE. Files keep their places below the
    folder, under another suffix. Raises UserInputError for a folder without such files, for two
    files that would become one, for one that would become itself.
    """
    from vqwave.audio.sound_files import has_utf8_name, visible_files

    source, out = arguments.input, arguments.out
    if out is None:
        raise UserInputError(f"{source}: a folder, expected --out FOLDER, too")
    if str(out) == "-":
        raise UserInputError(f"--out -: {source} is a folder, expected --out FOLDER")
    if out.exists() and not out.is_dir():
        raise UserInputError(
            f"{out}: a file, expected a folder for what is made of the files in {source}"
        )
    files = [path for path in visible_files(source, suffixes) if not _made(path, source, out)]
    refused = [
        Work(path, out / path.name, why)
        for path, why in _refused(source, suffixes)
        if not _made(path, source, out)
    ]
    if not files and not refused:
        raise UserInputError(f"{source}: no files in it end in {', '.join(sorted(suffixes))}")
    good = (path for path in files if has_utf8_name(path))
    works = [Work(path, out / path.relative_to(source).with_suffix(suffix)) for path in good]
    places: dict[Path, Path] = {}
    for work in works:
        if (other := places.setdefault(work.target, work.source)) != work.source:
            raise UserInputError(f"{other} and {work.source} would both become {work.target}")
        if work.target.resolve() == work.source.resolve():
            raise UserInputError(f"{out}: is what is read, expected another folder to write into")
    rank, ranks = _place()
    mine = [*works, *refused][rank::ranks]
    there = {work for work in mine if not work.refused and work.target.exists()}
    there = set() if arguments.overwrite else there
    if there and not arguments.quiet:
        what = f"{len(there)} of {len(mine)} files are in {out} already and stay as they are"
        message(f"note: {what}, whatever made them; --overwrite makes them again")
    return [work for work in mine if work not in there]


def _made(path: Path, source: Path, out: Path) -> bool:
    """Whether a file below `source` lies in `out`, a folder in it: it was made by a run before."""
    return out.resolve() != source.resolve() and out.resolve() in path.resolve().parents


def _place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    rank, ranks = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and ranks.isdecimal() and int(rank) < int(ranks)):
        given = f"RANK={rank} WORLD_SIZE={ranks}"
        raise UserInputError(f"{given}: expected the number of a process, and of how many")
    return int(rank), int(ranks)


def _refused(source: Path, suffixes: Collection[str]) -> list[tuple[Path, str]]:
    """What of the folder is not read, and why: other formats of sound, names that are not UTF-8,
    pipes.
    """
    from vqwave.audio.sound_files import FOREIGN, SUFFIXES, refused_files

    return refused_files(source, suffixes | FOREIGN if suffixes == SUFFIXES else suffixes)


class Account:
    """Counts files: a bar over all, a line for each that failed, at the end a line or an error."""

    def __init__(
        self, arguments: argparse.Namespace, works: Sequence[Work], total: float, unit: str
    ) -> None:
        """total: of the bar, in `unit`."""
        from tqdm import tqdm

        self.out, self.count, self.failed = arguments.out, len(works), 0
        hidden = arguments.quiet or os.environ.get("RANK", "0") != "0"
        self.bar = tqdm(
            total=total,
            disable=hidden or None,
            unit=unit,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit}",
        )

    def attempt(self, work: Work, step: Callable[[], T]) -> T | None:
        """The step's result; where the file is at fault, a line about it and None."""
        try:
            if work.refused:
                raise UserInputError(work.refused)
            return step()
        except Exception as error:
            self.bar.clear()
            message(f"error: {line_of(error, work.source)}")
            self.failed += 1
            return None

    def over(self, works: Sequence[Work]) -> Iterator[Work]:
        """The files one after another, each a step of the bar."""
        for work in works:
            yield work
            self.bar.update(1)

    def close(self) -> None:
        """Raises UserInputError where a file failed."""
        self.bar.close()
        if self.failed:
            done = "" if self.failed == self.count else f"; the others are in {self.out}"
            raise UserInputError(f"{self.failed} of {self.count} files could not be used{done}")
        output(f"{self.out}: {self.count} files")
