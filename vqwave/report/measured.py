"""What `vqwave evaluate` measured of runs: tables with ceilings and floors, confusion matrices, the
map of codes, pitch tracks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from vqwave.evaluation.result import EvaluationReport, Matrix, MetricValue, Row
from vqwave.report.conversions import voices_of
from vqwave.report.figures import Line, chart, data_uri, number, strip
from vqwave.report.run import Run

WIDEST = 14  # columns of a matrix whose cells are written out; a wider one is a picture
HEADINGS = {"mu-law": "8-bit μ-law", "griffin-lim": "Griffin-Lim, true frames"}
TITLES = {
    "nll": "Likelihood",
    "codes": "Codes",
    "words": "Words and speakers that are recognised",
    "speakers": "Words and speakers that are recognised",
    "conversion": "Conversion",
    "wer": "Words, voice and naturalness by judges trained elsewhere",
    "similarity": "Words, voice and naturalness by judges trained elsewhere",
    "mos": "Words, voice and naturalness by judges trained elsewhere",
    "converted": "Conversion, by judges trained elsewhere",
    "spectral": "Distance from the recording",
    "pitch": "Distance from the recording",
    "perceptual": "Distance from the recording",
    "abx": "Information in the codes",
    "map": "Information in the codes",
    "probes": "Information in the codes",
    "prior": "Prior",
    "say": "Prior",
}


@dataclass(frozen=True)
class Cell:
    """A figure and its interval, as written; `what`: of what it is."""

    value: str = ""
    interval: str = ""
    what: str = ""


@dataclass(frozen=True)
class Measured:
    """A table of one theme: rows are (measure, unit, direction, cells)."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, str, str, list[Cell]]]


@dataclass(frozen=True)
class Heat:
    """A matrix: cells are (text, share of the largest), or, where it is wide, a picture for each
    row.
    """

    title: str
    unit: str
    corner: str
    colour: int
    columns: list[str]
    rows: list[tuple[str, list[tuple[str, str]]]]
    strips: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Melody:
    """The pitch of an utterance in recording and copies."""

    title: str
    picture: Markup


@dataclass(frozen=True)
class Findings:
    """The section of the page; `notes` are sentences beneath the tables."""

    about: list[str]
    tables: list[Measured]
    matrices: list[Heat]
    melodies: list[Melody]
    notes: list[str]


def findings(runs: Sequence[Run]) -> Findings | None:
    """None where no run has been evaluated.

    Runs that were measured on the same recordings share their tables.
    """
    there = [(index, run, run.report) for index, run in enumerate(runs) if run.report]
    if not there:
        return None
    groups: dict[str, list[tuple[Run, EvaluationReport]]] = {}
    for _, run, report in there:
        groups.setdefault(
            f"{report.corpus}, {report.split}: {report.utterances} utterances", []
        ).append((run, report))
    tables = [
        table
        for name, group in groups.items()
        for table in _tables(name, group, several=len(groups) > 1)
    ]
    notes = dict.fromkeys(
        f"{row.measure}: {row.note}." for _, _, report in there for row in report.rows if row.note
    )
    missing = [
        f"{run.name}, not measured: {name} ({why})."
        for _, run, report in there
        for name, why in report.skipped.items()
    ]
    return Findings(
        about=[_about(run, report) for _, run, report in there],
        tables=tables,
        matrices=[
            _heat(run, index % 4, matrix)
            for index, run, report in there
            for matrix in report.matrices
            if voices_of(matrix) is None
        ],
        melodies=[
            melody for index, run, report in there for melody in _melodies(run, report, index % 4)
        ],
        notes=[*notes, *missing],
    )


def _about(run: Run, report: EvaluationReport) -> str:
    student = f" and its student {report.student}" if report.student else ""
    return (
        f"{run.name}{student}: {report.utterances:,} utterances ({report.seconds:,.0f} s) of"
        f" {report.corpus}, split {report.split}, {report.sampling_text}."
    )


def _tables(
    name: str, group: Sequence[tuple[Run, EvaluationReport]], *, several: bool
) -> list[Measured]:
    """A table a theme; a column for the ceiling, for copies, for each model and student, for the
    floor.
    """
    sources: list[tuple[str, EvaluationReport | None, str]] = [("ceiling", None, "ceiling")]
    sources += [(HEADINGS[column], None, column) for column in ("mu-law", "griffin-lim")]
    for run, report in group:
        sources.append((f"Griffin-Lim, {run.name}'s frames", report, "frames"))
        sources.append((run.name, report, "model"))
        if report.student:
            sources.append((report.student, report, "student"))
    sources.append(("floor", None, "floor"))
    every = [report for _, report in group]
    themes: dict[str, dict[tuple[str, str], Row]] = {}
    for report in every:
        for row in report.rows:
            rows = themes.setdefault(TITLES.get(row.group, row.group), {})
            rows.setdefault((row.key, row.unit), row)  # figures in two units have a row each
    tables = []
    for theme, rows in themes.items():
        cells = [
            [
                _cell(row, every if source is None else [source], column)
                for _, source, column in sources
            ]
            for row in rows.values()
        ]
        used = [i for i in range(len(sources)) if any(row[i].value for row in cells)]
        written = [
            (
                row.measure,
                row.unit,
                {"higher": "↑", "lower": "↓"}.get(row.better, ""),
                [line[i] for i in used],
            )
            for row, line in zip(rows.values(), cells, strict=True)
        ]
        tables.append(
            Measured(
                f"{theme}; {name}" if several else theme, [sources[i][0] for i in used], written
            )
        )
    return tables


def _cell(wanted: Row, sources: Sequence[EvaluationReport], column: str) -> Cell:
    """The first figure of a column among evaluations, of this measure in this unit."""
    for report in sources:
        for row in report.rows:
            alike = (row.key, row.unit) == (wanted.key, wanted.unit)
            if alike and (figure := row.figures.get(column)) is not None:
                return _written(figure)
    return Cell()


def _written(figure: MetricValue) -> Cell:
    if figure.value is None:
        return Cell("n/a", "", figure.what)
    interval = ""
    if figure.low is not None and figure.high is not None and figure.low != figure.high:
        interval = f"{number(figure.low)} to {number(figure.high)}"
    return Cell(number(figure.value), interval, figure.what)


def _heat(run: Run, colour: int, matrix: Matrix) -> Heat:
    values = np.array(
        [[np.nan if cell is None else cell for cell in row] for row in matrix.values], np.float64
    )
    values = values.reshape(len(matrix.rows), len(matrix.columns))
    most = 100.0 if matrix.unit.startswith("%") else float(np.nanmax(values, initial=1e-9))
    shares = np.nan_to_num(values / most)
    wide = len(matrix.columns) > WIDEST
    rows, strips = [], []
    for name, row, share in zip(matrix.rows, values, shares, strict=True):
        if wide:
            caption = f"{name}: at most {number(float(np.nanmax(row, initial=0.0)))} {matrix.unit}"
            strips.append((name, data_uri(strip(share, 1.0), "image/png"), caption))
        else:
            cells = ["" if np.isnan(cell) else f"{cell:.0f}" for cell in row]
            rows.append((name, list(zip(cells, (f"{x:.2f}" for x in share), strict=True))))
    corner = f"{matrix.row_label} ↓ {matrix.column_label} →"
    return Heat(
        f"{run.name}: {matrix.title}", matrix.unit, corner, colour, matrix.columns, rows, strips
    )


def _melodies(run: Run, report: EvaluationReport, colour: int) -> list[Melody]:
    """A chart of each track: the recording as a level line, copies in the run's colours; unvoiced
    stretches are gaps.
    """
    melodies = []
    for track in report.tracks:
        lines = []
        for place, (name, curve) in enumerate(track.curves.items()):
            style = "level" if name == "recording" else f"run-{(colour + place - 1) % 4} held-out"
            lines += _voiced(np.array(curve, np.float64), track.step, style, name)
        if lines:
            picture = chart(f"pitch of {track.utterance}", lines, "seconds", "Hz")
            melodies.append(Melody(f"{run.name}: {track.utterance}", picture))
    return melodies


def _voiced(curve: NDArray[np.float64], step: float, style: str, name: str) -> list[Line]:
    """The voiced stretches of a curve of F0 (0 where unvoiced), the name at the last of them."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], (curve > 0).astype(int), [0]])))
    stretches = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]
    times = step * np.arange(len(curve), dtype=np.float64)
    return [
        Line(times[a:b], curve[a:b], style, name if b == stretches[-1][1] else "")
        for a, b in stretches
    ]
