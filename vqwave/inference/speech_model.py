"""A trained model as people use it: waveforms and speaker names in, codes and waveforms out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.audio import read
from vqwave.audio.streaming import Recording
from vqwave.codes import CodeSequence, Header, PitchFormat
from vqwave.decode.batching import DecodeRequest, decode_each, decode_together
from vqwave.decode.sampling import Sampling, temperatures_of
from vqwave.decode.streaming.conditions import code_condition
from vqwave.decode.streaming.stream import Stream, StreamState
from vqwave.distributed.torch_defaults import inference, own_defaults
from vqwave.errors import UserInputError
from vqwave.inference.chunked_encoding import encode_blocks, encode_recording, prepare
from vqwave.inference.code_prior import CodePrior
from vqwave.inference.decoder_inputs import DecoderInputs, Given, Labels, Vectors
from vqwave.inference.fingerprint import CodecFingerprint
from vqwave.inference.melody_stream import BlockStream, with_melody
from vqwave.inference.model_folder import Loaded, ModelCard, load_trained
from vqwave.inference.pitch_encoding import Range, check_pitch, encode_melody, f0_of, voice_of
from vqwave.inference.stream_encoding import SOON, SpeechStream
from vqwave.metrics import likelihood
from vqwave.models import VQVAE, Classifier, Model, PitchCodec, Prior, Student, WaveNet
from vqwave.nn.finite import check_finite
from vqwave.pitch_tracking import F0

Progress = Callable[[int], object]
DEFAULT = Sampling()
LONG = 300.0  # seconds of a recording that are held in memory


class SpeechModel:
    """Encode, decode, convert, generate. Waveforms are float32 tensors (T,) in [-1, 1] at `sample_rate`.

    What may be given as a recording, a rate or codes is said in `inputs`; else it is a BadInput.

    >>> model = Codec.load("runs/vqvae-fsdd")                         # doctest: +SKIP
    >>> coded = model.encode(wave, 16000)                             # doctest: +SKIP
    >>> theo = model.decode(coded, speaker="theo")                    # doctest: +SKIP
    """

    def __init__(self, model: Model, card: ModelCard) -> None:
        self.model = model.codec if isinstance(model, Prior) else model
        self.card = card
        self.sample_rate = card.sample_rate
        self.labels = card.labels
        self.level_db: float = card.about.get("level_db", -23.0)
        self.temperatures = temperatures_of(card.about)  # where none are given
        self.given = DecoderInputs(self.model, card)
        self._names = CodecFingerprint(
            self.model, getattr(getattr(card.spec, "codec", card.spec), "encoder", None), card.sample_rate
        )
        self.prior = None
        if isinstance(model, Prior):
            self.prior = CodePrior.of(model, self.fingerprint, card.sample_rate, card.labels, older=self._names.older)

    @classmethod
    @own_defaults()
    def load(cls, name: str | Path, device: str = "cpu") -> SpeechModel:
        """A run folder, a model folder, or the name of a shipped model. Raises BadInput."""
        loaded: Loaded = load_trained(name, device)
        if isinstance(loaded.model, Classifier):
            raise UserInputError(f"{name}: a classifier, which does not speak; expected a WaveNet, a VQ-VAE, a student or a prior")
        if isinstance(loaded.model, PitchCodec):
            raise UserInputError(
                f"{name}: a pitch codec, which makes no speech; expected a WaveNet, a VQ-VAE, a student or a prior"
            )
        return cls(loaded.model, loaded.card)

    def __repr__(self) -> str:
        codes = f", {self.card.about['bit_rate']:g} bit/s" if self.card.about.get("bit_rate") else ""
        voices = f", {len(self.speakers)} speakers" if "speaker" in self.decoder.conditioner.labels else ""
        return f"Codec({self.card.kind}, {self.sample_rate} Hz{codes}{voices}, decoder {type(self.decoder).__name__})"

    @property
    def decoder(self) -> WaveNet | Student:
        return self.model.decoder if isinstance(self.model, VQVAE) else self.model

    @property
    def speakers(self) -> list[str]:
        return list(self.labels.get("speaker", []))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def header(self, speaker: str | None = None, samples: int = 0, pitch: PitchFormat | None = None) -> Header:
        """What a file says of this model's codes of so many samples; `pitch`: of one with melody."""
        q, hop, n = self._vqvae.quantizer, self.model.hop, -(-samples // self.model.hop)
        facts = (self.sample_rate, hop, samples, q.size, self.fingerprint, q.books, n, speaker)
        return Header(*facts, pitch=pitch)

    @property
    def fingerprint(self) -> str:
        """Names the encoder and the codebook: a teacher and its student, which share them, read each other's codes."""
        self._vqvae  # noqa: B018 - raises for a model without codes, or of weights that are not finite
        return self._names.name

    @property
    def _vqvae(self) -> VQVAE:
        if not isinstance(self.model, VQVAE):
            raise UserInputError(f"this model is a {self.card.kind} without codes, expected a vqvae (or its student)")
        return check_finite(self.model, f"this {self.card.kind}")

    def prepare(self, wave: Tensor | np.ndarray, sample_rate: int | None = None) -> Tensor:
        """A recording -> (T,) as the model was trained on: at its rate and level, mono, no DC."""
        source = self.sample_rate if sample_rate is None else sample_rate
        x = prepare(wave, source, self.sample_rate, self.level_db)
        return torch.from_numpy(x).to(self.device)

    @inference()
    def encode(self, wave: Tensor | np.ndarray, sample_rate: int | None = None, speaker: str | None = None) -> CodeSequence:
        """A recording, at the model's rate or `sample_rate` -> codes (Q, F), `speaker` noted."""
        return self.encode_prepared(self.prepare(wave, sample_rate), speaker)

    @inference()
    def encode_prepared(self, wave: Tensor, speaker: str | None = None) -> CodeSequence:
        """The same of a recording (T,) that is prepared already, as a corpus holds it."""
        melody, f0 = self._vqvae.melody, None
        if melody is not None:
            f0 = f0_of(melody, inputs.mono(wave), self.sample_rate)
        return self._coded(self.codes_of(wave), len(wave), speaker, f0)

    def _coded(self, codes: Tensor, samples: int, speaker: str | None, f0: F0 | None) -> CodeSequence:
        """f0: of a model with melody. A speaker's that it does not know is normalised by the recording's own range."""
        melody = self._vqvae.melody
        if melody is None:
            return self.header(speaker, samples).with_codes(codes)
        pitch = encode_melody(melody, f0, voice_of(melody, f0, self._known(speaker)))
        return self.header(speaker, samples, pitch.format).with_codes(codes, pitch.codes)

    @inference()
    def codes_of(self, wave: Tensor) -> Tensor:
        """A recording (T,) that is prepared already, as a corpus holds it -> its codes (Q, F) on the CPU; in blocks, if long."""
        x = torch.from_numpy(inputs.mono(wave)).to(self.device)
        return encode_blocks(self._vqvae, x, self.sample_rate)

    def encode_file(self, path: str | Path, speaker: str | None = None) -> CodeSequence:
        """As `encode`, of a sound file; one of more than a few minutes is read in pieces, so that memory does not grow with it."""
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
        """To encode a recording as it comes: see `encoding.SpeechStream`, whose `push` gives codes.

        `level`: its RMS level in dBFS, if known; else it is taken from the first second.
        `seconds`: how much is encoded at once. Raises BadInput.

        With melody: see `stream_encoding.BlockStream`, whose `push` gives a `CodeBlock` of codes
        and pitch codes. The voice is normalised by `pitch_range`, its mean F0 in Hz and deviation
        in semitones; else by the range of `speaker`, if the model knows that one; else by the range
        of the first voiced second.
        """
        rates = (self.sample_rate if sample_rate is None else sample_rate, self.sample_rate)
        speech = SpeechStream(self._vqvae, rates, self.level_db, level, seconds)
        return with_melody(speech, self._known(speaker), pitch_range)

    def _known(self, speaker: str | None) -> int | None:
        """The number of a speaker, None of one that the model does not know."""
        return self.speakers.index(speaker) if speaker in self.speakers else None

    @own_defaults()
    def stream(
        self,
        speaker: str | None = None,
        *,
        seed: int | None = None,
        labels: Mapping[str, str] | None = None,
        embeddings: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        pitch: PitchFormat | None = None,
        shift_semitones: float = 0.0,
    ) -> Stream:
        """To decode codes as they come: what is pushed comes out as `decode` gives it. `seed` stands for that of `sampling`.

        pitch: what a file says of its pitch codes, where no speaker is given.
        """
        sampling = (sampling if seed is None else replace(sampling, seed=seed)).resolved(self.temperatures)
        told = self.given.voice(speaker, labels or {}, embeddings)
        told |= self.given.range_of(told, pitch, shift_semitones)
        return Stream(self._vqvae, told, sampling, self.sample_rate)

    def resume_stream(self, state: StreamState | str | Path, seed: int | None = None) -> Stream:
        """Go on with a stream that was saved; with another `seed`, otherwise. Raises BadInput for one of another model."""
        state = state if isinstance(state, StreamState) else StreamState.load(state)
        return Stream.resumed(self._vqvae, state, self.sample_rate, seed)

    def decode(
        self,
        coded: CodeSequence,
        speaker: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """Codes -> waveform (T,), in the voice of `speaker` (or of the one noted beside them), the melody moved."""
        also, given, shift = [labels or {}], [embeddings or {}], shift_semitones
        settings = {"shift_semitones": shift, "sampling": sampling, "progress": progress}
        return self.decode_many([coded], [speaker], labels=also, embeddings=given, **settings)[0]

    @inference()
    def decode_many(
        self,
        coded: Sequence[CodeSequence],
        speakers: Sequence[str | None],
        *,
        labels: Sequence[Mapping[str, str]] | None = None,
        embeddings: Sequence[Vectors] | None = None,
        shift_semitones: float = 0.0,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """As `decode` for several utterances at once, with labels and vectors of each; each comes out as it would alone."""
        nothing = [{}] * len(coded)
        beside = {"speakers": speakers, "labels": labels or nothing, "vectors": embeddings or nothing}
        each = zip(coded, *inputs.one_each(len(coded), beside), strict=True)
        tasks = [task for told in each if (task := self.task(*told, shift_semitones)).samples]
        waves = iter(decode_together(self.decoder, tasks, [0] * len(tasks), sampling.resolved(self.temperatures), progress))
        return [next(waves) if item.samples else torch.zeros(0) for item in coded]

    def convert(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        speaker: str,
        labels: Mapping[str, str] | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """A recording, as `encode` takes it -> the same words and melody in the voice and the range of `speaker`."""
        settings = {"shift_semitones": shift_semitones, "sampling": sampling, "progress": progress}
        return self.decode(self.encode(wave, sample_rate), speaker, labels=labels, embeddings=embeddings, **settings)

    @inference()
    def generate(
        self,
        seconds: float | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        count: int = 1,
        prompt: Tensor | np.ndarray | None = None,
        prompt_rate: int | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """Babble: `count` waveforms drawn from a WaveNet that hears no frames, only labels, or from a prior over codes.

        A prior needs no `seconds` (see `CodePrior.draw`, which has more settings).
        `prime`, a recording at `prime_rate`, is gone on from: each waveform is the recording and then `seconds` more.
        `shift_semitones`: of a prior of codes with melody, by how much that is moved.
        """
        decoder, count = self.decoder, inputs.whole(count, "count", 1)
        settings = {"shift_semitones": self.given.shift(shift_semitones), "sampling": sampling}
        if self.prior is not None:
            if prompt is not None:
                raise UserInputError("this model speaks from codes that it draws; it cannot go on from a recording")
            drawn = self.prior.draw(seconds, labels=labels, count=count, seed=sampling.seed)
            each, given = [labels or {}] * count, None if embeddings is None else [embeddings] * count
            settings |= {"labels": each, "vectors": given, "progress": progress}
            return self.decode_many(drawn, [None] * count, **settings)
        if isinstance(self.model, VQVAE):
            raise UserInputError("this model speaks from codes; to babble it needs a prior over them, or use a plain WaveNet")
        if decoder.frontend is not None:
            raise UserInputError("this model is a vocoder: it speaks from spectral frames, expected a WaveNet without features")
        samples = inputs.samples_of(seconds, self.sample_rate)
        condition = decoder.condition(None, self.given.attributes(labels, embeddings))
        heard = None if prompt is None else self.prepare(prompt, prompt_rate).expand(count, -1)
        tasks = [DecodeRequest(condition, samples)] * count
        drawn = decode_together(decoder, tasks, range(count), sampling.resolved(self.temperatures), progress, prime=heard)
        return drawn if heard is None else [torch.cat([heard[0].cpu(), wave]) for wave in drawn]

    @inference()
    def reconstruct(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        embeddings: Vectors | None = None,
        features: Given | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """A vocoder's copy of a recording (T,), from its spectral frames (and given `frames`, see `speak`) alone."""
        decoder = self.decoder
        if decoder.frontend is None:
            raise UserInputError("this model has no spectral front end, expected a vocoder")
        x = self.prepare(wave, sample_rate)
        told = self.given.attributes(labels, embeddings) | self.given.frames(features, len(x))
        padded = torch.nn.functional.pad(x, (0, -len(x) % decoder.hop))
        task = DecodeRequest(decoder.condition(decoder.frontend(padded[None], told), told), len(x))
        return decode_together(self.decoder, [task], [0], sampling.resolved(self.temperatures), progress)[0]

    @inference()
    def synthesize(
        self,
        features: Given,
        seconds: float | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        embeddings: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """Speech (T,) from given frames: arrays (C, F) by name, `phones` as [[first sample, label], ...].

        `seconds` may be left out where arrays say how long it is. Raises BadInput for a model that hears a recording.
        """
        decoder, features = self.decoder, inputs.by_name(features, "frames")
        if decoder.frontend is None:
            raise UserInputError("this model hears no frames, expected a vocoder of given frames (features.kind files or phones)")
        lengths = [n for track in decoder.frontend.tracks if (n := track.samples_of(features.get(track.name))) is not None]
        if seconds is None and not lengths:
            raise UserInputError("seconds: not given, expected the length of the speech")
        samples = min(lengths) if seconds is None else inputs.samples_of(seconds, self.sample_rate)
        told = self.given.attributes(labels, embeddings) | self.given.frames(features, samples)
        task = DecodeRequest(decoder.condition(decoder.frontend(None, told), told), samples)
        return decode_together(self.decoder, [task], [0], sampling.resolved(self.temperatures), progress)[0]

    @inference()
    def log_likelihood(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        embeddings: Vectors | None = None,
        features: Given | None = None,
    ) -> likelihood.Score:
        """What a recording costs under the model, brought to the model's rate and level first.

        A vocoder hears the recording's own frames, a VQ-VAE its codes (which cost their own bits beside).
        """
        decoder = self.decoder
        if not isinstance(decoder, WaveNet):
            raise UserInputError("this model's decoder is a student, which scores no recording; expected a WaveNet")
        check_finite(self.model, f"this {self.card.kind}")
        x, told = self.prepare(wave, sample_rate)[None], self.given.attributes(labels, embeddings)
        told |= self.given.frames(features, x.shape[1]) if features else {}
        if isinstance(self.model, VQVAE):
            coded = self.encode_prepared(x[0], (labels or {}).get("speaker"))
            condition = self.task(coded, None, labels, embeddings).condition
        else:
            padded = torch.nn.functional.pad(x, (0, -x.shape[1] % self.model.hop))
            condition = decoder.condition(None if decoder.frontend is None else decoder.frontend(padded, told), told)
        return likelihood.score(decoder, condition, x)

    @inference()
    def task(
        self,
        coded: CodeSequence,
        speaker: str | None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
    ) -> DecodeRequest:
        """What decoding these codes asks of the decoder. Raises BadInput. As a stream has it; on a GPU, all frames at once."""
        coded = CodeSequence.checked(coded)
        self.check(coded)
        labels = {"speaker": coded.speaker, **inputs.by_name(labels, "labels")}
        model, told = self._vqvae, self.given.voice(speaker, labels, embeddings)
        told |= self.given.range_of(told, coded.pitch, shift_semitones)
        pitch = None if coded.pitch is None else coded.pitch.codes.to(self.device)
        if self.device.type != "cpu":
            codes = coded.codes[None].to(self.device)
            return DecodeRequest(model.condition(codes, told, pitch_codes=None if pitch is None else pitch[None]), coded.samples)
        return DecodeRequest(code_condition(model, coded.codes, told, pitch), coded.samples)

    def decode_each(
        self, tasks: Iterable[tuple[Hashable, DecodeRequest]], sampling: Sampling = DEFAULT, progress: Progress | None = None
    ) -> Iterator[tuple[Hashable, Tensor]]:
        """Any number of utterances, by key, each as it would come out alone: see `decode.tile.decode_each`."""
        each = decode_each(self.decoder, tasks, sampling.resolved(self.temperatures), progress=progress)
        while True:
            with inference():
                done = next(each, None)
            if done is None:
                return
            yield done

    def check(self, coded: CodeSequence | Header) -> None:
        """Raises BadInput for another codec's codes, or codes of other sizes than its own."""
        if coded.fingerprint != self.fingerprint and coded.fingerprint not in self._names.older:
            raise UserInputError(
                f"these codes are of codec {coded.fingerprint}, expected {self.fingerprint}: encode with this model"
            )
        if coded.sizes != (own := self.header().sizes):
            raise UserInputError(f"codes: {coded.sizes}, expected {own}")
        check_pitch(self._vqvae.melody, coded.pitch)


def load(name: str | Path, device: str = "cpu") -> SpeechModel:
    """`vqwave.load`: a run folder, a model folder, or the name of a shipped model. Raises BadInput."""
    return SpeechModel.load(name, device)
