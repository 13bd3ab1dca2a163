"""Trained models that settings name, with their types checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from vqwave.errors import UserInputError
from vqwave.inference.model_folder import Loaded

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
