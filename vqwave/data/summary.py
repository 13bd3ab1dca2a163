"""What `vqwave prepare` prints at its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqwave.data.corpus import REJECTED, Utterance
from vqwave.data.manifest import Rejected

SHOWN = 12  # speakers, and rejected files, that the table lists one by one


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    name: str
    utterances: int
    speakers: int
    minutes: float


@dataclass(frozen=True)
class Summary:
    """What was prepared: a line a split, a line a speaker, and the files that were left out."""

    out: Path
    name: str
    sample_rate: int
    splits: tuple[Line, ...]
    speakers: tuple[Line, ...]
    total: Line
    rejected: tuple[Rejected, ...]

    def table(self) -> str:
        """A few printed lines: splits, speakers (if few), rejected files with their reasons."""
        lines = [f"{self.name} at {self.sample_rate} Hz in {self.out}"]
        lines.append(f"{'':12} {'utterances':>10} {'speakers':>9} {'minutes':>9}")
        rows = (*self.splits, self.total)
        lines += [f"{x.name:12} {x.utterances:10d} {x.speakers:9d} {x.minutes:9.2f}" for x in rows]
        shown = self.speakers if len(self.speakers) <= SHOWN else ()
        lines += [f"  {x.name:10} {x.utterances:10d} {'':9} {x.minutes:9.2f}" for x in shown]
        lines.append(f"{'rejected':12} {len(self.rejected):10d}")
        lines += [f"  {row.path}: {row.reason}" for row in self.rejected[:SHOWN]]
        if len(self.rejected) > SHOWN:
            lines.append(f"  and {len(self.rejected) - SHOWN} more, all in {self.out / REJECTED}")
        return "\n".join(lines)


def summarise(
    out: Path,
    name: str,
    sample_rate: int,
    utterances: Sequence[Utterance],
    rejected: Sequence[Rejected],
) -> Summary:
    """Count utterances, speakers and minutes by split and by speaker."""

    def line(title: str, rows: Sequence[Utterance]) -> Line:
        minutes = sum(u.frames for u in rows) / sample_rate / 60
        return Line(title, len(rows), len({u.speaker for u in rows}), minutes)

    by_split: dict[str, list[Utterance]] = {"train": [], "valid": [], "test": []}
    by_speaker: defaultdict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        by_split[utterance.split].append(utterance)
        by_speaker[utterance.speaker].append(utterance)
    return Summary(
        out=out,
        name=name,
        sample_rate=sample_rate,
        splits=tuple(line(split, rows) for split, rows in by_split.items() if rows),
        speakers=tuple(line(speaker, rows) for speaker, rows in sorted(by_speaker.items())),
        total=line("all", utterances),
        rejected=tuple(rejected),
    )
