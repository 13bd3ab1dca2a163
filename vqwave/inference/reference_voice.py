"""A voice that is given by a recording, and not by a name: `like=`, `--like`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from vqwave.audio import read
from vqwave.audio.streaming import Recording
from vqwave.data.speaker_vectors import NAME, REFERENCE_SECONDS, SpeakerVectors, vector_of
from vqwave.data.voices import VoicePitch
from vqwave.errors import Note, SilenceError, UserInputError
from vqwave.failures import about
from vqwave.inference.embedding_fit import FittedEmbedding
from vqwave.inference.pitch_encoding import f0_of
from vqwave.inputs import sample_rate
from vqwave.models import Student, WaveNet
from vqwave.models.melody import Melody
from vqwave.speaker_encoder import Embedding, speaker_encoder

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

    @property
    def takes_vectors(self) -> bool: ...

    def prepare(self, wave: Tensor | np.ndarray, sample_rate: int, /) -> Tensor: ...

    def embedding_of(self, wave: Tensor, voice: ReferenceVoice, /) -> FittedEmbedding | None: ...


@dataclass(frozen=True)
class ReferenceVoice:
    """The voice of a recording as a model takes it: a label, or a vector; its range of F0.

    `nearest` is the voice of the model that is most like it, `similarity` the cosine of the vectors
    of both, `embedding` (1, C) what the spectral decoder is conditioned on in place of labels: that
    of `fitted`, moved away from another voice. Made by `SpeechModel.voice_like`.
    """

    nearest: str
    similarity: float
    labels: Mapping[str, str] = field(default_factory=dict)
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    pitch: VoicePitch | None = None
    embedding: Tensor | None = None
    fitted: FittedEmbedding | None = None

    def conditions(
        self, labels: Mapping[str, str | None], vectors: Vectors
    ) -> tuple[Mapping[str, str | None], Vectors]:
        """The labels and vectors of an utterance, in this voice; none of the labels where a vector
        stands for them.
        """
        return {**labels, **self.labels} if self.labels else {}, {**vectors, **self.embeddings}


SOURCE_SECONDS = 1.0  # the least of a recording whose voice an embedding is moved away from

Reference = str | Path | tuple[Tensor | np.ndarray, int] | ReferenceVoice
"""A file, a waveform and its rate in Hz, or what `SpeechModel.voice_like` made of either."""


def reference_voice(
    model: Speech, reference: Reference, source: Reference | None = None
) -> ReferenceVoice:
    """The voice of a reference, of which the first half minute counts.

    A model that is conditioned on speaker vectors takes that of the reference. Any other takes the
    nearest of its own voices, which a note names, and where a spectral decoder conditions its
    decoder, an embedding that is fitted to the reference, and to `source`, the recording that will
    be converted, where one is given. Raises UserInputError for a model that has no vectors of its
    voices, and without the package of the encoder.
    """
    voice = reference if isinstance(reference, ReferenceVoice) else _noted(model, reference)
    if source is None or voice.fitted is None:
        return voice
    with about(_name_of(source, "source")):
        recorded = _recorded(source)
        try:
            wave = model.prepare(*recorded)
        except SilenceError:  # perhaps at the beginning alone
            return voice
    if len(wave) < SOURCE_SECONDS * model.sample_rate:
        return voice
    other = _voice_of(model, wave).fitted
    return voice if other is None else replace(voice, embedding=voice.fitted.beyond(other))


def _noted(model: Speech, reference: Reference) -> ReferenceVoice:
    """The voice of a reference, and a note on what is taken for it, where that is no vector."""
    name = _name_of(reference, "like")
    with about(name):
        _voices_of(model)  # raises where there are none, before any work
        voice = _voice_of(model, model.prepare(*_recorded(reference)))
    if voice.labels:
        text = f"{name}: the model's nearest voice is {voice.nearest}"
        text += f", similarity {voice.similarity:.2f}; "
        text += "it takes no vectors of others" if voice.fitted is None else "fitted from there"
        warnings.warn(text, Note, stacklevel=4)
    return voice


def _voice_of(model: Speech, wave: Tensor) -> ReferenceVoice:
    """That of a prepared recording (T,)."""
    wave = wave[: round(REFERENCE_SECONDS * model.sample_rate)]
    samples = wave.cpu().numpy()
    vector = vector_of(samples, model.sample_rate, speaker_encoder())
    voice = voice_of_vector(model, vector)
    if model.melody is not None:
        pitch = VoicePitch.of_reference(f0_of(model.melody, samples, model.sample_rate))
        voice = replace(voice, pitch=pitch)
    if not voice.labels or (fitted := model.embedding_of(wave, voice)) is None:
        return voice
    return replace(voice, embedding=fitted.beyond_mean(), fitted=fitted)


def _name_of(recording: Reference, otherwise: str) -> str:
    return str(recording) if isinstance(recording, str | Path) else otherwise


def voice_of_vector(model: Speech, vector: Embedding) -> ReferenceVoice:
    """The voice of a speaker encoder's vector (256,), as the model takes it; of any range.

    Raises UserInputError for a model that has no vectors of its voices.
    """
    voices = _voices_of(model)
    nearest, similarity = voices.nearest(vector)
    if model.takes_vectors and voices.whitening is not None:
        return ReferenceVoice(nearest, similarity, embeddings={NAME: voices.whitening(vector)})
    return ReferenceVoice(nearest, similarity, labels={"speaker": nearest})


def _voices_of(model: Speech) -> SpeakerVectors:
    """Raises UserInputError for a model without, or with one voice."""
    if not model.takes_vectors and "speaker" not in model.decoder.conditioner.labels:
        raise UserInputError("this model takes no speaker, it has one voice")
    if model.voices is None or (model.takes_vectors and model.voices.whitening is None):
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
