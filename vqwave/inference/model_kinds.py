"""What differs between a codec, a prior over its codes, a vocoder and a plain WaveNet.

`kind_of(model, card)` gives the kind of any model that makes speech; kinds of new model classes are
added by `kind_of.register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.codes import CodeSequence
from vqwave.data import Batch, Corpus
from vqwave.data.frame_tracks import Track, carried, stored_pitch
from vqwave.decode.batching import DecodeRequest
from vqwave.errors import UserInputError
from vqwave.inference.decoder_inputs import DecoderInputs, Given, Labels, Vectors
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.reference_voice import ReferenceVoice
from vqwave.models import VQVAE, Model, Prior, Student, StudentSpec, WaveNet, WaveNetSpec
from vqwave.models.melody import Melody
from vqwave.models.vqvae import VQVAESpec
from vqwave.nn.condition import Condition
from vqwave.nn.frontend import AnyFrontend


class Speech(Protocol):
    """What a kind uses of a `SpeechModel`."""

    sample_rate: int
    given: DecoderInputs

    def encode(self, wave: Tensor, /) -> CodeSequence: ...

    def encode_prepared(self, wave: Tensor, /, speaker: str | None) -> CodeSequence: ...

    def task(
        self,
        coded: CodeSequence,
        speaker: str | None,
        labels: Labels | None,
        embeddings: Vectors | None,
        /,
        *,
        like: ReferenceVoice | None,
    ) -> DecodeRequest: ...

    def decode(
        self, coded: CodeSequence, /, *, labels: Labels, embeddings: Vectors | None
    ) -> Tensor: ...

    def generate(
        self, seconds: float, /, *, labels: Labels, embeddings: Vectors | None
    ) -> list[Tensor]: ...

    def reconstruct(
        self, wave: Tensor, /, *, labels: Labels, embeddings: Vectors | None, features: Given
    ) -> Tensor: ...


class ModelKind(ABC):
    """A kind of model: its parts, and what it can be used for."""

    def __init__(self, model: VQVAE | WaveNet | Student, card: ModelCard) -> None:
        self.model, self.card = model, card

    @property
    @abstractmethod
    def decoder(self) -> WaveNet | Student:
        """The part that makes waveforms."""

    @property
    def complete(self) -> Model:
        """All that was trained, as a model folder has it."""
        return self.model

    @property
    def codec(self) -> VQVAE | None:
        """The model whose codes are decoded, None for a model without codes."""
        return None

    @property
    def prior(self) -> Prior | None:
        """The model over codes, if there is one."""
        return None

    @property
    def melody(self) -> Melody | None:
        """The pitch stream of a codec that has one."""
        return None if self.codec is None else self.codec.melody

    @property
    def vectors_suffice(self) -> bool:
        """Whether labels may be left out where vectors are given."""
        return self.decoder.conditioner.vectors_suffice

    def frontend(self) -> AnyFrontend:
        """The spectral front end of a vocoder. Raises UserInputError for another kind."""
        raise UserInputError("this model has no spectral front end, expected a vocoder")

    @abstractmethod
    def check_generates(self) -> None:
        """Raises UserInputError unless the decoder generates from labels alone."""

    def scoring_decoder(self) -> WaveNet:
        """The decoder, which must give likelihoods in one pass. Raises UserInputError."""
        scorer = self.decoder.scorer
        if scorer is None:
            raise UserInputError(
                "this model's decoder is a student, which gives no likelihood of recordings;"
                " expected a WaveNet"
            )
        return scorer

    @abstractmethod
    def recording_condition(
        self,
        speech: Speech,
        x: Tensor,
        labels: Labels | None,
        embeddings: Vectors | None,
        features: Given | None,
        *,
        like: ReferenceVoice | None,
    ) -> Condition | None:
        """What the decoder is conditioned on for a prepared recording x (1, T); labels and vectors
        are with those of `like`.
        """

    @abstractmethod
    def reconstruct(
        self,
        speech: Speech,
        wave: Tensor,
        labels: Labels,
        embeddings: Vectors | None,
        features: Given,
    ) -> Tensor:
        """A recording (T,) at the model's rate -> the model's own version of it."""

    @abstractmethod
    def decoder_spec(self) -> WaveNetSpec | StudentSpec:
        """The settings of the decoder."""

    @abstractmethod
    def with_decoder(self, decoder: StudentSpec) -> VQVAESpec | StudentSpec:
        """The settings of the same model with another decoder."""

    @abstractmethod
    def load_frozen_parts(self, other: ModelKind) -> None:
        """Take all but the decoder from another model of the kind; it is not trained."""

    @abstractmethod
    def tracks(self, corpus: Corpus) -> Sequence[Track]:
        """Frame features of a corpus that training the decoder needs."""

    @abstractmethod
    def decoder_features(
        self, batch: Batch, *, recorded_pitch: bool = False, recorded_spectrum: bool = False
    ) -> Tensor | None:
        """What the decoder is conditioned on at frame rate (B, D, F), if anything.

        recorded_pitch, recorded_spectrum: the recordings' own in place of what is decoded from
        their codes.
        """


class WaveformKind(ModelKind):
    """A WaveNet or a student alone, with labels at the most."""

    model: WaveNet | Student

    @property
    def decoder(self) -> WaveNet | Student:
        return self.model

    def check_generates(self) -> None:
        """It does."""

    def recording_condition(
        self,
        speech: Speech,
        x: Tensor,
        labels: Labels | None,
        embeddings: Vectors | None,
        features: Given | None,
        *,
        like: ReferenceVoice | None,
    ) -> Condition | None:
        del like  # its labels and vectors alone
        conditions = speech.given.attributes(labels, embeddings)
        conditions |= speech.given.frames(features, x.shape[1]) if features else {}
        padded = F.pad(x, (0, -x.shape[1] % self.model.hop))
        return self.model.condition(self._frames(padded, conditions), conditions)

    def _frames(
        self, wave: Tensor, conditions: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> Tensor | None:
        frontend = self.model.frontend
        return None if frontend is None else frontend(wave, conditions, mask)

    def reconstruct(
        self,
        speech: Speech,
        wave: Tensor,
        labels: Labels,
        embeddings: Vectors | None,
        features: Given,  # noqa: ARG002 - of the base class
    ) -> Tensor:
        """Of the same length: nothing else of the recording is known to the model."""
        seconds = len(wave) / speech.sample_rate
        return speech.generate(seconds, labels=labels, embeddings=embeddings)[0]

    def decoder_spec(self) -> WaveNetSpec | StudentSpec:
        spec = self.card.spec
        if not isinstance(spec, WaveNetSpec | StudentSpec):
            raise TypeError(f"a card of kind {self.card.kind}")
        return spec

    def with_decoder(self, decoder: StudentSpec) -> VQVAESpec | StudentSpec:
        return decoder

    def load_frozen_parts(self, other: ModelKind) -> None:
        """There are none."""

    def tracks(self, corpus: Corpus) -> Sequence[Track]:
        frontend = self.model.frontend
        return () if frontend is None else carried(corpus, frontend.tracks)

    @torch.no_grad()
    def decoder_features(
        self,
        batch: Batch,
        *,
        recorded_pitch: bool = False,  # noqa: ARG002 - of the base class
        recorded_spectrum: bool = False,  # noqa: ARG002 - of the base class
    ) -> Tensor | None:
        return self._frames(batch.wave, batch.labels, batch.frame_mask(self.model.hop))


class VocoderKind(WaveformKind):
    """A WaveNet or a student on spectral or given frames."""

    def frontend(self) -> AnyFrontend:
        frontend = self.model.frontend
        return super().frontend() if frontend is None else frontend

    def check_generates(self) -> None:
        raise UserInputError(
            "this model is a vocoder: it is conditioned on spectral frames, expected a WaveNet"
            " without features"
        )

    def reconstruct(
        self,
        speech: Speech,
        wave: Tensor,
        labels: Labels,
        embeddings: Vectors | None,
        features: Given,
    ) -> Tensor:
        return speech.reconstruct(wave, labels=labels, embeddings=embeddings, features=features)


class CodecKind(ModelKind):
    """A VQ-VAE: codes, and a decoder of codes."""

    model: VQVAE

    @property
    def decoder(self) -> WaveNet | Student:
        return self.model.decoder

    @property
    def codec(self) -> VQVAE:
        return self.model

    @property
    def vectors_suffice(self) -> bool:
        """Of the spectral decoder, too, where its frames are used."""
        used = None if self.model.decoder_input == "latents" else self.model.spectral_decoder
        return super().vectors_suffice and (used is None or used.vectors_suffice)

    def check_generates(self) -> None:
        raise UserInputError(
            "this model decodes codes: to generate speech it needs a prior over them, or use a"
            " plain WaveNet"
        )

    def recording_condition(
        self,
        speech: Speech,
        x: Tensor,
        labels: Labels | None,
        embeddings: Vectors | None,
        features: Given | None,
        *,
        like: ReferenceVoice | None,
    ) -> Condition | None:
        conditions = speech.given.attributes(labels, embeddings)
        conditions |= speech.given.frames(features, x.shape[1]) if features else {}
        speaker = None if like is not None or labels is None else labels.get("speaker")
        coded = speech.encode_prepared(x[0], speaker)
        return speech.task(coded, None, labels, embeddings, like=like).condition

    def reconstruct(
        self,
        speech: Speech,
        wave: Tensor,
        labels: Labels,
        embeddings: Vectors | None,
        features: Given,  # noqa: ARG002 - of the base class
    ) -> Tensor:
        return speech.decode(speech.encode(wave), labels=labels, embeddings=embeddings)

    @property
    def spec(self) -> VQVAESpec:
        """The settings of the codec."""
        spec = self.card.spec
        if not isinstance(spec, VQVAESpec):
            raise TypeError(f"a card of kind {self.card.kind}")
        return spec

    def decoder_spec(self) -> WaveNetSpec | StudentSpec:
        return self.spec.decoder

    def with_decoder(self, decoder: StudentSpec) -> VQVAESpec | StudentSpec:
        return self.spec.with_decoder(decoder)

    def load_frozen_parts(self, other: ModelKind) -> None:
        if other.codec is not None:
            self.model.load_frozen_codec(other.codec)

    def tracks(self, corpus: Corpus) -> Sequence[Track]:
        return () if self.melody is None else (stored_pitch(corpus),)

    @torch.no_grad()
    def decoder_features(
        self, batch: Batch, *, recorded_pitch: bool = False, recorded_spectrum: bool = False
    ) -> Tensor | None:
        return self.model.features_of_recordings(
            batch.wave,
            batch.labels,
            batch.lengths,
            recorded_pitch=recorded_pitch,
            recorded_spectrum=recorded_spectrum,
        )


class PriorKind(CodecKind):
    """A prior over the codes of a VQ-VAE, with that VQ-VAE."""

    def __init__(self, model: Prior, card: ModelCard) -> None:
        super().__init__(model.codec, card)
        self._prior = model

    @property
    def complete(self) -> Model:
        return self._prior

    @property
    def prior(self) -> Prior:
        return self._prior

    @property
    def spec(self) -> VQVAESpec:
        spec = getattr(self.card.spec, "codec", None)
        if not isinstance(spec, VQVAESpec):
            raise TypeError(f"a card of kind {self.card.kind}")
        return spec


@singledispatch
def kind_of(model: nn.Module, card: ModelCard) -> ModelKind:  # noqa: ARG001 - dispatched on
    """The kind of a model. Raises UserInputError for one that makes no speech."""
    raise UserInputError(
        f"a {card.kind.replace('_', ' ')}, which makes no speech; expected a WaveNet, a VQ-VAE, a"
        " student or a prior"
    )


@kind_of.register
def _(model: WaveNet, card: ModelCard) -> ModelKind:
    return WaveformKind(model, card) if model.frontend is None else VocoderKind(model, card)


@kind_of.register
def _(model: Student, card: ModelCard) -> ModelKind:
    return WaveformKind(model, card) if model.frontend is None else VocoderKind(model, card)


@kind_of.register
def _(model: VQVAE, card: ModelCard) -> ModelKind:
    return CodecKind(model, card)


@kind_of.register
def _(model: Prior, card: ModelCard) -> ModelKind:
    return PriorKind(model, card)
