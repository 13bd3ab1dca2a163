"""The models of a page: what is decoded by, and what is said by a prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vqwave.errors import UserInputError, under
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import Student

SHIPPED = ("speech", "speech-student", "speech-prior", "fsdd", "fsdd-student", "fsdd-prior")


@dataclass(frozen=True)
class Models:
    """Decoders and priors by name, in the order given; what has a prior only says words, unless
    there is nothing else.
    """

    decoders: dict[str, SpeechModel]
    priors: dict[str, SpeechModel]

    @classmethod
    def load(cls, names: Sequence[str] = SHIPPED, device: str = "cpu") -> Models:
        """Run folders, model folders, names of shipped models.

        Raises UserInputError for a model that has no codes, or needs more than a voice.
        """
        loaded = {name: SpeechModel.load(name, device) for name in names}
        for name, model in loaded.items():
            with under(name):
                _check(model)
        priors = {name: model for name, model in loaded.items() if model.prior is not None}
        decoders = {name: model for name, model in loaded.items() if model.prior is None}
        return cls(decoders or priors, priors)

    def decoder(self, name: str) -> SpeechModel:
        """Raises UserInputError for a name that a page does not offer."""
        return _named(self.decoders, name)

    def prior(self, name: str) -> SpeechModel:
        """Raises UserInputError for a name that a page does not offer."""
        return _named(self.priors, name)


def _named(models: dict[str, SpeechModel], name: str) -> SpeechModel:
    if name not in models:
        raise UserInputError(f"model {name!r}: expected one of {', '.join(models)}")
    return models[name]


def _check(model: SpeechModel) -> None:
    _ = model.fingerprint  # raises for a model without codes
    if not model.card.decodes:
        raise UserInputError("has codes alone, expected a model with a trained decoder")
    others = sorted(set(model.decoder.conditioner.labels) - {"speaker"})
    if others:
        raise UserInputError(f"is conditioned on {', '.join(others)}, expected a speaker alone")


def voices(model: SpeechModel) -> list[str]:
    """The speakers that a decoder was trained on, or has vectors of; none if it has one voice."""
    if "speaker" in model.decoder.conditioner.labels:
        return model.card.trained("speaker")
    return list(model.voices.names) if model.takes_vectors and model.voices is not None else []


def summary(name: str, model: SpeechModel) -> str:
    """A decoder in a few words, for a list of them."""
    way = "one pass" if isinstance(model.decoder, Student) else "sample by sample"
    return f"{name}, {model.sample_rate / 1000:g} kHz, {way}"


def described_voices(model: SpeechModel) -> list[tuple[str, str]]:
    """Each of `voices` as (text, name); the text has its mean F0 where the model knows it."""
    means = voice_pitches(model)
    if means is None:
        return [(name, name) for name in voices(model)]
    hertz = {name: 100 * math.exp(mean) for name, mean in means.items()}
    return [(f"{name}, pitch about {hertz[name]:.0f} Hz", name) for name in means]


def prior_choices(model: SpeechModel) -> dict[str, list[tuple[str, str]]]:
    """What a prior can be asked for: the values of each label as (text, value); of the speakers
    those of `voices`, if there are any.
    """
    assert model.prior is not None
    choices = {label: [(x, x) for x in values] for label, values in model.prior.labels.items()}
    if "speaker" in choices:
        choices["speaker"] = described_voices(model) or choices["speaker"]
    return choices


def voice_pitches(model: SpeechModel) -> dict[str, float] | None:
    """The mean pitch of each of `voices`, as pitch codes have it; None for a model without."""
    melody = model.kind.melody
    if melody is None:
        return None
    means = dict(zip(model.speakers, melody.voices[:, 0].tolist(), strict=True))
    return {name: means[name] for name in voices(model)}
