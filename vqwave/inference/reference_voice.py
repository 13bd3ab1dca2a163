"""A voice that is given by a recording, and not by a name: `like=`, `--like`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from vqwave.audio import read
from vqwave.audio.streaming import Recording
from vqwave.data.speaker_vectors import NAME, REFERENCE_SECONDS, SpeakerVectors, vector_of
from vqwave.data.voices import VoicePitch
from vqwave.errors import Note, UserInputError
from vqwave.failures import about
from vqwave.inference.pitch_encoding import f0_of
from vqwave.inputs import sample_rate
from vqwave.models import Student, WaveNet
from vqwave.models.melody import Melody
from vqwave.speaker_encoder import installed_encoder

# given vectors by name, such as a speaker embedding
Vectors = Mapping[str, Tensor | np.ndarray | Sequence[float]]


class Speech(Protocol):
    """What is used of a `SpeechModel`."""

    sample_rate: int
    voices: SpeakerVectors | None

    @property
    def decoder(self) -> WaveNet | Student: ...

    @property
    def melody(self) -> Melody | None: ...

    def prepare(self, wave: Tensor | np.ndarray, sample_rate: int, /) -> Tensor: ...


@dataclass(frozen=True)
class ReferenceVoice:
    """The voice of a recording as a model takes it: a label, or a vector; its range of F0.

    `nearest` is the voice of the model that is most like it, `similarity` the cosine of the vectors
    of both. Made by `SpeechModel.voice_like`.
    """

    nearest: str
    similarity: float
    labels: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    pitch: VoicePitch | None = None

    def conditions(
        self, labels: Mapping[str, str | None], vectors: Vectors
    ) -> tuple[Mapping[str, str | None], Vectors]:
        """The labels and vectors of an utterance, in this voice; none of the labels where a vector
        stands for them.
        """
        return {**labels, **self.labels} if self.labels else {}, {**vectors, **self.embeddings}


Reference = str | Path | tuple[Tensor | np.ndarray, int] | ReferenceVoice
"""A file, a waveform and its rate in Hz, or what `SpeechModel.voice_like` made of either."""


def reference_voice(model: Speech, reference: Reference) -> ReferenceVoice:
    """The voice of a reference, of which the first half minute counts.

    A model that is conditioned on speaker vectors takes that of the reference. Any other takes the
    nearest of its own voices, which a note names. Raises UserInputError for a model that has no
    vectors of its voices, and without the package of the encoder.
    """
    if isinstance(reference, ReferenceVoice):
        return reference
    name = str(reference) if isinstance(reference, str | Path) else "like"
    with about(name):
        voices, melody = _vectors(model), model.melody
        encoder = installed_encoder()
        wave = model.prepare(*_recorded(reference)).cpu().numpy()
    vector, pitch = vector_of(wave, model.sample_rate, encoder), None
    if melody is not None:
        pitch = VoicePitch.of_reference(f0_of(melody, wave, model.sample_rate))
    nearest, similarity = voices.nearest(vector)
    if takes_vectors(model) and voices.whitening is not None:
        own = {NAME: voices.whitening(vector)}
        return ReferenceVoice(nearest, similarity, embeddings=own, pitch=pitch)
    text = f"{name}: the model's nearest voice is {nearest}, similarity {similarity:.2f}"
    warnings.warn(f"{text}; it takes no vectors of others", Note, stacklevel=3)
    return ReferenceVoice(nearest, similarity, labels={"speaker": nearest}, pitch=pitch)


def takes_vectors(model: Speech) -> bool:
    """Whether a speaker's vector is all that a model needs of a voice."""
    conditioner = model.decoder.conditioner
    return NAME in conditioner.vector_sizes and conditioner.vectors_suffice


def _vectors(model: Speech) -> SpeakerVectors:
    """Raises UserInputError for a model without, or with one voice."""
    if not takes_vectors(model) and "speaker" not in model.decoder.conditioner.labels:
        raise UserInputError("this model takes no speaker, it has one voice")
    if model.voices is None or (takes_vectors(model) and model.voices.whitening is None):
        raise UserInputError(
            "the model has no vectors of its voices, expected those that `vqwave voices MODEL"
            " --data CORPUS` writes"
        )
    return model.voices


def _recorded(reference: object) -> tuple[Tensor | np.ndarray, int]:
    """A waveform, of a file the first `REFERENCE_SECONDS`, and its rate."""
    if isinstance(reference, str | Path):
        recording = Recording.open(reference)
        seconds = min(recording.seconds, REFERENCE_SECONDS)
        return read(reference, 0, round(seconds * recording.sample_rate))
    if isinstance(reference, tuple) and len(reference) == 2:
        wave, rate = reference
        return wave, sample_rate(rate)
    raise UserInputError(
        f"a {type(reference).__name__}, expected a file, or a waveform and its rate in Hz"
    )
