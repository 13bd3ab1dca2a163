"""What an evaluation finds: rows of figures beside their ceiling and floor, matrices, and what
could not be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vqwave.decode.sampling import Temperatures
from vqwave.metrics.bootstrap import Estimate

COLUMNS = ("ceiling", "mu-law", "griffin-lim", "frames", "model", "student", "floor")
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class MetricValue:
    """One figure: its value (null as written where it is not finite), its 95 % interval and number
    of utterances, and of what.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    count: int | None = None
    what: str = ""

    @classmethod
    def of(cls, estimate: Estimate, what: str = "", scale: float = 1.0) -> MetricValue:
        low, high = (estimate.low * scale, estimate.high * scale)
        return cls(estimate.value * scale, low, high, estimate.count, what)


@dataclass(frozen=True)
class Row:
    """A measure: its figures by column (see COLUMNS).

    `group` is the name by which `only` asks for it.
    """

    key: str
    group: str
    measure: str
    unit: str
    better: Better
    figures: dict[str, MetricValue]
    note: str = ""


@dataclass(frozen=True)
class Matrix:
    """Numbers by row and column: counts of a confusion matrix, or rates in percent.

    None: nothing to count.
    """

    key: str
    title: str
    row_label: str
    column_label: str
    rows: list[str]
    columns: list[str]
    values: list[list[float | None]]
    unit: str = ""

    def __post_init__(self) -> None:
        if [len(row) for row in self.values] != [len(self.columns)] * len(self.rows):
            raise ValueError(
                f"values of {len(self.rows)} rows and {len(self.columns)} columns expected"
            )


@dataclass(frozen=True)
class Track:
    """F0 in Hz every `step` seconds, 0 where unvoiced, of one utterance by who speaks it:
    recording, model, student.
    """

    utterance: str
    step: float
    curves: dict[str, list[float]]


@dataclass(frozen=True)
class EvaluationReport:
    """`metrics.json`, as `vqwave evaluate` writes it and the README's table and the page read
    it.
    """

    corpus: str
    split: str
    utterances: int
    rows: list[Row]
    model: str = ""
    kind: str = ""
    seconds: float = 0.0
    temperature: float | dict[str, float] = 1.0  # of all parts, or of each
    student_temperature: float | dict[str, float] | None = None  # where it is another
    student: str | None = None
    matrices: list[Matrix] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def drawn(self) -> str:
        """The temperature in words."""
        text = f"temperature {_read(self.temperature)}"
        if self.student_temperature is None:
            return text
        return f"{text}, of the student {_read(self.student_temperature)}"


def written(temperatures: Temperatures) -> float | dict[str, float]:
    """A number where the parts have the same."""
    return temperatures.choice if len(set(temperatures)) == 1 else temperatures._asdict()


def _read(temperature: float | dict[str, float]) -> Temperatures:
    """The inverse of `written`."""
    if isinstance(temperature, dict):
        return Temperatures(**temperature)
    return Temperatures(temperature, temperature, temperature)


def nothing(result: Result) -> None:
    """What is done after each figure where nothing is written meanwhile."""


@dataclass
class Result:
    """Gathers what the measures yield; `changed` is called after each figure, e.g. to write it."""

    about: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)  # measures that are still to be taken
    changed: Callable[[Result], None] = nothing

    def add(
        self,
        key: str,
        measure: str,
        unit: str,
        better: Better,
        figures: dict[str, MetricValue | None],
        note: str = "",
    ) -> None:
        """A row, in place of one of the same key; columns that are None are left out.

        The group is what stands before the dot in `key`.
        """
        there = {name: figure for name in COLUMNS if (figure := figures.get(name)) is not None}
        row = Row(key, key.split(".")[0], measure, unit, better, there, note)
        place = next((i for i, other in enumerate(self.rows) if other.key == key), len(self.rows))
        self.rows[place : place + 1] = [row]
        self.changed(self)

    def tree(self) -> dict[str, Any]:
        """As it is written: numbers that are not finite become null."""
        return _finite(
            {
                "format": 1,
                **self.about,
                "rows": [asdict(row) for row in self.rows],
                "matrices": [asdict(matrix) for matrix in self.matrices],
                "tracks": [asdict(track) for track in self.tracks],
                "skipped": self.skipped,
                "pending": self.pending,
            }
        )


def confusion(
    key: str,
    title: str,
    names: tuple[str, str],
    values: Sequence[str],
    said: Sequence[int],
    heard: Sequence[int],
) -> Matrix:
    """Counts of what was said (rows) and heard (columns), as places in `values`; those that were
    never said are left out.
    """
    counts = [[0.0] * len(values) for _ in values]
    for row, column in zip(said, heard, strict=True):
        counts[row][column] += 1
    kept = [i for i, row in enumerate(counts) if any(row)]
    heard_at_all = [j for j in range(len(values)) if j in kept or any(row[j] for row in counts)]
    return Matrix(
        key,
        title,
        *names,
        [values[i] for i in kept],
        [values[j] for j in heard_at_all],
        [[counts[i][j] for j in heard_at_all] for i in kept],
        "utterances",
    )


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
