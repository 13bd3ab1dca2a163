"""What a trained decoder is conditioned on, from what users give: names of labels, vectors, frames,
the range of a voice's pitch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import PitchCodes, PitchFormat
from vqwave.errors import UserInputError, nearest
from vqwave.inference.model_folder import ModelCard
from vqwave.models import Student, WaveNet
from vqwave.models.melody import VOICE, Melody
from vqwave.models.pitch import SEMITONE

Labels = Mapping[str, str | None]
# given vectors by name, such as a speaker embedding
Vectors = Mapping[str, Tensor | np.ndarray | Sequence[float]]
# frames by name: arrays (C, F), or phones as [[first sample, label], ...]
Given = Mapping[str, Any]
FURTHEST = 48.0  # semitones


class DecoderInputs:
    """Checks what is given for one utterance, and gives tensors (1, ...) on the model's device."""

    def __init__(
        self, decoder: WaveNet | Student, card: ModelCard, melody: Melody | None = None
    ) -> None:
        """melody: of a codec with a pitch stream."""
        self.decoder, self.card, self.melody = decoder, card, melody

    @property
    def _device(self) -> torch.device:
        return next(self.decoder.parameters()).device

    def attributes(
        self, labels: Labels | None, vectors: Vectors | None = None
    ) -> dict[str, Tensor]:
        """Label names -> ids (1,) and vector names -> (1, V), of those that condition the decoder.

        Raises UserInputError.
        """
        if not self.card.about.get("speaks", True):
            raise UserInputError(
                "this model has codes alone, expected one with a trained decoder (frozen_codec=RUN"
                " of experiments/vqvae.py)"
            )
        sizes = self.decoder.conditioner.vector_sizes
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
        return self.label_ids(inputs.by_name(labels, "labels")) | tensors

    def label_ids(self, labels: Labels) -> dict[str, Tensor]:
        """Label names -> ids (1,), for the labels that condition the decoder.

        Raises UserInputError with the nearest names.
        """
        names = self.decoder.conditioner.labels
        ids = {
            name: inputs.place_of(labels.get(name), self.card.labels[name], name) for name in names
        }
        return {name: torch.tensor([number], device=self._device) for name, number in ids.items()}

    def voice(
        self, speaker: str | None, labels: Labels, vectors: Vectors | None
    ) -> dict[str, Tensor]:
        """The same, with the speaker apart. Raises UserInputError."""
        if speaker is not None:
            self.check_speaker(speaker)
        return self.attributes(
            labels if speaker is None else {**labels, "speaker": speaker}, vectors
        )

    def check_speaker(self, speaker: str) -> None:
        """Raises UserInputError where no speaker conditions the decoder."""
        if "speaker" not in self.decoder.conditioner.labels:
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
    ) -> dict[str, Tensor]:
        """The range that a melody is decoded in: the speaker's, or that of the codes where no
        speaker is given.

        shift_semitones: up (above 0) or down from there. Raises UserInputError for a shift of a
        model without melody.
        """
        melody, shift = self.melody, self.shift(shift_semitones)
        if melody is None:
            return {}
        if "speaker" in attributes:
            mean, deviation = (float(each[0]) for each in melody.voice(attributes))
        elif codes is not None:
            mean, deviation = codes.mean, codes.deviation
        else:
            raise UserInputError(
                "voice: neither a speaker nor codes with the pitch of their voice, expected one of"
                " them"
            )
        return {VOICE: torch.tensor([[mean + shift * SEMITONE, deviation]], device=self._device)}
