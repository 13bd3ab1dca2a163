"""A trained model as people use it: waveforms and speaker names in, codes and waveforms out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import CodeSequence, PitchFormat
from vqwave.decode.batching import DecodeRequest, decode_each, decode_together
from vqwave.decode.postfilter import conditioning_spectrum, postfiltered
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.decode.streaming.conditions import code_condition
from vqwave.decode.streaming.stream import Stream, StreamState
from vqwave.distributed.torch_defaults import inference, ordinary, own_defaults
from vqwave.errors import UserInputError, under
from vqwave.inference.batch_codec import Codec
from vqwave.inference.decoder_inputs import Given, Labels, Vectors
from vqwave.inference.embedding_fit import FittedEmbedding, fit_embedding
from vqwave.inference.hub import HubAddress, fetch, push
from vqwave.inference.model_folder import Loaded, check_device
from vqwave.inference.reference_voice import Reference, ReferenceVoice, reference_voice
from vqwave.inference.speech_encoder import SpeechEncoder
from vqwave.inference.standalone_folder import Facts, write_folder
from vqwave.metrics import likelihood
from vqwave.nn.finite import check_finite

Progress = Callable[[int], object]


class SpeechModel(SpeechEncoder):
    """Encode, decode, convert, generate.

    Waveforms are float32 tensors (T,) in [-1, 1] at `sample_rate`.

    Wherever samples are drawn, `sampling` has all settings; `seed` and `temperature` stand for its
    own. Wherever labels condition the decoder, `speaker` stands for the label of that name, and
    `like`, a recording, for the voice in it (`voice_like`).

    `vqwave.inputs` has the rules for recordings, rates and codes; whatever breaks them raises
    UserInputError.

    >>> model = SpeechModel.load("runs/vqvae-fsdd")                   # doctest: +SKIP
    >>> coded = model.encode(wave, 16000)                             # doctest: +SKIP
    >>> theo = model.decode(coded, speaker="theo")                    # doctest: +SKIP
    """

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        device: str = "cpu",
        token: str | None = None,
    ) -> Self:
        """A folder that `save_pretrained` wrote, or `USER/REPO` of a hub, of which `revision` is a
        branch, a tag or a commit. Raises UserInputError.

        As `load`, which takes a repository as `hf://USER/REPO[@REVISION]`.
        """
        if Path(name).is_dir() and revision is None:
            return cls.load(name, device)
        return cls.load(fetch(HubAddress.parse(str(name), revision), token), device)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        license: str | None = None,
        datasets: Sequence[str] = (),
        metrics: str | Path | None = None,
    ) -> None:
        """Write a folder that `load` reads, with a page `README.md` for model hubs.

        license, datasets: names of the hub's, where the page of the loaded model has not its own;
        metrics: what `vqwave evaluate --out` wrote. Raises UserInputError, also where the folder
        has something in it.
        """
        write_folder(self._loaded, Path(folder), Facts(license, datasets, metrics))

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Upload a vqwave model",
        license: str | None = None,
        datasets: Sequence[str] = (),
        metrics: str | Path | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to `USER/REPO[@BRANCH]` of a hub, which is made if
        need be -> the URL of the commit. Raises UserInputError.
        """
        address, facts = HubAddress.parse(repo), Facts(license, datasets, metrics)
        with TemporaryDirectory(prefix="vqwave-") as temporary:
            folder = Path(temporary, "model")
            write_folder(self._loaded, folder, facts, address=f"hf://{address.repo}")
            return push(folder, address, message, private=private, token=token)

    @property
    def _loaded(self) -> Loaded:
        return Loaded(self.kind.complete, self.card, self.folder, self.voices)

    @property
    def codec(self) -> Codec:
        """The model's codec on padded batches, see `Codec`.

        Raises UserInputError for a model without codes.
        """
        return Codec(self, self._vqvae)

    def to(self, device: str | torch.device) -> Self:
        """Moves the model to `cpu` or `cuda`, and gives it back. Raises UserInputError."""
        check_device(device)
        self.kind.complete.to(device)
        return self

    def _sampling(
        self, sampling: Sampling, seed: int | None, temperature: float | None
    ) -> Sampling:
        """With numbers for all temperatures and the post-filter: those given, else the model's own.

        Raises UserInputError for a post-filter where no predicted frames condition the decoder.
        """
        if sampling.postfilter and conditioning_spectrum(self.kind.codec) is None:
            reason = "no log-mel frames, predicted from codes, condition this decoder"
            raise UserInputError(f"postfilter {sampling.postfilter:g}: {reason}, expected 0")
        return sampling.given(seed, temperature).resolved(self.temperatures, self.postfilter)

    def _finished(self, wave: Tensor, task: DecodeRequest, sampling: Sampling) -> Tensor:
        """A waveform (T,) as the decoder made it -> as it is given."""
        return postfiltered(self.kind.codec, wave, task.spectrum, sampling.postfilter)

    @inference()
    def voice_like(self, reference: Reference, source: Reference | None = None) -> ReferenceVoice:
        """The voice of a recording (a file, or a waveform and its rate), as this model takes it: by
        its vector, else its own nearest voice, by an embedding that is fitted to the recording
        where a spectral decoder takes one; in the range of the recording's F0.

        source: what will be converted, from whose voice the embedding is moved away. Methods with
        `like` take the result, too. Raises UserInputError for a model without vectors of its voices
        (`voices.safetensors`), and without the extra `voices`.
        """
        return reference_voice(self, reference, source)

    @inference()
    def embedding_of(self, wave: Tensor, voice: ReferenceVoice) -> FittedEmbedding | None:
        """What conditions the spectral decoder on the voice of a prepared recording (T,), fitted
        from that of `voice` on; None where no spectral decoder conditions the decoder.
        """
        model = self.kind.codec
        if model is None or model.decoder_input == "latents" or model.spectral_decoder is None:
            return None
        coded = self.encode_prepared(wave)
        labels = self.given.voice(None, {}, None, voice)
        labels |= self.given.range_of(labels, coded.pitch, like=voice)
        known = [self.labels["speaker"].index(name) for name in self.card.trained("speaker")]
        return fit_embedding(model, coded, wave, labels, torch.tensor(known, device=self.device))

    def _like(self, like: Reference | None, speaker: str | None) -> ReferenceVoice | None:
        """Raises UserInputError where a speaker is given, too."""
        if like is None:
            return None
        if speaker is not None:
            raise UserInputError(f"speaker {speaker!r}: given with like, expected one of them")
        return self.voice_like(like)

    @own_defaults()
    def stream(
        self,
        speaker: str | None = None,
        *,
        like: Reference | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        sampling: Sampling = DEFAULT,
        pitch: PitchFormat | None = None,
        shift_semitones: float = 0.0,
    ) -> Stream:
        """To decode codes as they come: what is pushed comes out as `decode` gives it.

        pitch: the format of a file's pitch codes, where no speaker is given.
        """
        voice = self._like(like, speaker)
        conditions = self.given.voice(speaker, labels or {}, embeddings, voice)
        conditions |= self.given.range_of(conditions, pitch, shift_semitones, voice)
        settings = self._sampling(sampling, seed, temperature)
        return Stream(self._vqvae, conditions, settings, self.sample_rate)

    def resume_stream(self, state: StreamState | str | Path, seed: int | None = None) -> Stream:
        """Go on with a stream that was saved; with another `seed`, otherwise.

        Raises UserInputError for one of another model.
        """
        if isinstance(state, StreamState):
            return Stream.resumed(self._vqvae, state, self.sample_rate, seed)
        with under(str(state)):
            loaded = StreamState.load(state)
            Stream.resumed(self._vqvae, loaded, self.sample_rate, seed).prove()
            return Stream.resumed(self._vqvae, loaded, self.sample_rate, seed)

    def decode(
        self,
        coded: CodeSequence,
        speaker: str | None = None,
        *,
        like: Reference | None = None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """Codes -> waveform (T,), in the voice of `speaker`, of the recording `like`, or of the
        speaker that the codes name, the melody moved by `shift_semitones`.
        """
        return self.decode_many(
            [coded],
            [speaker],
            likes=[like],
            labels=[labels or {}],
            embeddings=[embeddings or {}],
            shift_semitones=shift_semitones,
            seed=seed,
            temperature=temperature,
            sampling=sampling,
            progress=progress,
        )[0]

    @inference()
    def decode_many(
        self,
        coded: Sequence[CodeSequence],
        speakers: Sequence[str | None],
        *,
        likes: Sequence[Reference | None] | None = None,
        labels: Sequence[Labels] | None = None,
        embeddings: Sequence[Vectors] | None = None,
        shift_semitones: float = 0.0,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """As `decode` for several utterances at once, with labels and vectors of each; each comes
        out as it would alone.
        """
        none: list[Mapping[str, str]] = [{}] * len(coded)
        lists: dict[str, Sequence[object]] = {
            "speakers": speakers,
            "likes": likes or [None] * len(coded),
            "labels": labels or none,
            "embeddings": embeddings or none,
        }
        each = zip(coded, *inputs.one_each(len(coded), lists), strict=True)
        tasks = [
            task
            for codes, speaker, like, names, vectors in each
            if (
                task := self.task(codes, speaker, names, vectors, shift_semitones, like=like)
            ).samples
        ]
        settings = self._sampling(sampling, seed, temperature)
        waves = decode_together(self.decoder, tasks, [0] * len(tasks), settings, progress)
        done = (self._finished(*each, settings) for each in zip(waves, tasks, strict=True))
        return [next(done) if item.samples else ordinary(torch.zeros(0)) for item in coded]

    def convert(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        speaker: str | None = None,
        like: Reference | None = None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """A recording, as `encode` takes it -> the same words and melody in the voice and range of
        `speaker`, or of the recording `like`, which `voice_like` takes with its source.
        """
        if not (like is None or speaker or isinstance(like, ReferenceVoice)):
            like = self.voice_like(like, (wave, sample_rate or self.sample_rate))
        return self.decode(
            self.encode(wave, sample_rate),
            speaker,
            like=like,
            labels=labels,
            embeddings=embeddings,
            shift_semitones=shift_semitones,
            seed=seed,
            temperature=temperature,
            sampling=sampling,
            progress=progress,
        )

    @inference()
    def generate(
        self,
        seconds: float | None = None,
        *,
        speaker: str | None = None,
        like: Reference | None = None,
        labels: Labels | None = None,
        count: int = 1,
        prompt: Tensor | np.ndarray | None = None,
        prompt_rate: int | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> list[Tensor]:
        """`count` waveforms sampled from a WaveNet that is conditioned on labels alone, or from a
        prior over codes.

        A prior needs no `seconds` (see `CodePrior.draw`, which has more settings). `prompt`, a
        recording at `prompt_rate`, is continued: each waveform is the recording and then `seconds`
        more. `shift_semitones`: of a prior of codes with melody, by how much that is moved.
        """
        count = inputs.whole_number(count, "count", 1)
        shift, voice = self.given.shift(shift_semitones), self._like(like, speaker)
        if self.prior is not None:
            # a prior takes names alone
            named = speaker if voice is None else voice.nearest
            labels = self._with_voice(named, labels, None)[0]
            if prompt is not None:
                raise UserInputError(
                    "this model decodes codes that it samples; it cannot continue a recording"
                )
            drawn_seed = sampling.seed if seed is None else seed
            return self.decode_many(
                self.prior.draw(seconds, labels=labels, count=count, seed=drawn_seed),
                [None] * count,
                likes=[voice] * count,
                labels=[labels or {}] * count,
                embeddings=None if embeddings is None else [embeddings] * count,
                shift_semitones=shift,
                seed=seed,
                temperature=temperature,
                sampling=sampling,
                progress=progress,
            )
        self.kind.check_generates()
        labels, embeddings = self._with_voice(speaker, labels, embeddings, voice)
        samples = inputs.samples_of(seconds, self.sample_rate)
        condition = self.decoder.condition(None, self.given.attributes(labels, embeddings))
        past = None if prompt is None else self.prepare(prompt, prompt_rate).expand(count, -1)
        tasks = [DecodeRequest(condition, samples)] * count
        settings = self._sampling(sampling, seed, temperature)
        waves = decode_together(self.decoder, tasks, range(count), settings, progress, prompt=past)
        before = [] if past is None else [past[0].cpu()]
        return [ordinary(torch.cat([*before, wave])) for wave in waves]

    def _with_voice(
        self,
        speaker: str | None,
        labels: Labels | None,
        vectors: Vectors | None,
        like: Reference | None = None,
    ) -> tuple[Labels | None, Vectors | None]:
        """Labels and vectors with those of the voice among them.

        Raises UserInputError for a model with one voice.
        """
        if (voice := self._like(like, speaker)) is not None:
            return voice.conditions(
                inputs.by_name(labels, "labels"), inputs.by_name(vectors, "embeddings")
            )
        if speaker is None:
            return labels, vectors
        in_prior = self.prior is not None and "speaker" in self.prior.labels
        if not in_prior:
            self.given.check_speaker(speaker)
        return {**inputs.by_name(labels, "labels"), "speaker": speaker}, vectors

    @inference()
    def reconstruct(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        speaker: str | None = None,
        like: Reference | None = None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        features: Given | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """A vocoder's copy of a recording (T,), from its spectral frames (and given `features`, see
        `synthesize`) alone.
        """
        frontend = self.kind.frontend()
        x = self.prepare(wave, sample_rate)
        voice = self._with_voice(speaker, labels, embeddings, like)
        conditions = self.given.attributes(*voice)
        conditions |= self.given.frames(features, len(x))
        padded = torch.nn.functional.pad(x, (0, -len(x) % self.decoder.hop))
        frames = frontend(padded[None], conditions)
        task = DecodeRequest(self.decoder.condition(frames, conditions), len(x))
        settings = self._sampling(sampling, seed, temperature)
        return ordinary(decode_together(self.decoder, [task], [0], settings, progress)[0])

    @inference()
    def synthesize(
        self,
        features: Given,
        seconds: float | None = None,
        *,
        speaker: str | None = None,
        like: Reference | None = None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Tensor:
        """Speech (T,) from given frames: arrays (C, F) by name, `phones` as [[first sample, label],
        ...].

        `seconds` may be left out where arrays give the length. Raises UserInputError for a model
        that is conditioned on a recording.
        """
        features, frontend = inputs.by_name(features, "features"), self.kind.frontend()
        lengths = [
            n
            for track in frontend.tracks
            if (n := track.samples_of(features.get(track.name))) is not None
        ]
        if seconds is None and not lengths:
            raise UserInputError("seconds: not given, expected the length of the speech")
        samples = min(lengths) if seconds is None else inputs.samples_of(seconds, self.sample_rate)
        voice = self._with_voice(speaker, labels, embeddings, like)
        conditions = self.given.attributes(*voice)
        conditions |= self.given.frames(features, samples)
        condition = self.decoder.condition(frontend(None, conditions), conditions)
        settings = self._sampling(sampling, seed, temperature)
        tasks = [DecodeRequest(condition, samples)]
        return ordinary(decode_together(self.decoder, tasks, [0], settings, progress)[0])

    @inference()
    def log_likelihood(
        self,
        wave: Tensor | np.ndarray,
        sample_rate: int | None = None,
        *,
        speaker: str | None = None,
        like: Reference | None = None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        features: Given | None = None,
    ) -> likelihood.Score:
        """The log-likelihood of a recording, brought to the model's rate and level first.

        A vocoder is conditioned on the recording's own frames, a VQ-VAE on its codes (whose bits
        are not counted).
        """
        decoder = self.kind.scoring_decoder()
        check_finite(self.model, f"this {self.card.kind}")
        x, voice = self.prepare(wave, sample_rate)[None], self._like(like, speaker)
        named = self._with_voice(speaker, labels, embeddings, voice)
        condition = self.kind.recording_condition(self, x, *named, features, like=voice)
        return likelihood.score(decoder, condition, x)

    @inference()
    def task(
        self,
        coded: CodeSequence,
        speaker: str | None,
        labels: Labels | None = None,
        embeddings: Vectors | None = None,
        shift_semitones: float = 0.0,
        *,
        like: Reference | None = None,
    ) -> DecodeRequest:
        """What the decoder is conditioned on for these codes.

        Raises UserInputError. Made as in a stream; on a GPU, of all frames at once.
        """
        coded = CodeSequence.checked(coded)
        self.check(coded)
        labels = {"speaker": coded.speaker, **inputs.by_name(labels, "labels")}
        model, voice = self._vqvae, self._like(like, speaker)
        conditions = self.given.voice(speaker, labels, embeddings, voice)
        conditions |= self.given.range_of(conditions, coded.pitch, shift_semitones, voice)
        pitch = None if coded.pitch is None else coded.pitch.codes.to(self.device)
        codes = coded.codes.to(self.device)
        condition, spectrum = code_condition(model, codes, conditions, pitch)
        return DecodeRequest(condition, coded.samples, spectrum)

    def decode_each(
        self,
        tasks: Iterable[tuple[Hashable, DecodeRequest]],
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Hashable, Tensor]]:
        """Any number of utterances, by key, each as it would come out alone: see
        `decode.batching.decode_each`.
        """
        settings = self._sampling(sampling, None, None)
        keyed = (((key, task), task) for key, task in tasks)
        each = decode_each(self.decoder, keyed, settings, progress=progress)
        while True:
            with inference():
                done = next(each, None)
                if done is None:
                    return
                key, task = cast("tuple[Hashable, DecodeRequest]", done[0])
                wave = self._finished(done[1], task, settings)
            yield key, wave


def load(name: str | Path, device: str = "cpu") -> SpeechModel:
    """`vqwave.load`: a run folder, a model folder, the name of a shipped model, or
    `hf://USER/REPO[@REVISION]` of a hub.

    Raises UserInputError.
    """
    return SpeechModel.load(name, device)
