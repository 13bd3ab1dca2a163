"""A trained model on disk: its card, its weights, the vectors of its voices."""

from __future__ import annotations

import json
import math
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vqwave import inputs, parsing
from vqwave.atomic_files import new_folder
from vqwave.config import build, spec, to_tree
from vqwave.config.renamed import migrated, new_card, new_parameter
from vqwave.data import Corpus
from vqwave.data.speaker_vectors import FILE as VOICES
from vqwave.data.speaker_vectors import SpeakerVectors, saved_in, vectors_of_corpus
from vqwave.distributed.torch_defaults import own_defaults
from vqwave.errors import UserInputError
from vqwave.inference.model_files import CARD, WEIGHTS, find_model, own_folder
from vqwave.models import Model, ModelSpec
from vqwave.nn.finite import check_finite

MOST = 1 << 22  # of any whole number in the settings of a network
SPARE_TENSORS, SPARE_VALUES = 10_000, 1 << 26  # that a network may have in addition to its weights
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye}


@spec
class ModelCard:
    """`model/config.json`: everything but the weights."""

    format: Literal[2] = 2
    sample_rate: int
    labels: dict[str, list[str]]
    spec: ModelSpec
    about: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def decodes(self) -> bool:
        """Whether what makes waveforms was trained, too; else the model has codes alone."""
        return bool(self.about.get("decoder_trained", True))

    def untrained(self, label: str) -> list[str]:
        """The values of a label that there were no training recordings of."""
        return list(self.about.get("untrained_labels", {}).get(label, ()))

    def trained(self, label: str) -> list[str]:
        """The others, of which there were; none for a label that the model does not have."""
        untrained = set(self.untrained(label))
        return [value for value in self.labels.get(label, ()) if value not in untrained]

    def build(self) -> Model:
        """The model, with untrained weights."""
        return self.spec.build(self.sample_rate, self.labels)


@dataclass(frozen=True)
class About:
    """What is used of a card's `about`, which may have more, or less."""

    level_db: Annotated[parsing.Finite, Field(ge=-120, le=60)] = -23.0
    decoder_trained: bool = True
    untrained_labels: dict[str, list[str]] = field(default_factory=dict)
    corpus: str = ""
    steps: parsing.Count = 0
    seconds: parsing.Finite = 0.0
    seed: int = 0
    parameters: dict[str, parsing.Count] = field(default_factory=dict)
    receptive_field: parsing.Count = 0
    hop: parsing.Count = 0
    bit_rate: parsing.Finite | None = None
    postfilter: Annotated[parsing.Finite, Field(ge=0, le=1)] = 0.0
    longest: dict[str, dict[str, Annotated[parsing.Finite, Field(gt=0)]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Loaded:
    """A trained model, its card, and the vectors of its voices, where it has any."""

    model: Model
    card: ModelCard
    folder: Path | None = None  # that it was loaded from
    voices: SpeakerVectors | None = None


def save_trained(
    folder: Path, model: Model, card: ModelCard, voices: SpeakerVectors | None = None
) -> None:
    """Write `model.safetensors`, `config.json` and, of voices, `voices.safetensors` into `folder`,
    atomically.
    """
    with new_folder(folder) as temporary:
        write_trained(temporary, model, card, voices)


def write_trained(
    folder: Path, model: Model, card: ModelCard, voices: SpeakerVectors | None = None
) -> None:
    """The same into a folder that is there, file by file."""
    save_model(model, str(folder / WEIGHTS))
    tree = {"kind": card.kind, **to_tree(card)}
    (folder / CARD).write_text(json.dumps(tree, indent=1))
    # safetensors lets nobody else read what it writes
    (folder / WEIGHTS).chmod(stat.S_IMODE((folder / CARD).stat().st_mode))
    if voices is not None:
        voices.save(folder / VOICES)


def add_voices(name: str | Path, corpus: Corpus, *, quiet: bool = False) -> SpeakerVectors:
    """Write the vectors of a trained model's voices, from their recordings in a corpus, into its
    folder.

    Raises UserInputError where the corpus has none of its voices.
    """
    folder = own_folder(name)
    card, _ = read_card(folder)
    trained = card.trained("speaker")
    if not set(trained) & set(corpus.speakers):
        raise UserInputError(
            f"{corpus.folder}: has no recordings of the {len(trained)} speakers of {name}, expected"
            " the corpus that it was trained on"
        )
    voices = saved_in(corpus.folder)
    if voices is None:
        # which the whitening of a model that takes vectors is not from
        voices = replace(vectors_of_corpus(corpus, trained, quiet=quiet), whitening=None)
    voices.only(trained).save(folder / VOICES)
    return voices.only(trained)


@own_defaults()
@torch.inference_mode(mode=False)  # writes to tensors made in that mode are not counted
def load_trained(name: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """Build the model and read its weights; nothing is unpickled. The model is in evaluation mode.

    Raises UserInputError for a folder that cannot be read, and for weights that are not finite.
    """
    check_device(device)
    folder = find_model(name)
    card, older = read_card(folder)
    path = folder / WEIGHTS
    try:
        weights = load_weights(path, device)
        with _Sized(path, weights):
            model = card.build()
        model.load_state_dict(
            {new_parameter(name) if older else name: w for name, w in weights.items()}
        )
        check_finite(model, path)
    except UserInputError as error:
        raise error if str(folder) in str(error) else UserInputError(f"{path}: {error}") from None
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserInputError(
            f"{path}: the model cannot be read, its weights and {CARD} do not fit ({reason})"
        ) from None
    return Loaded(model.to(device).eval(), card, folder, _voices_in(folder, card))


def _voices_in(folder: Path, card: ModelCard) -> SpeakerVectors | None:
    """The vectors of a model's voices, where it has any. Raises UserInputError for one of a voice
    that is no speaker of the model.
    """
    voices = saved_in(folder)
    others = [] if voices is None else set(voices.names) - set(card.labels.get("speaker", ()))
    if others:
        raise UserInputError(
            f"{folder / VOICES}: {min(others)!r} is no speaker in {CARD}, expected vectors of the"
            " model's own"
        )
    return voices


def check_device(device: str | torch.device) -> None:
    """Raises UserInputError for a GPU where there is none."""
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserInputError(f"device {device}: there is none here, expected cpu")


def read_card(folder: Path) -> tuple[ModelCard, bool]:
    """The card of a model folder, and whether it was of format 1.

    Raises UserInputError that names the file.
    """
    path = folder / CARD
    tree = parsing.read_json(path, "the settings of a model", dict[str, Any])
    tree.pop("kind", None)
    older = tree.get("format") == 1
    try:
        card = build(
            ModelCard, migrated(ModelCard, new_card(tree)) | ({"format": 2} if older else {})
        )
    except UserInputError as error:
        raise UserInputError(f"{path}: {error}") from None
    parsing.checked(About, card.about, f"{path}: about")
    _check_sizes(card, path)
    return card, older


def _check_sizes(card: ModelCard, path: Path) -> None:
    """Raises UserInputError for a rate, and for a whole number in the settings of the network, that
    no model has.
    """
    if not 1 <= card.sample_rate <= inputs.HIGHEST_RATE:
        raise UserInputError(f"{path}: sample_rate: {card.sample_rate}, expected Hz")
    places: list[tuple[str, Any]] = [("spec", to_tree(card.spec))]
    while places:
        key, value = places.pop()
        if isinstance(value, dict):
            places += [(f"{key}.{name}", item) for name, item in value.items()]
        elif isinstance(value, list):
            places += [(f"{key}[{place}]", item) for place, item in enumerate(value)]
        elif isinstance(value, int) and abs(value) > MOST and "seed" not in key:
            raise UserInputError(f"{path}: {key}: {value}, expected at most {MOST}")


def load_weights(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Tensors by name. Raises UserInputError that names the file."""
    try:
        parsing.open_regular(path).close()
        return load_file(path, device=str(device))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserInputError(
            f"{path}: cannot be read ({reason}), expected tensors by name (safetensors)"
        ) from None


class _Sized(TorchFunctionMode):
    """Within, what is built may not be far larger than the weights that it is built for.

    Else a card of a few bytes would take any memory, or time, before its weights are compared.
    """

    def __init__(self, path: Path, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.path, self.count = path, SPARE_TENSORS + 40 * len(weights)
        self.values = SPARE_VALUES + 8 * sum(w.numel() for w in weights.values())

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        if func in MAKERS:
            sizes = args[0] if args and isinstance(args[0], tuple | list) else args
            shape = [size for size in sizes if isinstance(size, int)]
            self.values -= math.prod(shape) if shape else 1
            self.count -= 1
            if min(self.values, self.count) < 0:
                raise UserInputError(
                    f"{self.path}: its weights are far fewer than those of the network in {CARD}"
                )
        return func(*args, **(kwargs or {}))


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Parameters of each child, and their `total`."""
    counts = {
        name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()
    }
    return {name: count for name, count in counts.items() if count} | {
        "total": sum(p.numel() for p in model.parameters())
    }
