"""The name of a codec: a fingerprint of its weights and settings."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass

from torch import nn

from vqwave.codes import fingerprint
from vqwave.config import to_tree
from vqwave.config.renamed import OLD_KINDS, old_key
from vqwave.errors import UserInputError
from vqwave.models import VQVAE
from vqwave.nn.tensor_state import TensorState


class CodecFingerprint:
    """A codec's fingerprint, taken once, and again if its weights change; and its name in older
    files.
    """

    def __init__(self, model: VQVAE | None, encoder: object, sample_rate: int) -> None:
        """model: None has no name; encoder: its settings."""
        self.model = model
        self.about = json.dumps({"rate": sample_rate, "encoder": _changed(encoder)}, sort_keys=True)
        self._parts: list[nn.Module] = []
        self._state = TensorState()
        self._names = ("", "")

    @property
    def name(self) -> str:
        """Of the weights and of the encoder's settings: features that differ in their window alone
        have the same weights.
        """
        return self._current()[0]

    @property
    def older(self) -> tuple[str, ...]:
        """Of the weights alone, as files of version 1 have it."""
        return self._current()[1:]

    def _current(self) -> tuple[str, str]:
        model = self.model
        if model is None:
            raise UserInputError("this model has no codes, expected a codec")
        melody = [] if model.melody is None else [model.melody.codec]
        parts: list[nn.Module] = [model.encoder, model.quantizer, *melody]
        if parts != self._parts or not self._state.unchanged():
            self._names = fingerprint(*parts, about=self.about), fingerprint(*parts)
            self._parts, self._state = parts, TensorState(*parts)
        return self._names


def _changed(settings: object) -> object:
    """Settings that are not at their defaults, and every kind, by their names of format 1.

    Later versions may add settings that change nothing, and rename those there are: fingerprints
    stay.
    """
    if not is_dataclass(settings):
        return to_tree(settings)
    plain = {f.name: getattr(settings, f.name) for f in fields(settings)}
    default = {f.name: f.default for f in fields(settings)}
    changed: dict[str, object] = {}
    for name, value in plain.items():
        older = old_key(type(settings), name)
        if is_dataclass(value):
            changed[older] = _changed(value)
        elif name == "kind" or value != default[name]:
            changed[older] = OLD_KINDS.get(value, value) if name == "kind" else to_tree(value)
    return changed
