"""A trained model as people use it: waveforms and speaker names in, codes and waveforms out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.audio import read
from vqwave.checkpoint import Loaded, ModelCard, load_trained
from vqwave.codes import Coded, Header
from vqwave.decode.backends import sample
from vqwave.decode.conditions import code_condition
from vqwave.decode.sampling import Sampling
from vqwave.decode.stream import Stream, StreamState
from vqwave.decode.tile import Task, alone, decode_each
from vqwave.encoding import SOON, CodecNames, SpeechStream, encode_blocks, encode_recording, prepare
from vqwave.errors import BadInput, nearest
from vqwave.metrics import likelihood
from vqwave.models import VQVAE, Classifier, Model, PitchCodec, Prior, Student, WaveNet
from vqwave.nn.condition import join
from vqwave.pipes import Recording
from vqwave.prior import CodePrior
from vqwave.torch_defaults import inference, own_defaults

Progress = Callable[[int], object]
Vectors = Mapping[str, Tensor | np.ndarray | Sequence[float]]  # given vectors by name, such as a speaker embedding
Labels = Mapping[str, str | None]
Given = Mapping[str, Any]  # frames by name: arrays (C, F), or phones as [[first sample, label], ...]
DEFAULT = Sampling()
LONG = 300.0  # seconds of a recording that are held in memory


class Codec:
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
        self._names = CodecNames(self.model, getattr(getattr(card.spec, "codec", card.spec), "encoder", None), card.sample_rate)
        self.prior = None
        if isinstance(model, Prior):
            self.prior = CodePrior.of(model, self.fingerprint, card.sample_rate, card.labels, older=self._names.older)

    @classmethod
    @own_defaults()
    def load(cls, name: str | Path, device: str = "cpu") -> Codec:
        """A run folder, a model folder, or the name of a shipped model. Raises BadInput."""
        loaded: Loaded = load_trained(name, device)
        if isinstance(loaded.model, Classifier):
            raise BadInput(f"{name}: a classifier, which does not speak; expected a WaveNet, a VQ-VAE, a student or a prior")
        if isinstance(loaded.model, PitchCodec):
            raise BadInput(f"{name}: a pitch codec, which makes no speech; expected a WaveNet, a VQ-VAE, a student or a prior")
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

    def header(self, speaker: str | None = None, samples: int = 0) -> Header:
        """What a file says of this model's codes of so many samples."""
        q, hop, n = self._vqvae.quantizer, self.model.hop, -(-samples // self.model.hop)
        return Header(self.sample_rate, hop, samples, q.size, self.fingerprint, q.books, n, speaker)

    @property
    def fingerprint(self) -> str:
        """Names the encoder and the codebook: a teacher and its student, which share them, read each other's codes."""
        self._vqvae  # noqa: B018 - raises for a model without codes
        return self._names.name

    @property
    def _vqvae(self) -> VQVAE:
        if not isinstance(self.model, VQVAE):
            raise BadInput(f"this model is a {self.card.kind} without codes, expected a vqvae (or its student)")
        return self.model

    def prepare(self, wave: Tensor | np.ndarray, sample_rate: int | None = None) -> Tensor:
        """A recording -> (T,) as the model was trained on: at its rate and level, mono, no DC."""
        source = self.sample_rate if sample_rate is None else sample_rate
        x = prepare(wave, source, self.sample_rate, self.level_db)
        return torch.from_numpy(x).to(self.device)

    @inference()
    def encode(self, wave: Tensor | np.ndarray, sample_rate: int | None = None, speaker: str | None = None) -> Coded:
        """A recording, at the model's rate or `sample_rate` -> codes (Q, F), `speaker` noted."""
        x = self.prepare(wave, sample_rate)
        return self.header(speaker, len(x)).with_codes(self.codes_of(x))

    @inference()
    def codes_of(self, wave: Tensor) -> Tensor:
        """A recording (T,) that is prepared already, as a corpus holds it -> its codes (Q, F) on the CPU; in blocks, if long."""
        x = torch.from_numpy(inputs.mono(wave)).to(self.device)
        return encode_blocks(self._vqvae, x, self.sample_rate)

    def encode_file(self, path: str | Path, speaker: str | None = None) -> Coded:
        """As `encode`, of a sound file; one of more than a few minutes is read in pieces, so that memory does not grow with it."""
        recording = Recording.open(path)
        if recording.seconds <= LONG:
            return self.encode(*read(path), speaker)
        codes, n = encode_recording(self._vqvae, recording, self.sample_rate, self.level_db)
        return self.header(speaker, n).with_codes(codes)

    def encode_stream(self, sample_rate: int | None = None, *, level: float | None = None, seconds: float = SOON) -> SpeechStream:
        """To encode a recording as it comes: see `encoding.SpeechStream`.

        `level`: its RMS level in dBFS, if known; else it is taken from the first second. `seconds`: how much is encoded at once.
        """
        source = self.sample_rate if sample_rate is None else sample_rate
        return SpeechStream(self._vqvae, (source, self.sample_rate), self.level_db, level, seconds)

    @own_defaults()
    def stream(
        self,
        speaker: str | None = None,
        *,
        seed: int | None = None,
        labels: Mapping[str, str] | None = None,
        vectors: Vectors | None = None,
        sampling: Sampling = DEFAULT,
    ) -> Stream:
        """To decode codes as they come: what is pushed comes out as `decode` gives it. `seed` stands for that of `sampling`."""
        sampling = sampling if seed is None else replace(sampling, seed=seed)
        return Stream(self._vqvae, self._voice(speaker, labels or {}, vectors), sampling, self.sample_rate)

    def resume(self, state: StreamState | str | Path, seed: int | None = None) -> Stream:
        """Go on with a stream that was saved; with another `seed`, otherwise. Raises BadInput for one of another model."""
        state = state if isinstance(state, StreamState) else StreamState.load(state)
        return Stream.resumed(self._vqvae, state, self.sample_rate, seed)

    def decode(
        self,
        coded: Coded,
        speaker: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        vectors: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """Codes -> waveform (T,), in the voice of `speaker` (or of the speaker noted beside the codes)."""
        also, given = [labels or {}], [vectors or {}]
        return self.decode_many([coded], [speaker], labels=also, vectors=given, sampling=sampling, progress=progress)[0]

    @inference()
    def decode_many(
        self,
        coded: Sequence[Coded],
        speakers: Sequence[str | None],
        *,
        labels: Sequence[Mapping[str, str]] | None = None,
        vectors: Sequence[Vectors] | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """As `decode` for several utterances at once, with labels and vectors of each; each comes out as it would alone."""
        nothing = [{}] * len(coded)
        beside = {"speakers": speakers, "labels": labels or nothing, "vectors": vectors or nothing}
        each = zip(coded, *inputs.one_each(len(coded), beside), strict=True)
        tasks = [task for told in each if (task := self.task(*told)).samples]
        waves = iter(self._run(tasks, [0] * len(tasks), sampling, progress))
        return [next(waves) if item.samples else torch.zeros(0) for item in coded]

    def convert(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        speaker: str,
        labels: Mapping[str, str] | None = None,
        vectors: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """A recording, as `encode` takes it -> the same words in the voice of `speaker`."""
        coded = self.encode(wave, sample_rate)
        return self.decode(coded, speaker, labels=labels, vectors=vectors, sampling=sampling, progress=progress)

    @inference()
    def generate(
        self,
        seconds: float | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        count: int = 1,
        prime: Tensor | np.ndarray | None = None,
        prime_rate: int | None = None,
        vectors: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """Babble: `count` waveforms drawn from a WaveNet that hears no frames, only labels, or from a prior over codes.

        A prior needs no `seconds` (see `CodePrior.draw`, which has more settings).
        `prime`, a recording at `prime_rate`, is gone on from: each waveform is the recording and then `seconds` more.
        """
        decoder, count = self.decoder, inputs.whole(count, "count", 1)
        if self.prior is not None:
            if prime is not None:
                raise BadInput("this model speaks from codes that it draws; it cannot go on from a recording")
            drawn = self.prior.draw(seconds, labels=labels, count=count, seed=sampling.seed)
            each, given = [labels or {}] * count, None if vectors is None else [vectors] * count
            return self.decode_many(drawn, [None] * count, labels=each, vectors=given, sampling=sampling, progress=progress)
        if isinstance(self.model, VQVAE):
            raise BadInput("this model speaks from codes; to babble it needs a prior over them, or use a plain WaveNet")
        if decoder.frontend is not None:
            raise BadInput("this model is a vocoder: it speaks from spectral frames, expected a WaveNet without features")
        samples = inputs.samples_of(seconds, self.sample_rate)
        condition = decoder.condition(None, self.told(labels, vectors))
        heard = None if prime is None else self.prepare(prime, prime_rate).expand(count, -1)
        drawn = self._run([Task(condition, samples)] * count, range(count), sampling, progress, prime=heard)
        return drawn if heard is None else [torch.cat([heard[0].cpu(), wave]) for wave in drawn]

    @inference()
    def resynthesise(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        vectors: Vectors | None = None,
        frames: Given | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """A vocoder's copy of a recording (T,), from its spectral frames (and given `frames`, see `speak`) alone."""
        decoder = self.decoder
        if decoder.frontend is None:
            raise BadInput("this model has no spectral front end, expected a vocoder")
        x = self.prepare(wave, sample_rate)
        told = self.told(labels, vectors) | self._frames(frames, len(x))
        padded = torch.nn.functional.pad(x, (0, -len(x) % decoder.hop))
        task = Task(decoder.condition(decoder.frontend(padded[None], told), told), len(x))
        return self._run([task], [0], sampling, progress)[0]

    @inference()
    def speak(
        self,
        frames: Given,
        seconds: float | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        vectors: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """Speech (T,) from given frames: arrays (C, F) by name, `phones` as [[first sample, label], ...].

        `seconds` may be left out where arrays say how long it is. Raises BadInput for a model that hears a recording.
        """
        decoder, frames = self.decoder, inputs.by_name(frames, "frames")
        if decoder.frontend is None:
            raise BadInput("this model hears no frames, expected a vocoder of given frames (features.kind files or phones)")
        lengths = [n for track in decoder.frontend.tracks if (n := track.samples_of(frames.get(track.name))) is not None]
        if seconds is None and not lengths:
            raise BadInput("seconds: not given, expected the length of the speech")
        samples = min(lengths) if seconds is None else inputs.samples_of(seconds, self.sample_rate)
        told = self.told(labels, vectors) | self._frames(frames, samples)
        task = Task(decoder.condition(decoder.frontend(None, told), told), samples)
        return self._run([task], [0], sampling, progress)[0]

    @inference()
    def score(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        vectors: Vectors | None = None,
        frames: Given | None = None,
    ) -> likelihood.Score:
        """What a recording costs under the model, brought to the model's rate and level first.

        A vocoder hears the recording's own frames, a VQ-VAE its codes (which cost their own bits beside).
        """
        decoder = self.decoder
        if not isinstance(decoder, WaveNet):
            raise BadInput("this model's decoder is a student, which scores no recording; expected a WaveNet")
        x, told = self.prepare(wave, sample_rate)[None], self.told(labels, vectors)
        told |= self._frames(frames, x.shape[1]) if frames else {}
        padded = torch.nn.functional.pad(x, (0, -x.shape[1] % self.model.hop))
        if isinstance(self.model, VQVAE):
            condition = self.model.condition(self.model.encode(padded), told)
        else:
            condition = decoder.condition(None if decoder.frontend is None else decoder.frontend(padded, told), told)
        return likelihood.score(decoder, condition, x)

    def _frames(self, frames: Given | None, samples: int) -> dict[str, Tensor]:
        """Given frames -> what the front end's tracks read, (1, C, F), for `samples` samples. Raises BadInput."""
        frames, told = inputs.by_name(frames, "frames"), {}
        known = [track.name for track in self.decoder.frontend.tracks]
        for name in frames:
            if name not in known:
                raise BadInput(f"frames {name!r}: this model hears {', '.join(known) or 'none but its own'}{nearest(name, known)}")
        for track in self.decoder.frontend.tracks:
            if track.name in frames:
                value = track.given(frames[track.name], samples, self.sample_rate, self.labels)
                told[track.name] = torch.from_numpy(value)[None].to(self.device)
        return told

    def told(self, labels: Labels | None, vectors: Vectors | None = None) -> dict[str, Tensor]:
        """Label names -> ids (1,) and vector names -> (1, V), for what the decoder hears. Raises BadInput."""
        if not self.card.about.get("speaks", True):
            raise BadInput("this model has codes alone, expected one with a trained decoder (codes=RUN of experiments/vqvae.py)")
        sizes = self.decoder.conditioner.vector_sizes
        given = inputs.by_name(vectors, "vectors")
        for name in given:
            if name not in sizes:
                raise BadInput(f"vector {name!r}: this model hears {', '.join(sizes) or 'none'}{nearest(name, sizes)}")
        rows = {name: inputs.floats(value, f"vector {name!r}") for name, value in given.items()}
        told = {n: torch.from_numpy(x).reshape(1, -1).to(self.device) for n, x in rows.items()}
        return self.label_ids(inputs.by_name(labels, "labels")) | told

    def label_ids(self, labels: Labels) -> dict[str, Tensor]:
        """Label names -> ids (1,), for the labels that the decoder hears. Raises BadInput with the nearest names."""
        names = self.decoder.conditioner.labels
        ids = {name: inputs.place_of(labels.get(name), self.labels[name], name) for name in names}
        return {name: torch.tensor([number], device=self.device) for name, number in ids.items()}

    @inference()
    def task(
        self, coded: Coded, speaker: str | None, labels: Mapping[str, str | None] | None = None, vectors: Vectors | None = None
    ) -> Task:
        """What decoding these codes asks of the decoder. Raises BadInput. As a stream has it; on a GPU, all frames at once."""
        coded = Coded.checked(coded)
        self.check(coded)
        labels = {"speaker": coded.speaker, **inputs.by_name(labels, "labels")}
        model, told = self._vqvae, self._voice(speaker, labels, vectors)
        if self.device.type != "cpu":
            return Task(model.condition(coded.codes[None].to(self.device), told), coded.samples)
        return Task(code_condition(model, coded.codes, told), coded.samples)

    def decode_each(
        self, tasks: Iterable[tuple[Hashable, Task]], sampling: Sampling = DEFAULT, progress: Progress | None = None
    ) -> Iterator[tuple[Hashable, Tensor]]:
        """Any number of utterances, by key, each as it would come out alone: see `decode.tile.decode_each`."""
        each = decode_each(self.decoder, tasks, sampling, progress=progress)
        while True:
            with inference():
                done = next(each, None)
            if done is None:
                return
            yield done

    def _voice(self, speaker: str | None, labels: Mapping[str, str | None], vectors: Vectors | None) -> dict[str, Tensor]:
        """What the decoder is told beside the codes."""
        if speaker is not None and "speaker" not in self.decoder.conditioner.labels:
            raise BadInput(f"speaker {speaker!r}: this model hears no speaker, it has one voice")
        return self.told(labels if speaker is None else {**labels, "speaker": speaker}, vectors)

    def check(self, coded: Coded | Header) -> None:
        """Raises BadInput for another codec's codes, or codes of other sizes than its own."""
        if coded.fingerprint != self.fingerprint and coded.fingerprint not in self._names.older:
            raise BadInput(f"these codes are of codec {coded.fingerprint}, expected {self.fingerprint}: encode with this model")
        if coded.sizes != (own := self.header().sizes):
            raise BadInput(f"codes: {coded.sizes}, expected {own}")

    def _run(
        self,
        tasks: Sequence[Task],
        streams: Sequence[int],
        sampling: Sampling,
        progress: Progress | None,
        *,
        prime: Tensor | None = None,
    ) -> list[Tensor]:
        """All tasks in one batch; each condition was made alone, so that no utterance hears its neighbours' padding."""
        if not tasks:
            return []
        if isinstance(self.decoder, Student) and self.device.type == "cpu" and prime is None:  # a pass fills the machine as it is
            pairs = zip(tasks, streams, strict=True)
            return [alone(self.decoder, task, sampling, stream=stream, progress=progress) for task, stream in pairs]
        samples = max(task.samples for task in tasks)
        condition = join([task.condition for task in tasks])
        waves = sample(
            self.decoder,
            condition,
            samples,
            streams=torch.tensor(list(streams)),
            prime=prime,
            progress=progress,
            **vars(sampling),
        )
        return [wave[: task.samples].float().cpu() for wave, task in zip(waves, tasks, strict=True)]


def load(name: str | Path, device: str = "cpu") -> Codec:
    """`vqwave.load`: a run folder, a model folder, or the name of a shipped model. Raises BadInput."""
    return Codec.load(name, device)
