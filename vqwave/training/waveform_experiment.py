"""What experiments share whose model is of waveforms alone: no codes, and at most a front end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import torch

from vqwave.data.frame_tracks import Track, carried
from vqwave.models import Student, StudentSpec, WaveNet, WaveNetSpec
from vqwave.nn.frontend import AnyFrontend, build_frontend
from vqwave.training.experiment import Experiment
from vqwave.training.settings import ExperimentSpec
from vqwave.training.tracking import SampleSheet

C = TypeVar("C", bound=ExperimentSpec)
W = TypeVar("W", WaveNet, Student)


class WaveformExperiment(Experiment[C, W]):
    """An experiment with settings of type C on a model of waveforms, W."""

    @property
    @abstractmethod
    def model_spec(self) -> WaveNetSpec | StudentSpec: ...

    @property
    def hop(self) -> int:
        return 1 if self._frontend is None else self._frontend.hop

    @property
    def tracks(self) -> Sequence[Track]:
        return () if self._frontend is None else carried(self.corpus, self._frontend.tracks)

    @cached_property
    def _frontend(self) -> AnyFrontend | None:
        features = self.model_spec.features
        if features is None:
            return None
        return build_frontend(features, self.corpus.sample_rate, self.corpus.vocabulary)

    def fit_statistics(self, model: W) -> None:
        if model.frontend is not None:
            model.frontend.fit(self.recordings.waves(), self.recordings.frames())

    def add_samples(self, model: W, sheet: SampleSheet, count: int, seconds: float) -> None:
        """Of a vocoder `count` recordings and their reconstructions; of another model as many
        generated clips of so many seconds, in the voices of recordings.
        """
        speech, recordings = self.speech_model(model), self.recordings
        for row in self.validation.example_rows(count):
            utterance = self.corpus.utterances[row]
            labels, vectors = utterance.labels, recordings.vectors(model, row)
            about = {"speaker": utterance.speaker, "text": utterance.text or ""}
            if model.frontend is None:
                wave = speech.generate(seconds, labels=labels, embeddings=vectors, seed=row)[0]
                sheet.add(f"generated as {utterance.speaker}", "generation", wave, **about)
                continue
            original = torch.from_numpy(self.corpus.read(row))
            features = recordings.stored_frames(row)
            wave = speech.reconstruct(
                original, labels=labels, embeddings=vectors, features=features
            )
            sheet.add(utterance.id, "original", original, **about)
            sheet.add(utterance.id, "reconstruction", wave, **about)
