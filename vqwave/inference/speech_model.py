"""A trained model as people use it: waveforms and speaker names in, codes and waveforms out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import CodeSequence, PitchFormat
from vqwave.decode.batching import DecodeRequest, decode_each, decode_together
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming.conditions import code_condition
from vqwave.decode.streaming.stream import Stream, StreamState
from vqwave.distributed.torch_defaults import inference, own_defaults
from vqwave.errors import UserInputError
from vqwave.inference.decoder_inputs import Given, Labels, Vectors
from vqwave.inference.speech_encoder import SpeechEncoder
from vqwave.metrics import likelihood
from vqwave.models import VQVAE, WaveNet
from vqwave.nn.finite import check_finite

Progress = Callable[[int], object]
DEFAULT = Sampling()


class SpeechModel(SpeechEncoder):
    """Encode, decode, convert, generate.

    Waveforms are float32 tensors (T,) in [-1, 1] at `sample_rate`.

    What may be given as a recording, a rate or codes is said in `inputs`; else it is a
    UserInputError.

    >>> model = SpeechModel.load("runs/vqvae-fsdd")                   # doctest: +SKIP
    >>> coded = model.encode(wave, 16000)                             # doctest: +SKIP
    >>> theo = model.decode(coded, speaker="theo")                    # doctest: +SKIP
    """

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
        """To decode codes as they come: what is pushed comes out as `decode` gives it.

        `seed` stands for that of `sampling`.

        pitch: what a file says of its pitch codes, where no speaker is given.
        """
        sampling = (sampling if seed is None else replace(sampling, seed=seed)).resolved(
            self.temperatures
        )
        told = self.given.voice(speaker, labels or {}, embeddings)
        told |= self.given.range_of(told, pitch, shift_semitones)
        return Stream(self._vqvae, told, sampling, self.sample_rate)

    def resume_stream(self, state: StreamState | str | Path, seed: int | None = None) -> Stream:
        """Go on with a stream that was saved; with another `seed`, otherwise.

        Raises UserInputError for one of another model.
        """
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
        """Codes -> waveform (T,), in the voice of `speaker` (or of the one noted beside them), the
        melody moved.
        """
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
        """As `decode` for several utterances at once, with labels and vectors of each; each comes
        out as it would alone.
        """
        nothing = [{}] * len(coded)
        beside = {
            "speakers": speakers,
            "labels": labels or nothing,
            "embeddings": embeddings or nothing,
        }
        each = zip(coded, *inputs.one_each(len(coded), beside), strict=True)
        tasks = [task for told in each if (task := self.task(*told, shift_semitones)).samples]
        waves = iter(
            decode_together(
                self.decoder,
                tasks,
                [0] * len(tasks),
                sampling.resolved(self.temperatures),
                progress,
            )
        )
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
        """A recording, as `encode` takes it -> the same words and melody in the voice and the range
        of `speaker`.
        """
        settings = {"shift_semitones": shift_semitones, "sampling": sampling, "progress": progress}
        return self.decode(
            self.encode(wave, sample_rate),
            speaker,
            labels=labels,
            embeddings=embeddings,
            **settings,
        )

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
        """Babble: `count` waveforms drawn from a WaveNet that hears no frames, only labels, or from
        a prior over codes.

        A prior needs no `seconds` (see `CodePrior.draw`, which has more settings). `prompt`, a
        recording at `prompt_rate`, is gone on from: each waveform is the recording and then
        `seconds` more. `shift_semitones`: of a prior of codes with melody, by how much that is
        moved.
        """
        decoder, count = self.decoder, inputs.whole_number(count, "count", 1)
        settings = {"shift_semitones": self.given.shift(shift_semitones), "sampling": sampling}
        if self.prior is not None:
            if prompt is not None:
                raise UserInputError(
                    "this model speaks from codes that it draws; it cannot go on from a recording"
                )
            drawn = self.prior.draw(seconds, labels=labels, count=count, seed=sampling.seed)
            each, given = (
                [labels or {}] * count,
                None if embeddings is None else [embeddings] * count,
            )
            settings |= {"labels": each, "embeddings": given, "progress": progress}
            return self.decode_many(drawn, [None] * count, **settings)
        if isinstance(self.model, VQVAE):
            raise UserInputError(
                "this model speaks from codes; to babble it needs a prior over them, or use a plain"
                " WaveNet"
            )
        if decoder.frontend is not None:
            raise UserInputError(
                "this model is a vocoder: it speaks from spectral frames, expected a WaveNet"
                " without features"
            )
        samples = inputs.samples_of(seconds, self.sample_rate)
        condition = decoder.condition(None, self.given.attributes(labels, embeddings))
        heard = None if prompt is None else self.prepare(prompt, prompt_rate).expand(count, -1)
        tasks = [DecodeRequest(condition, samples)] * count
        drawn = decode_together(
            decoder,
            tasks,
            range(count),
            sampling.resolved(self.temperatures),
            progress,
            prompt=heard,
        )
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
        """A vocoder's copy of a recording (T,), from its spectral frames (and given `frames`, see
        `speak`) alone.
        """
        decoder = self.decoder
        if decoder.frontend is None:
            raise UserInputError("this model has no spectral front end, expected a vocoder")
        x = self.prepare(wave, sample_rate)
        told = self.given.attributes(labels, embeddings) | self.given.frames(features, len(x))
        padded = torch.nn.functional.pad(x, (0, -len(x) % decoder.hop))
        task = DecodeRequest(decoder.condition(decoder.frontend(padded[None], told), told), len(x))
        return decode_together(
            self.decoder, [task], [0], sampling.resolved(self.temperatures), progress
        )[0]

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
        """Speech (T,) from given frames: arrays (C, F) by name, `phones` as [[first sample, label],
        ...].

        `seconds` may be left out where arrays say how long it is. Raises UserInputError for a model
        that hears a recording.
        """
        decoder, features = self.decoder, inputs.by_name(features, "features")
        if decoder.frontend is None:
            raise UserInputError(
                "this model hears no frames, expected a vocoder of given frames (features.kind"
                " files or phones)"
            )
        lengths = [
            n
            for track in decoder.frontend.tracks
            if (n := track.samples_of(features.get(track.name))) is not None
        ]
        if seconds is None and not lengths:
            raise UserInputError("seconds: not given, expected the length of the speech")
        samples = min(lengths) if seconds is None else inputs.samples_of(seconds, self.sample_rate)
        told = self.given.attributes(labels, embeddings) | self.given.frames(features, samples)
        task = DecodeRequest(decoder.condition(decoder.frontend(None, told), told), samples)
        return decode_together(
            self.decoder, [task], [0], sampling.resolved(self.temperatures), progress
        )[0]

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

        A vocoder hears the recording's own frames, a VQ-VAE its codes (which cost their own bits
        beside).
        """
        decoder = self.decoder
        if not isinstance(decoder, WaveNet):
            raise UserInputError(
                "this model's decoder is a student, which scores no recording; expected a WaveNet"
            )
        check_finite(self.model, f"this {self.card.kind}")
        x, told = self.prepare(wave, sample_rate)[None], self.given.attributes(labels, embeddings)
        told |= self.given.frames(features, x.shape[1]) if features else {}
        if isinstance(self.model, VQVAE):
            coded = self.encode_prepared(x[0], (labels or {}).get("speaker"))
            condition = self.task(coded, None, labels, embeddings).condition
        else:
            padded = torch.nn.functional.pad(x, (0, -x.shape[1] % self.model.hop))
            condition = decoder.condition(
                None if decoder.frontend is None else decoder.frontend(padded, told), told
            )
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
        """How the decoder decodes these codes.

        Raises UserInputError. As a stream has it; on a GPU, all frames at once.
        """
        coded = CodeSequence.checked(coded)
        self.check(coded)
        labels = {"speaker": coded.speaker, **inputs.by_name(labels, "labels")}
        model, told = self._vqvae, self.given.voice(speaker, labels, embeddings)
        told |= self.given.range_of(told, coded.pitch, shift_semitones)
        pitch = None if coded.pitch is None else coded.pitch.codes.to(self.device)
        if self.device.type != "cpu":
            codes = coded.codes[None].to(self.device)
            return DecodeRequest(
                model.condition(codes, told, pitch_codes=None if pitch is None else pitch[None]),
                coded.samples,
            )
        return DecodeRequest(code_condition(model, coded.codes, told, pitch), coded.samples)

    def decode_each(
        self,
        tasks: Iterable[tuple[Hashable, DecodeRequest]],
        sampling: Sampling = DEFAULT,
        progress: Progress | None = None,
    ) -> Iterator[tuple[Hashable, Tensor]]:
        """Any number of utterances, by key, each as it would come out alone: see
        `decode.tile.decode_each`.
        """
        each = decode_each(
            self.decoder, tasks, sampling.resolved(self.temperatures), progress=progress
        )
        while True:
            with inference():
                done = next(each, None)
            if done is None:
                return
            yield done


def load(name: str | Path, device: str = "cpu") -> SpeechModel:
    """`vqwave.load`: a run folder, a model folder, or the name of a shipped model.

    Raises UserInputError.
    """
    return SpeechModel.load(name, device)
