"""Read back what a run has left in its folder, or what a model folder has; whatever is not there is
None or empty.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vqwave import config, parsing
from vqwave.config.renamed import new_card
from vqwave.errors import UserInputError
from vqwave.evaluation.result import EvaluationReport
from vqwave.inference import hub
from vqwave.inference.model_files import CARD, SHIPPED, WEIGHTS, find_model
from vqwave.training.pace import planned

EXPECTED = "expected a run folder (config.yaml, metrics.jsonl, evaluation.json, samples/)"
Series = dict[str, list[tuple[int, float]]]
STUDENTS = ("distill", "student")  # experiments


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
    experiment: str = ""
    decoder_trained: bool = True
    untrained_labels: dict[str, list[str]] = field(default_factory=dict)
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
    spec: dict[str, Any] = field(default_factory=dict)
    about: About = field(default_factory=About)

    def trained(self, label: str) -> list[str]:
        """The values of a label that the decoder was trained on."""
        untrained = set(self.about.untrained_labels.get(label, ()))
        return [value for value in self.labels.get(label, ()) if value not in untrained]


@dataclass(frozen=True)
class Run:
    """A run folder, or a model folder, which has neither curves nor settings of a training.

    `series` holds the rows of `metrics.jsonl` by name: (step, finite value) in order.

    `experiment` and `teacher` (the run that it was distilled from) are from the settings, empty
    where they have none. `settings` is the text of `tree`.
    """

    folder: Path
    experiment: str
    teacher: str
    settings: str
    tree: dict[str, Any]
    series: Series
    steps: int | None
    seconds: float | None
    card: Card | None
    evaluation: Evaluation | None
    clips: list[Clip]
    clips_step: int | None
    report: EvaluationReport | None = None
    is_run: bool = True
    sounds: Path | None = None  # the folder of the clips, where it is another than `samples`
    label: str = ""  # its name, where that is not the folder's

    @property
    def name(self) -> str:
        """The folder's name, or that on a hub."""
        if self.label:
            return self.label
        folder = self.folder.resolve()
        return folder.parent.name if folder.name == "model" and not self.is_run else folder.name

    @property
    def planned_steps(self) -> int | None:
        """How many steps the settings ask for; of a number of minutes, once that is known."""
        train = _at(self.tree, "train")
        minutes, steps = train.get("minutes"), train.get("steps")
        if isinstance(minutes, int | float):
            with suppress(UserInputError):
                return planned(self.folder, minutes)
            return None
        return steps if isinstance(steps, int) else None

    @property
    def is_student(self) -> bool:
        """Whether it was distilled."""
        return self.experiment in STUDENTS

    @property
    def codes_only(self) -> bool:
        """Whether an encoder and a codebook were trained, and nothing that makes waveforms."""
        if self.card is not None:
            return self.experiment == "vqvae" and not self.card.about.decoder_trained
        return self.experiment == "vqvae" and _at(self.tree, "losses").get("nll") == 0

    def clip_path(self, clip: Clip) -> Path:
        """Where the clip's sound is."""
        return (self.sounds or self.folder / "samples") / clip.path


def _at(tree: dict[str, Any], key: str) -> dict[str, Any]:
    part = tree.get(key)
    return part if isinstance(part, dict) else {}


def read_run(source: Path | str) -> Run:
    """Read a run folder, a model folder, a shipped model, or a model of a hub, which is fetched.

    Raises `UserInputError` that names the file (and line or key) which is missing or cannot be
    used.
    """
    if hub.is_address(source):
        return replace(
            _read_model(find_model(source)), label=hub.HubAddress.parse(str(source)).repo
        )
    source = Path(source)
    if (source / "config.yaml").is_file():
        return _read_folder(source)
    if _is_model(source) or _is_model(SHIPPED / source):
        return _read_model(find_model(source))
    shipped = ", ".join(sorted(path.name for path in SHIPPED.glob("*") if _is_model(path)))
    expected = f"{EXPECTED}, a model folder, or one of {shipped}"
    if source.is_dir():
        raise UserInputError(f"{source}: no config.yaml in it, {expected}")
    problem = "is a file" if source.exists() else "no such folder"
    raise UserInputError(f"{source}: {problem}, {expected}")


def _is_model(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / CARD).is_file()


def _read_model(folder: Path) -> Run:
    """A model folder: its card stands for the settings."""
    card = _card(folder / CARD)
    assert card is not None
    tree = {"experiment": card.about.experiment, "model": card.spec}
    return Run(
        folder=folder,
        experiment=card.about.experiment,
        teacher="",
        settings=config.dump(tree),
        tree=tree,
        series={},
        steps=None,
        seconds=None,
        card=card,
        evaluation=None,
        clips=[],
        clips_step=None,
        report=_report(folder / "metrics.json"),
        is_run=False,
    )


def _read_folder(folder: Path) -> Run:
    path = folder / "config.yaml"
    settings = parsing.read_text(path, "the settings of a run", parsing.LONGEST_YAML)
    tree = parsing.yaml_mapping(settings, str(path), "the settings of a run")
    rows = _metrics(folder / "metrics.jsonl")
    index = _samples(folder / "samples" / "index.json")
    return Run(
        folder=folder,
        experiment=str(tree.get("experiment") or ""),
        teacher=str(tree.get("teacher") or ""),
        settings=settings,
        tree=tree,
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
        if not parsing.is_file(path.parent / clip.path):
            raise UserInputError(
                f"{path.parent / clip.path}: no such file, but {path.name} lists it"
            )
    return index


def _card(path: Path) -> Card | None:
    tree = _json(path)
    return None if tree is None else parsing.checked(Card, new_card(tree), str(path))


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
