"""The encoding side of a trained model: its kind, names and sizes; recordings in, codes out."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.audio import read
from vqwave.audio.streaming import Recording
from vqwave.codes import CodeSequence, Header, PitchFormat
from vqwave.data.speaker_vectors import NAME, SpeakerVectors
from vqwave.decode.postfilter import strength_of
from vqwave.decode.sampling import temperatures_of
from vqwave.distributed.torch_defaults import inference, ordinary, own_defaults
from vqwave.errors import UserInputError, under
from vqwave.inference.chunked_encoding import encode_chunked
from vqwave.inference.code_prior import CodePrior
from vqwave.inference.decoder_inputs import DecoderInputs
from vqwave.inference.fingerprint import CodecFingerprint
from vqwave.inference.melody_stream import BlockStream, with_melody
from vqwave.inference.model_folder import ModelCard, load_trained
from vqwave.inference.model_kinds import kind_of
from vqwave.inference.pitch_encoding import Range, check_pitch, encode_melody, f0_of, voice_of
from vqwave.inference.preparation import prepare
from vqwave.inference.recording_encoding import encode_recording
from vqwave.inference.stream_encoding import SOON, SpeechStream
from vqwave.models import VQVAE, Model, Student, WaveNet
from vqwave.models.melody import Melody
from vqwave.nn.finite import check_finite
from vqwave.pitch_tracking import F0

LONG = 300.0  # seconds of a recording that are held in memory


class SpeechEncoder:
    """What every use of a trained model begins with: its names and sizes, and a recording's codes.

    See `SpeechModel`.
    """

    def __init__(
        self,
        model: Model,
        card: ModelCard,
        folder: Path | None = None,
        voices: SpeakerVectors | None = None,
    ) -> None:
        """folder: where it was loaded from; voices: vectors of the model's speakers. Raises
        UserInputError for a model that makes no speech.
        """
        self.kind, self.folder = kind_of(model, card), folder
        self.model = self.kind.model
        self.card = card
        self.sample_rate = card.sample_rate
        self.labels = card.labels
        self.level_db: float = card.about.get("level_db", -23.0)
        # where none are given
        self.temperatures = temperatures_of(card.about)
        self.postfilter = strength_of(card.about, self.kind.codec)
        self.voices = voices
        self.given = DecoderInputs(
            self.decoder,
            card,
            self.kind.melody,
            voices,
            vectors_suffice=self.kind.vectors_suffice,
        )
        self._names = CodecFingerprint(
            self.kind.codec,
            getattr(getattr(card.spec, "codec", card.spec), "encoder", None),
            card.sample_rate,
        )
        self.prior = None
        if self.kind.prior is not None:
            self.prior = CodePrior.of(
                self.kind.prior,
                self.fingerprint,
                card.sample_rate,
                card.labels,
                older=self._names.older,
                longest=card.about.get("longest"),
            )

    @classmethod
    @own_defaults()
    def load(cls, name: str | Path, device: str = "cpu") -> Self:
        """A run folder, a model folder, the name of a shipped model, or `hf://USER/REPO[@REVISION]`
        of a hub. Raises UserInputError.
        """
        loaded = load_trained(name, device)
        with under(str(name)):
            return cls(loaded.model, loaded.card, loaded.folder, loaded.voices)

    def __repr__(self) -> str:
        codes = (
            f", {self.card.about['bit_rate']:g} bit/s" if self.card.about.get("bit_rate") else ""
        )
        voices = (
            f", {len(self.speakers)} speakers"
            if "speaker" in self.decoder.conditioner.labels
            else ""
        )
        return (
            f"SpeechModel({self.card.kind}, {self.sample_rate} Hz{codes}{voices}, decoder"
            f" {type(self.decoder).__name__})"
        )

    @property
    def decoder(self) -> WaveNet | Student:
        return self.kind.decoder

    @property
    def takes_vectors(self) -> bool:
        """Whether a speaker's vector is all that the model needs of a voice."""
        return NAME in self.decoder.conditioner.vector_sizes and self.kind.vectors_suffice

    @property
    def melody(self) -> Melody | None:
        """The codec's stream of pitch codes, where it has one."""
        return self.kind.melody

    @property
    def speakers(self) -> list[str]:
        return list(self.labels.get("speaker", []))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def header(
        self, speaker: str | None = None, samples: int = 0, pitch: PitchFormat | None = None
    ) -> Header:
        """The header of a file of this model's codes of so many samples; `pitch`: of one with
        melody.
        """
        codec = self._vqvae
        q, hop, name = codec.quantizer, codec.hop, self._names.name
        n = -(-samples // hop)
        size, books = q.codebook_size, q.num_codebooks
        facts = (self.sample_rate, hop, samples, size, name, books, n, speaker)
        return Header(*facts, pitch=pitch)

    @property
    def fingerprint(self) -> str:
        """Names the encoder and the codebook: a teacher and its student, which share them, read
        each other's codes.
        """
        self._vqvae  # noqa: B018 - raises for a model without codes, or of weights that are not finite
        return self._names.name

    @property
    def _vqvae(self) -> VQVAE:
        codec = self.kind.codec
        if codec is None:
            raise UserInputError(
                f"this model is a {self.card.kind} without codes, expected a vqvae (or its student)"
            )
        return check_finite(codec, f"this {self.card.kind}")

    def prepare(self, wave: Tensor | np.ndarray, sample_rate: int | None = None) -> Tensor:
        """A recording -> (T,) as the model was trained on: at its rate and level, mono, no DC."""
        source = self.sample_rate if sample_rate is None else sample_rate
        x = prepare(wave, source, self.sample_rate, self.level_db)
        return torch.from_numpy(x).to(self.device)

    @inference()
    def encode(
        self, wave: Tensor | np.ndarray, sample_rate: int | None = None, speaker: str | None = None
    ) -> CodeSequence:
        """A recording, at the model's rate or `sample_rate` -> codes (Q, F), `speaker` noted."""
        return self.encode_prepared(self.prepare(wave, sample_rate), speaker)

    @inference()
    def encode_prepared(self, wave: Tensor, speaker: str | None = None) -> CodeSequence:
        """The same of a recording (T,) that is prepared already, as a corpus holds it."""
        melody, f0 = self._vqvae.melody, None
        if melody is not None:
            f0 = f0_of(melody, inputs.mono(wave), self.sample_rate)
        return self._coded(self.codes_of(wave), len(wave), speaker, f0)

    def _coded(
        self, codes: Tensor, samples: int, speaker: str | None, f0: F0 | None
    ) -> CodeSequence:
        """f0: of a model with melody; that of an unknown speaker is normalised by its own range."""
        melody = self._vqvae.melody
        if melody is None or f0 is None:
            return self.header(speaker, samples).with_codes(codes)
        pitch = encode_melody(melody, f0, voice_of(melody, f0, self._known(speaker)))
        return self.header(speaker, samples, pitch.format).with_codes(codes, ordinary(pitch.codes))

    @inference()
    def codes_of(self, wave: Tensor) -> Tensor:
        """A recording (T,) that is prepared already, as a corpus holds it -> its codes (Q, F) on
        the CPU; in chunks, if long.
        """
        x = torch.from_numpy(inputs.mono(wave)).to(self.device)
        return ordinary(encode_chunked(self._vqvae, x, self.sample_rate))

    def encode_file(self, path: str | Path, speaker: str | None = None) -> CodeSequence:
        """As `encode`, of a sound file; one of more than a few minutes is read in pieces, so that
        memory does not grow with it.
        """
        recording = Recording.open(path)
        if recording.seconds <= LONG:
            return self.encode(*read(path), speaker)
        codes, n, f0 = encode_recording(self._vqvae, recording, self.sample_rate, self.level_db)
        return self._coded(codes, n, speaker, f0)

    def encode_stream(
        self,
        sample_rate: int | None = None,
        *,
        level: float | None = None,
        seconds: float = SOON,
        speaker: str | None = None,
        pitch_range: Range | None = None,
    ) -> SpeechStream | BlockStream:
        """To encode a recording as it comes: see `SpeechStream`, whose `push` gives codes.

        `level`: its RMS level in dBFS, if known; else it is taken from the first second.
        `seconds`: how much is encoded at once. Raises UserInputError.

        With melody: see `BlockStream`, whose `push` gives a `CodeBlock` of codes and pitch codes.
        The voice is normalised by `pitch_range`, its mean F0 in Hz and deviation in semitones; else
        by the range of `speaker`, if the model was trained on that one; else by the range of the
        first voiced second.
        """
        rates = (self.sample_rate if sample_rate is None else sample_rate, self.sample_rate)
        speech = SpeechStream(self._vqvae, rates, self.level_db, level, seconds)
        return with_melody(speech, self._known(speaker), pitch_range)

    def _known(self, speaker: str | None) -> int | None:
        """The number of a speaker, None for one that is not in the model's labels."""
        if speaker is None or speaker not in self.speakers:
            return None
        return self.speakers.index(speaker)

    def check(self, coded: CodeSequence | Header) -> None:
        """Raises UserInputError for another codec's codes, or codes of other sizes than its own."""
        own = self.header()
        if coded.fingerprint != own.fingerprint and coded.fingerprint not in self._names.older:
            raise UserInputError(
                f"these codes are of codec {coded.fingerprint}, expected {own.fingerprint}: encode"
                " with this model"
            )
        if coded.sizes != own.sizes:
            raise UserInputError(f"codes: {coded.sizes}, expected {own.sizes}")
        check_pitch(self.melody, coded.pitch)
