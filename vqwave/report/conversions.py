"""Conversion from each source to each target speaker: players, and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vqwave.evaluation.result import Matrix
from vqwave.report.listen import Listening
from vqwave.report.run import Run

# what is measured by source and target (a matrix `GROUP.PART.SYSTEM`), the most telling first
PARTS = {
    "converted.similarity": "similarity to the target",
    "conversion.target": "target reached, %",
    "conversion.content": "words kept, %",
    "conversion.source": "source recognised, %",
}


@dataclass(frozen=True)
class ConversionCell:
    """`figures` are in the order of the matrix's measures; `players` are places of tiles on the
    page; `share` colours the cell by the first figure.
    """

    figures: list[str]
    players: list[int]
    share: str
    same: bool  # source and target are one speaker


@dataclass(frozen=True)
class ConversionMatrix:
    """Rows are (source, cells)."""

    title: str
    colour: int
    measures: list[str]
    columns: list[str]
    rows: list[tuple[str, list[ConversionCell]]]


def voices_of(matrix: Matrix) -> tuple[str, str] | None:
    """Part and system of a matrix of conversions; None for another."""
    part, _, system = matrix.key.rpartition(".")
    return (part, system) if part in PARTS else None


def conversions(runs: Sequence[Run], listening: Listening | None) -> list[ConversionMatrix]:
    """A matrix for each run, and for each student that was measured with it, which has conversions
    to play or measured ones.
    """
    copies = listening.copies if listening else {}
    result = []
    for index, run in enumerate(runs):
        players = {
            (source, target): places
            for (owner, source, target), places in copies.items()
            if owner == index
        }
        systems: dict[str, list[Matrix]] = {}
        for matrix in run.report.matrices if run.report else ():
            if (voices := voices_of(matrix)) is not None:
                systems.setdefault(voices[1], []).append(matrix)
        if any(source != target for source, target in players):
            systems.setdefault("model", [])
        for system, matrices in systems.items():
            own = system == "model"
            name = run.name if own or run.report is None else run.report.student or system
            result.append(_matrix(name, index % 4, matrices, players if own else {}))
    return result


def _matrix(
    name: str,
    colour: int,
    matrices: Sequence[Matrix],
    players: dict[tuple[str, str], list[int]],
) -> ConversionMatrix:
    order = list(PARTS)
    ranked = sorted(matrices, key=lambda matrix: order.index(matrix.key.rpartition(".")[0]))
    sources = sorted({*(s for s, _ in players), *(s for m in ranked for s in m.rows)})
    targets = sorted({*(t for _, t in players), *(t for m in ranked for t in m.columns)})
    rows = [
        (source, [_cell(ranked, players, source, target) for target in targets])
        for source in sources
    ]
    measures = [PARTS[matrix.key.rpartition(".")[0]] for matrix in ranked]
    return ConversionMatrix(name, colour, measures, targets, rows)


def _cell(
    matrices: Sequence[Matrix],
    players: dict[tuple[str, str], list[int]],
    source: str,
    target: str,
) -> ConversionCell:
    values = [_value(matrix, source, target) for matrix in matrices]
    share = 0.0
    if values and values[0] is not None:
        share = values[0] / (100.0 if matrices[0].unit.startswith("%") else 1.0)
    return ConversionCell(
        figures=[
            ""
            if value is None
            else f"{value:.0f}"
            if matrix.unit.startswith("%")
            else f"{value:.2f}"
            for matrix, value in zip(matrices, values, strict=True)
        ],
        players=players.get((source, target), []),
        share=f"{min(max(share, 0.0), 1.0):.2f}",
        same=source == target,
    )


def _value(matrix: Matrix, source: str, target: str) -> float | None:
    if source not in matrix.rows or target not in matrix.columns:
        return None
    return matrix.values[matrix.rows.index(source)][matrix.columns.index(target)]
