"""Trained models that settings name, with their types checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from vqwave.data import Corpus
from vqwave.errors import UserInputError, under
from vqwave.inference.model_folder import Loaded, load_trained
from vqwave.inference.model_kinds import ModelKind
from vqwave.models import WaveNet
from vqwave.training import identity

ModelT = TypeVar("ModelT", bound=nn.Module)
SpecT = TypeVar("SpecT")


@dataclass(frozen=True)
class Source(Generic[ModelT, SpecT]):
    """A trained model, its settings, and what it was loaded from."""

    model: ModelT
    spec: SpecT
    loaded: Loaded


def checked_source(
    setting: str,
    path: Path,
    loaded: Loaded,
    types: tuple[type[ModelT], type[SpecT]],
    expected: str,
) -> Source[ModelT, SpecT]:
    """types: of the model and of its settings. Raises UserInputError for others."""
    model, spec = loaded.model, loaded.card.spec
    if not isinstance(model, types[0]) or not isinstance(spec, types[1]):
        kind = loaded.card.kind.replace("_", " ")
        raise UserInputError(f"{setting}: {path} is a {kind}, expected {expected}")
    return Source(model, spec, loaded)


class Sources:
    """The trained models that an experiment's settings name; each is a part of the run's
    identity.
    """

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.paths: dict[str, Path] = {}

    def load(self, setting: str, path: Path) -> Loaded:
        """The model that a setting names. Raises UserInputError."""
        self.paths[setting] = path
        with under(setting):
            return load_trained(path)

    def load_typed(
        self,
        setting: str,
        path: Path | None,
        types: tuple[type[ModelT], type[SpecT]],
        expected: str,
    ) -> Source[ModelT, SpecT] | None:
        """The same of a model of given types, itself and its settings; None for no path."""
        if path is None:
            return None
        return checked_source(setting, path, self.load(setting, path), types, expected)

    def check_compatible(self, key: str, loaded: Loaded, labels: Sequence[str] = ()) -> None:
        """Raises UserInputError for a model, the setting `key`, of another rate or other names of
        `labels` than the corpus.
        """
        card, corpus, name = loaded.card, self.corpus.folder, loaded.folder
        if card.sample_rate != self.corpus.sample_rate:
            raise UserInputError(
                f"{key}: {name} is for {card.sample_rate} Hz, {corpus} is at"
                f" {self.corpus.sample_rate} Hz"
            )
        for label in labels:
            if self.corpus.labels.get(label) != card.labels[label]:
                raise UserInputError(
                    f"{key}: {name} has other {label} names than {corpus}, expected its own corpus"
                )

    def identities(self) -> dict[str, identity.Source]:
        """What lies behind each path, by setting. Raises UserInputError."""
        return {setting: identity.of_model(path) for setting, path in self.paths.items()}


def continuous_decoder(setting: str, path: Path, kind: ModelKind) -> WaveNet:
    """The trained WaveNet of the model at `path`, which gives densities of waveforms.

    Raises UserInputError for a prior, codes alone, a student, and a head of classes.
    """
    decoder, problem = kind.decoder.scorer, ""
    if kind.prior is not None:
        problem = "a prior"
    elif not kind.card.decodes:
        problem = "codes alone"
    if problem or decoder is None:
        raise UserInputError(
            f"{setting}: {path} is {problem or 'itself a student'}, expected a WaveNet or a VQ-VAE"
            " with a trained WaveNet decoder"
        )
    if not decoder.head.continuous:
        raise UserInputError(
            f"{setting}: {path} has a {decoder.head.kind} head, expected e.g. mixture_of_logistics"
        )
    return decoder
