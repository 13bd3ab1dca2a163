"""Read back what a run has left in its folder; whatever it has not written yet is None or empty."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vqwave import parsing
from vqwave.errors import UserInputError
from vqwave.evaluation.result import EvaluationReport

EXPECTED = "expected a run folder (config.yaml, metrics.jsonl, evaluation.json, samples/)"
Series = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Clip:
    """One row of `samples/index.json`."""

    utterance: str
    kind: str
    path: str
    speaker: str | None = None
    text: str | None = None
    target: str | None = None


@dataclass(frozen=True)
class SampleIndex:
    """`samples/index.json`."""

    rows: list[Clip]
    step: int | None = None


@dataclass(frozen=True)
class Likelihood:
    """Section `nll` of `evaluation.json`: held-out cost in `unit`, the model's and others' by
    name.
    """

    unit: str
    model: float
    baselines: dict[str, float] = field(default_factory=dict)
    shuffled: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, section: dict[str, object], source: str) -> Likelihood:
        """The keys that start with "shuffled" are gathered; those that are null were not
        measured.
        """
        shuffled = {
            key: value
            for key, value in section.items()
            if key.startswith("shuffled") and value is not None
        }
        return parsing.checked(cls, {**section, "shuffled": shuffled}, source)


@dataclass(frozen=True)
class Codes:
    """Section `codes` of `evaluation.json`: how often each of K codes is used, by codebook and, of
    the first one, by speaker.
    """

    size: int
    perplexity: float
    used: int
    counts: list[list[int]]
    books: int = 1
    bit_rate: float | None = None
    entropy_rate: float | None = None
    by_speaker: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """`evaluation.json`; `tables` holds its further sections: numbers by row and column."""

    split: str
    step: int | None
    likelihood: Likelihood | None
    codes: Codes | None
    tables: dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class About:
    """Section `about` of the model card."""

    corpus: str | None = None
    parameters: dict[str, int] = field(default_factory=dict)
    receptive_field: int | None = None
    hop: int | None = None
    bit_rate: float | None = None
    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Card:
    """`model/config.json`, without the settings of the network."""

    kind: str
    sample_rate: int
    labels: dict[str, list[str]] = field(default_factory=dict)
    about: About = field(default_factory=About)


@dataclass(frozen=True)
class Run:
    """A run folder.

    `series` holds the rows of `metrics.jsonl` by name: (step, finite value) in order.

    `experiment` and `teacher` (the run that it was distilled from) are from the settings, empty
    where they have none.
    """

    folder: Path
    experiment: str
    teacher: str
    settings: str
    series: Series
    steps: int | None
    seconds: float | None
    card: Card | None
    evaluation: Evaluation | None
    clips: list[Clip]
    clips_step: int | None
    report: EvaluationReport | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    def clip_path(self, clip: Clip) -> Path:
        """Where the clip's sound is."""
        return self.folder / "samples" / clip.path


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises `UserInputError` that names the file (and line or key) which is missing or cannot be
    used.
    """
    if not folder.is_dir():
        raise UserInputError(
            f"{folder}: {'is a file' if folder.exists() else 'no such folder'}, {EXPECTED}"
        )
    config = folder / "config.yaml"
    if not config.is_file():
        raise UserInputError(f"{folder}: no config.yaml in it, {EXPECTED}")
    settings = parsing.read_text(config, "the settings of a run", parsing.LONGEST_YAML)
    tree = parsing.yaml_mapping(settings, str(config), "the settings of a run")
    rows = _metrics(folder / "metrics.jsonl")
    index = _samples(folder / "samples" / "index.json")
    return Run(
        folder=folder,
        experiment=str(tree.get("experiment") or ""),
        teacher=str(tree.get("teacher") or ""),
        settings=settings,
        series=_series(rows),
        steps=max((int(row["step"]) for row in rows), default=None),
        seconds=max((float(row["seconds"]) for row in rows if "seconds" in row), default=None),
        card=_card(folder / "model" / "config.json"),
        evaluation=_evaluation(folder / "evaluation.json"),
        clips=index.rows,
        clips_step=index.step,
        report=_report(folder / "metrics.json"),
    )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return parsing.read_json(path, "what a run writes", dict[str, Any], finite=False)


@dataclass(frozen=True)
class MetricsRow:
    """What is needed of a row of `metrics.jsonl`."""

    step: Annotated[int, Field(ge=-1, lt=1 << 53)]
    seconds: float = 0.0


def _metrics(path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        return []
    rows = []
    lines = parsing.read_json_lines(path, "metrics", dict[str, Any], finite=False, torn="last")
    for number, row in lines:
        parsing.checked(MetricsRow, row, f"{path}, line {number}")
        rows.append({key: value for key, value in row.items() if isinstance(value, int | float)})
    return rows


def _series(rows: list[dict[str, float]]) -> Series:
    series: Series = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "seconds") and math.isfinite(value):
                series.setdefault(name, []).append((int(row["step"]), float(value)))
    return series


def _samples(path: Path) -> SampleIndex:
    tree = _json(path)
    if tree is None:
        return SampleIndex([])
    index = parsing.checked(SampleIndex, tree, str(path))
    for clip in index.rows:
        if Path(clip.path).name != clip.path:
            raise UserInputError(
                f"{path}: path {clip.path!r}, expected the name of a file in {path.parent}"
            )
        if not (path.parent / clip.path).is_file():
            raise UserInputError(
                f"{path.parent / clip.path}: no such file, but {path.name} lists it"
            )
    return index


def _card(path: Path) -> Card | None:
    tree = _json(path)
    return None if tree is None else parsing.checked(Card, tree, str(path))


def _report(path: Path) -> EvaluationReport | None:
    tree = _json(path)
    return None if tree is None else parsing.checked(EvaluationReport, tree, str(path))


def _evaluation(path: Path) -> Evaluation | None:
    tree = _json(path)
    if tree is None:
        return None
    nll, codes, step = (tree.pop(name, None) for name in ("nll", "codes", "step"))
    source = f"{path}: nll"
    return Evaluation(
        split=str(tree.pop("split", "held-out")),
        step=None if step is None else parsing.checked(int, step, f"{path}: step"),
        likelihood=(
            None
            if nll is None
            else Likelihood.parse(parsing.checked(dict[str, object], nll, source), source)
        ),
        codes=None if codes is None else parsing.checked(Codes, codes, f"{path}: codes"),
        tables={name: rows for name, section in tree.items() if (rows := _table(section))},
    )


def _table(section: object) -> dict[str, dict[str, float]]:
    """A section of numbers, or of sections of numbers, as rows of columns."""
    if not isinstance(section, dict):
        return {}
    plain = {
        str(key): float(value) for key, value in section.items() if isinstance(value, int | float)
    }
    nested = {
        str(key): _table(value).get("", {})
        for key, value in section.items()
        if isinstance(value, dict)
    }
    return {key: row for key, row in {"": plain, **nested}.items() if row}
