"""What an evaluation measures: rows of figures with their ceiling and floor, matrices, and what
could not be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vqwave.decode.sampling import Temperatures
from vqwave.evaluation.progress import NotApplicable
from vqwave.metrics.bootstrap import Estimate

COLUMNS = ("ceiling", "mu-law", "griffin-lim", "frames", "model", "student", "floor")
Better = Literal["higher", "lower", ""]
ByPart = dict[Literal["choice", "scale", "voiced"], float]


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

    `group` is its name in `Settings.only`.
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
    """F0 in Hz every `step` seconds, 0 where unvoiced, of one utterance: of its recording, and as
    the model and the student reconstruct it.
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
    temperature: float | ByPart = 1.0  # of all parts, or of each
    student_temperature: float | ByPart | None = None  # where it is another
    postfilter: list[float] = field(default_factory=list)  # strength, of each system
    student: str | None = None
    matrices: list[Matrix] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    finished: dict[str, list[str]] = field(default_factory=dict)  # as `Result.finished`
    provenance: dict[str, Any] = field(default_factory=dict)  # see `resume`

    @property
    def sampling_text(self) -> str:
        """The temperatures, and the strength of the post-filter, in words."""
        text = f"temperature {_read(self.temperature)}"
        if self.student_temperature is not None:
            text += f", of the student {_read(self.student_temperature)}"
        if not self.postfilter:
            return text
        return (
            f"{text}; post-filter {' and '.join(f'{x:g}' for x in dict.fromkeys(self.postfilter))}"
        )


def written(temperatures: Temperatures) -> float | dict[str, float]:
    """A number where the parts have the same."""
    return temperatures.choice if len(set(temperatures)) == 1 else temperatures._asdict()


def _read(temperature: float | ByPart) -> Temperatures:
    """The inverse of `written`."""
    if isinstance(temperature, dict):
        return Temperatures(**temperature)
    return Temperatures(temperature, temperature, temperature)


def nothing(_: Result) -> None:
    """What is done after each figure where nothing is written meanwhile."""


@dataclass
class Result:
    """Gathers what the measures yield; `changed` is called after each figure, e.g. to write it.

    `earlier`: what an earlier evaluation wrote to `path`, from which one may go on (see `resume`).
    """

    about: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    matrices: list[Matrix] = field(default_factory=list)
    tracks: list[Track] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)  # measures that are still to be taken
    # measures that were taken, each with the names of the parts that it had to skip
    finished: dict[str, list[str]] = field(default_factory=dict)
    changed: Callable[[Result], None] = nothing
    path: Path | None = None
    earlier: EvaluationReport | None = None
    _parts: list[str] = field(default_factory=list)  # that the present measure has skipped
    _columns: dict[str, dict[str, MetricValue]] = field(default_factory=dict)

    def add(
        self,
        key: str,
        measure: str,
        unit: str,
        better: Better,
        figures: Mapping[str, MetricValue | None],
        *,
        note: str = "",
    ) -> None:
        """A row, in place of one of the same key; columns that are None are left out.

        The group is what stands before the dot in `key`.
        """
        there = {name: figure for name in COLUMNS if (figure := figures.get(name)) is not None}
        row = Row(key, group_of(key), measure, unit, better, there, note)
        place = next((i for i, other in enumerate(self.rows) if other.key == key), len(self.rows))
        self.rows[place : place + 1] = [row]
        self.changed(self)

    def skip(self, name: str, why: str) -> None:
        """A part of a measure that this model or corpus does not allow."""
        self.skipped[name] = why
        self._parts.append(name)

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Around a measure: it is finished at the end, or skipped if it is not applicable."""
        self._parts = []
        try:
            yield
        except NotApplicable as error:
            self.skipped[name] = str(error)
        else:
            self.finished[name] = self._parts
        self.pending.remove(name)
        self.changed(self)

    def restore_columns(self, row: Row) -> None:
        """Columns of a row that an interrupted measure has written, for `restored`."""
        self.rows.append(row)
        self._columns[row.key] = row.figures

    def restored(self, key: str) -> dict[str, MetricValue]:
        """The columns of a row that an interrupted measure has written."""
        return dict(self._columns.get(key, {}))

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
                "finished": self.finished,
            }
        )


def group_of(key: str) -> str:
    """The measure by which a row or a matrix of this key was added."""
    return key.split(".")[0]


def confusion(
    key: str,
    title: str,
    names: tuple[str, str],
    values: Sequence[str],
    *,
    reference: Sequence[int],
    predicted: Sequence[int],
) -> Matrix:
    """Counts of reference (rows) and predicted values (columns), as places in `values`; those that
    no reference has are left out of the rows.
    """
    counts = [[0.0] * len(values) for _ in values]
    for row, column in zip(reference, predicted, strict=True):
        counts[row][column] += 1
    rows = [i for i, row in enumerate(counts) if any(row)]
    columns = [j for j in range(len(values)) if j in rows or any(row[j] for row in counts)]
    return Matrix(
        key,
        title,
        *names,
        [values[i] for i in rows],
        [values[j] for j in columns],
        [[counts[i][j] for j in columns] for i in rows],
        "utterances",
    )


def _finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
