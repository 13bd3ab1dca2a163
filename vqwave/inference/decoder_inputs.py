"""What a trained decoder is conditioned on, from what users give: names of labels, vectors, frames,
the range of a voice's pitch.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import PitchCodes, PitchFormat
from vqwave.data.speaker_vectors import NAME, SpeakerVectors
from vqwave.errors import UserInputError, nearest
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.reference_voice import ReferenceVoice, Vectors
from vqwave.models import Student, WaveNet
from vqwave.models.melody import VOICE, Melody
from vqwave.models.pitch import SEMITONE
from vqwave.nn.auxiliary.spectral_decoder import EMBEDDING

Labels = Mapping[str, str | None]
# frames by name: arrays (C, F), or phones as [[first sample, label], ...]
Given = Mapping[str, Any]
FURTHEST = 48.0  # semitones
MISSPELT = 0.84  # similarity to a known label from which on another name is a mistake


class DecoderInputs:
    """Checks what is given for one utterance, and gives tensors (1, ...) on the model's device."""

    def __init__(
        self,
        decoder: WaveNet | Student,
        card: ModelCard,
        melody: Melody | None = None,
        voices: SpeakerVectors | None = None,
        *,
        vectors_suffice: bool = False,
    ) -> None:
        """melody: of a codec with a pitch stream; voices: the vectors of the model's speakers;
        vectors_suffice: whether labels may be left out where vectors are given.
        """
        self.decoder, self.card, self.melody, self.voices = decoder, card, melody, voices
        self.vectors_suffice = vectors_suffice

    @property
    def _device(self) -> torch.device:
        return next(self.decoder.parameters()).device

    def attributes(
        self, labels: Labels | None, vectors: Vectors | None = None
    ) -> dict[str, Tensor]:
        """Label names -> ids (1,) and vector names -> (1, V), of those that condition the decoder.

        A speaker of the model whose vector is not given has its own. Labels may be left out where
        the vectors suffice. Raises UserInputError.
        """
        if not self.card.decodes:
            raise UserInputError(
                "this model has codes alone, expected one with a trained decoder (frozen_codec=RUN"
                " of experiments/vqvae.py)"
            )
        conditioner = self.decoder.conditioner
        sizes, labels = conditioner.vector_sizes, inputs.by_name(labels, "labels")
        known = {"speaker", *self.card.labels}
        for name in set(labels) - known:  # others, of an utterance, are none of its conditions
            if meant := get_close_matches(name, known, 1, MISSPELT):
                raise UserInputError(f"label {name!r}: no label here; did you mean {meant[0]}?")
        given = inputs.by_name(vectors, "embeddings")
        for name in given:
            if name not in sizes:
                raise UserInputError(
                    f"vector {name!r}: this model takes"
                    f" {', '.join(sizes) or 'none'}{nearest(name, sizes)}"
                )
        rows = {name: inputs.floats(value, f"vector {name!r}") for name, value in given.items()}
        tensors = {
            name: torch.from_numpy(x).reshape(1, -1).to(self._device) for name, x in rows.items()
        }
        speaker = labels.get("speaker")
        if NAME in sizes and NAME not in tensors and speaker is not None:
            tensors |= self._own_vector(speaker)
        named = any(labels.get(name) is not None for name in conditioner.labels)
        if self.vectors_suffice and not named and set(sizes) <= set(tensors):
            return tensors
        return self.label_ids(labels) | tensors

    def _own_vector(self, speaker: str) -> dict[str, Tensor]:
        """The vector of a speaker of the model, if that has any, and the speaker's id, which names
        the range of a melody.
        """
        voices = self.voices
        if voices is None or voices.whitening is None:
            return {}
        place = inputs.place_of(speaker, voices.names, "speaker")
        vector = torch.from_numpy(voices.whitening(voices.vectors[place]))[None]
        number = self.card.labels["speaker"].index(voices.names[place])
        return {
            NAME: vector.to(self._device),
            "speaker": torch.tensor([number], device=self._device),
        }

    def label_ids(self, labels: Labels) -> dict[str, Tensor]:
        """Label names -> ids (1,), for the labels that condition the decoder.

        Raises UserInputError with the nearest names.
        """
        names = self.decoder.conditioner.labels
        ids = {
            name: inputs.place_of(
                labels.get(name), self.card.labels[name], name, offered=self.card.trained(name)
            )
            for name in names
        }
        return {name: torch.tensor([number], device=self._device) for name, number in ids.items()}

    def voice(
        self,
        speaker: str | None,
        labels: Labels,
        vectors: Vectors | None,
        like: ReferenceVoice | None = None,
    ) -> dict[str, Tensor]:
        """The same, with the speaker apart, or in the voice of a reference. Raises
        UserInputError.
        """
        if like is not None:
            given = inputs.by_name(vectors, "embeddings")
            own = {} if like.embedding is None else {EMBEDDING: like.embedding.to(self._device)}
            return self.attributes(*like.conditions(labels, given)) | own
        if speaker is not None:
            self.check_speaker(speaker)
        return self.attributes(
            labels if speaker is None else {**labels, "speaker": speaker}, vectors
        )

    def check_speaker(self, speaker: str) -> None:
        """Raises UserInputError where no speaker conditions the decoder, by name or by vector."""
        conditioner = self.decoder.conditioner
        by_vector = NAME in conditioner.vector_sizes and self.voices is not None
        if "speaker" not in conditioner.labels and not by_vector:
            raise UserInputError(
                f"speaker {speaker!r}: this model takes no speaker, it has one voice"
            )

    def frames(self, frames: Given | None, samples: int) -> dict[str, Tensor]:
        """Given frames -> what the front end's tracks read, (1, C, F), for `samples` samples.

        Raises UserInputError.
        """
        frames = inputs.by_name(frames, "features")
        tracks = () if self.decoder.frontend is None else self.decoder.frontend.tracks
        known = [track.name for track in tracks]
        for name in frames:
            if name not in known:
                raise UserInputError(
                    f"frames {name!r}: this model takes"
                    f" {', '.join(known) or 'none but its own'}{nearest(name, known)}"
                )
        tensors = {}
        for track in tracks:
            if track.name in frames:
                value = track.given(
                    frames[track.name], samples, self.card.sample_rate, self.card.labels
                )
                tensors[track.name] = torch.from_numpy(value)[None].to(self._device)
        return tensors

    def shift(self, semitones: object) -> float:
        """By how much a melody is moved.

        Raises UserInputError unless it is a number within bounds, 0 for a model without melody.
        """
        values = inputs.floats(semitones, "shift_semitones")
        if values.size != 1:
            raise UserInputError(f"shift_semitones: of shape {values.shape}, expected a number")
        shift = float(values.item())
        if shift and self.melody is None:
            wanted = "expected 0: this model has no codes of a melody"
            raise UserInputError(f"shift_semitones: {shift:g}, {wanted}")
        if abs(shift) > FURTHEST:
            raise UserInputError(
                f"shift_semitones: {shift:g}, expected at most {FURTHEST:g} up or down"
            )
        return shift

    def range_of(
        self,
        attributes: Mapping[str, Tensor],
        codes: PitchCodes | PitchFormat | None,
        shift_semitones: float = 0.0,
        like: ReferenceVoice | None = None,
    ) -> dict[str, Tensor]:
        """The range that a melody is decoded in: that of a reference; else the speaker's; or that
        of the codes where no speaker is given.

        shift_semitones: up (above 0) or down from there. Raises UserInputError for a shift of a
        model without melody.
        """
        melody, shift = self.melody, self.shift(shift_semitones)
        if melody is None:
            return {}
        if like is not None and like.pitch is not None:
            mean, deviation = like.pitch.mean, like.pitch.deviation
        elif "speaker" in attributes:
            mean, deviation = (float(each[0]) for each in melody.voice(attributes))
        elif codes is not None:
            mean, deviation = codes.mean, codes.deviation
        else:
            raise UserInputError(
                "voice: neither a speaker nor codes with the pitch of their voice, expected one of"
                " them"
            )
        return {VOICE: torch.tensor([[mean + shift * SEMITONE, deviation]], device=self._device)}
