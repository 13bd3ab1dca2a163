"""A model folder that stands alone: weights, card, and a page that model hubs read.

The page is the `README.md` of the folder that the model was loaded from, if there is one, else it
is made of the card. Its front matter is completed: licence, data sets, and as `model-index` the
figures that `vqwave evaluate` wrote.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqwave import parsing
from vqwave.atomic_files import new_folder, new_place, write_bytes, write_text
from vqwave.errors import UserInputError
from vqwave.inference.hub import LONGEST_PAGE, PAGE
from vqwave.inference.model_folder import Loaded, ModelCard, write_trained

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

METRICS = "metrics.json"
TASK = "audio-to-audio"
TAGS = ["speech", "vqwave"]
FRONT = re.compile(r"---\r?\n(.*?)\r?\n---\r?\n", re.DOTALL)
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)  # of a licence, of a data set


@dataclass(frozen=True)
class Facts:
    """What a page has that its model's card has not.

    `license`: a name of the hub's list, such as `cc-by-4.0`; `datasets`: names of data sets of the
    hub; `metrics`: what `vqwave evaluate --out` wrote. Raises UserInputError.
    """

    license: str | None = None
    datasets: Sequence[str] = ()
    metrics: str | Path | None = None
    unmeasured: bool = False
    """Whether the figures that the model's own folder has are of other weights."""

    def __post_init__(self) -> None:
        datasets = [self.datasets] if isinstance(self.datasets, str) else list(self.datasets)
        object.__setattr__(self, "datasets", datasets)
        given = {
            "license": [self.license] if self.license is not None else [],
            "datasets": datasets,
        }
        for name, values in given.items():
            for value in values:
                if not isinstance(value, str) or not NAME.fullmatch(value):
                    raise UserInputError(f"{name}: {value!r}, expected a name as the hub has it")


@dataclass(frozen=True)
class MetricRow:
    """What is used of a row of `metrics.json`."""

    key: str
    measure: str
    unit: str
    figures: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Metrics:
    """What is used of `metrics.json`."""

    corpus: str
    split: str
    rows: list[MetricRow] = field(default_factory=list)


def write_folder(
    loaded: Loaded,
    out: Path,
    facts: Facts,
    *,
    half: bool = False,
    address: str | None = None,
    finish: Callable[[Path], None] = lambda _: None,
) -> None:
    """`config.json`, `model.safetensors`, `README.md` and, if there are vectors of its voices or
    figures, `voices.safetensors` and `metrics.json`.

    half: weights in 16 bits, which nobody has measured; address: what will load it; finish: adds
    files, before the folder has its name. Raises UserInputError, also where `out` has something in
    it.
    """
    place = new_place(out)
    facts = replace(facts, unmeasured=half)
    metrics = _metrics_file(loaded, facts)
    page = model_page(loaded, facts, out.name if address is None else address)
    model = copy.deepcopy(loaded.model).half() if half else loaded.model
    with new_folder(place) as temporary:
        write_trained(temporary, model, loaded.card, loaded.voices)
        write_text(temporary / PAGE, page)
        if metrics is not None:
            write_bytes(temporary / METRICS, parsing.read_bytes(metrics, "an evaluation"))
        finish(temporary)


def model_page(loaded: Loaded, facts: Facts, address: str) -> str:
    """The folder's page: front matter, then what it is, was trained on, and how it is used.

    Raises UserInputError that names the file which cannot be used.
    """
    from huggingface_hub import ModelCardData

    tree: dict[str, Any] = {}
    body = _body(loaded.card, address)
    if (written := _stored_with(loaded, PAGE)) is not None:
        tree, body = _parts(parsing.read_text(written, "a page", LONGEST_PAGE), str(written))
    tree = {"library_name": "vqwave", "pipeline_tag": TASK, "tags": TAGS} | tree
    data = ModelCardData(**tree, ignore_metadata_errors=True)
    if facts.license is not None:
        data.license = facts.license
    if facts.datasets:
        data.datasets = list(facts.datasets)
    metrics = _metrics_file(loaded, facts)
    if metrics is not None:
        data.eval_results = _results(metrics) or None
    data.model_name = address.rpartition("/")[2] if data.eval_results else None
    return f"---\n{data.to_yaml()}\n---\n\n{body.lstrip()}"


def _metrics_file(loaded: Loaded, facts: Facts) -> Path | None:
    if facts.metrics is not None:
        return Path(facts.metrics)
    return None if facts.unmeasured else _stored_with(loaded, METRICS)


def _stored_with(loaded: Loaded, name: str) -> Path | None:
    """A file of the folder that the model was loaded from."""
    path = None if loaded.folder is None else loaded.folder / name
    return path if path is not None and path.is_file() else None


def _results(path: Path) -> list[EvalResult]:
    """The figures of the model in an evaluation, each with its number of four digits."""
    from huggingface_hub import EvalResult

    expected = "what `vqwave evaluate --out` writes"
    tree = parsing.read_json(path, expected, dict[str, Any])
    known = parsing.checked(Metrics, tree, str(path), expected)
    results = []
    for row in known.rows:
        value = row.figures.get("model", {}).get("value")
        if isinstance(value, int | float):
            results.append(
                EvalResult(
                    task_type=TASK,
                    dataset_type=known.corpus,
                    dataset_name=known.corpus,
                    dataset_split=known.split,
                    metric_type=row.key,
                    metric_name=f"{row.measure}, {row.unit}" if row.unit else row.measure,
                    metric_value=float(f"{value:.4g}"),
                )
            )
    return results


def _parts(text: str, name: str) -> tuple[dict[str, Any], str]:
    """The front matter of a page and the rest."""
    match = FRONT.match(text)
    if match is None:
        return {}, text
    return parsing.yaml_mapping(match[1], name, "front matter"), text[match.end() :]


def _body(card: ModelCard, address: str) -> str:
    """What the card has, as a page."""
    about = "\n".join(
        f"| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in card.about.items()
    )
    use = f'import vqwave\n\nmodel = vqwave.load("{address}")\nprint(model)'
    return (
        f"# {card.kind} at {card.sample_rate:,} Hz\n\n```python\n{use}\n```\n\n| |"
        f" |\n|---|---|\n{about}\n"
        + "".join(
            f"| {label} | {len(values)}: {_cell(values)} |\n"
            for label, values in card.labels.items()
        )
    )


def _cell(value: object) -> str:
    shown = (
        json.dumps(value)
        if isinstance(value, dict)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
    return shown if len(shown) <= 120 else shown[:117] + "..."
