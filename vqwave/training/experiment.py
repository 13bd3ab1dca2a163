"""What an experiment is: its parts, its named losses, its evaluation, its samples.

The loop is in `trainer.py`.
"""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from vqwave.config.renamed import LOSSES
from vqwave.data import Batch, Corpus, Segments
from vqwave.data.frame_tracks import Track
from vqwave.data.speaker_vectors import SpeakerVectors, saved_in
from vqwave.distributed.collectives import sum_over_ranks
from vqwave.distributions import Head
from vqwave.errors import UserInputError, nearest
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics import likelihood
from vqwave.models import Model, ModelSpec
from vqwave.nn.module_lists import submodules
from vqwave.nn.quantize import Quantizer
from vqwave.training.card_writer import CardWriter
from vqwave.training.identity import Identity, of_corpus
from vqwave.training.recordings import Conditioned, Recordings
from vqwave.training.selection import Selection
from vqwave.training.settings import ExperimentSpec
from vqwave.training.sources import Sources
from vqwave.training.tracking import SampleSheet
from vqwave.training.validation_set import ValidationSet
from vqwave.training.voice_pairs import VoicePairs

BASELINE_SAMPLES = 2**20  # of training speech, that the baselines are fitted on
C = TypeVar("C", bound=ExperimentSpec)
M = TypeVar("M", bound=Model)


@dataclass(frozen=True)
class StepOutput:
    """Of one micro-batch: unweighted losses that the config weights, and numbers only to be
    logged.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """`headline`: a line with the main result; `sections` is `evaluation.json`
    (nested).
    """

    headline: str
    scalars: dict[str, float]
    sections: dict[str, Any] = field(default_factory=dict)


class Experiment(ABC, Generic[C, M]):
    """One experiment: settings of type C, a model of type M.

    The loop calls `build` once, `losses` for each micro-batch, `evaluate` and `samples` now and
    then.

    `self.model` and `self.network` are set by the loop: the model, and its trained part as prepared
    (perhaps DDP-wrapped), which is what `losses` calls. `self.step` is the optimizer step (from 0)
    that `losses` is a part of.
    """

    name: ClassVar[str]
    # what `losses` may give, and so what may have a weight
    loss_names: ClassVar[tuple[str, ...]] = ("nll",)
    config_class: ClassVar[type[ExperimentSpec]]
    model: M
    network: nn.Module
    step: int = 0
    # where validation chooses the weights that are kept; else they are the last
    selection: Selection | None = None

    def __init__(self, config: C) -> None:
        self.config = config
        self._check_losses()
        self.corpus = Corpus.open(config.data.corpus).only(config.data.speakers)
        self.device = torch.device("cpu")
        self.sources = Sources(self.corpus)
        self.voices = VoicePairs(self.corpus)
        self._baselines: dict[str, float] | None = None

    def _check_losses(self) -> None:
        """Raises UserInputError for a weight whose loss the experiment does not have."""
        known = (*self.loss_names, *self.more_losses)
        for name in self.config.losses:
            if LOSSES.get(name) in known:
                raise UserInputError(f"losses.{name}: is called losses.{LOSSES[name]} now")
            if name not in known:
                hint = nearest(name, known)
                raise UserInputError(
                    f"losses.{name}: no such loss, expected of {', '.join(known)}{hint}"
                )
        if self.config.losses and not any(self.config.losses.values()):
            raise UserInputError(f"losses: all weights are 0, expected one of {', '.join(known)}")

    @property
    @abstractmethod
    def model_spec(self) -> ModelSpec:
        """The spec that rebuilds the network."""

    @property
    @abstractmethod
    def hop(self) -> int:
        """Clips are cut to a multiple of this."""

    @property
    def tracks(self) -> Sequence[Track]:
        """Frame features of the corpus that the network is given with the waveform."""
        return ()

    @property
    def more_losses(self) -> Sequence[str]:
        """Losses of parts that the settings chose, which may have a weight, too."""
        return ()

    @abstractmethod
    def build(self) -> M:
        """The network to train, on the CPU; called with the seed set."""

    @abstractmethod
    def losses(self, batch: Batch) -> StepOutput: ...

    @abstractmethod
    def evaluate(self, model: M) -> Evaluation:
        """On held-out recordings, with the averaged weights.

        Called on every rank; `valid_batches` splits the work.
        """

    def samples(self, model: M, sheet: SampleSheet) -> None:
        """Recordings for a listener, made with the averaged weights.

        Called on every rank; `validation.example_rows` splits the work.
        """

    def ready(self) -> bool:
        """Whether validation is meaningful yet: it is not before codes are placed among the
        latents.
        """
        return all(part.initialized for part in submodules(self.model, Quantizer))

    def trainable(self, model: M) -> nn.Module:
        """The part of the model that is trained: it alone is prepared, and put into training
        mode.
        """
        return model

    def parameter_groups(self, model: M) -> list[list[nn.Parameter]]:
        """The trained parameters, in groups with learning rates of their own: see `lr_factors`."""
        return [[p for p in model.parameters() if p.requires_grad]]

    def lr_factors(self, progress: float) -> Sequence[float]:
        """What the learning rate of each group is multiplied by; progress: share of the steps."""
        del progress
        return (1.0,)

    @property
    def over(self) -> bool:
        """Whether validation ends the run before its last step."""
        return self.selection is not None and self.selection.over

    def introduction(self) -> list[str]:
        """Lines about what the run begins with, printed before its first step."""
        return []

    def fit_statistics(self, model: M) -> None:
        """Statistics of the corpus that the model needs, at each start."""

    def before_first_step(self, model: M, *, quiet: bool) -> None:
        """What a run begins with, and a resumed one takes from its checkpoint; quiet: without a
        bar.
        """

    def extra_state(self) -> dict[str, Tensor]:
        """What the experiment trains or keeps in addition to the model, for its checkpoints: flat
        tensors.
        """
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `extra_state`."""

    def next_steps(self) -> list[str]:
        """Commands that make sense once the run is done."""
        return [shlex.join(["vqwave", "report", str(self.config.run)])]

    def reservations(self) -> list[str]:
        """What is to be known of a run that has ended."""
        if self.ready():
            return []
        text = "note: its codes were never placed (model.quantizer.kmeans_after_steps)"
        return [f"{text}: more steps are needed"]

    def next_command(self, experiment: str, key: str, config: str = "") -> str:
        """The command that trains on this run, `key`, with its corpus, in a run folder next to
        it.

        config: a configuration by name, whose sizes suit this run.
        """
        data, run = self.config.data, self.config.run
        speakers = f"data.speakers={json.dumps(data.speakers, ensure_ascii=False)}"
        words = [
            *("vqwave", "train", experiment),
            *(["--config", config] if config else []),
            *(f"{key}={run}", f"data.corpus={data.corpus}", f"run={run}-next"),
            *([speakers] if data.speakers else []),
        ]
        return shlex.join(words)

    @property
    def example_speaker(self) -> str:
        """A speaker of whom there are training recordings, as a shell takes it."""
        return shlex.quote(self.voices.example_speaker)

    @property
    def trains_decoder(self) -> bool:
        """Whether what makes waveforms is trained, too; else codes alone."""
        return True

    def identity(self) -> Identity:
        """What lies behind the paths of the settings, once the model is built.

        Raises UserInputError.
        """
        corpus = {"data.corpus": of_corpus(self.corpus, self.tracks)}
        return corpus | self.sources.identities()

    def samples_of(self, seconds: float) -> int:
        """Seconds -> samples, at least one frame, full frames."""
        return max(1, round(seconds * self.corpus.sample_rate / self.hop)) * self.hop

    def training_segments(self) -> Segments:
        """The clips that batches are made of."""
        frames = self.samples_of(self.config.data.clip_seconds)
        return Segments(self.corpus, "train", frames, self.config.seed, self.tracks)

    @cached_property
    def validation(self) -> ValidationSet:
        """The validation clips."""
        data = self.config.data
        clip = self.samples_of(data.valid_clip_seconds)
        return ValidationSet(self.corpus, data, clip, self.tracks)

    def valid_batches(self) -> Iterator[Batch]:
        """This rank's share of the validation clips, on the device; see `ValidationSet.batches`."""
        return self.validation.batches(self.device)

    def comparable(self, network: Conditioned) -> tuple[bool, bool]:
        """Whether a validation clip has another in its batch; whether mismatched labels differ."""
        pairs = self.validation.has_pairs
        return pairs, self.voices.comparable(network.conditioner, pairs=pairs)

    def total(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over all ranks, as numbers."""
        return {name: float(sum_over_ranks(value.to(self.device))) for name, value in sums.items()}

    def baselines(self, head: Head) -> dict[str, float]:
        """Bits a validation sample costs without a network; computed once a run."""
        if self._baselines is None:
            frames = self.validation.clip_samples
            test = [self.corpus.read(row, start, frames) for row, start in self.validation.crops]
            waves = self.recordings.waves()
            train = [wave[: BASELINE_SAMPLES // len(waves)].numpy() for wave in waves]
            self._baselines = likelihood.baselines(head, train, test)
        return self._baselines

    @property
    def recordings(self) -> Recordings:
        """The corpus' recordings, with the tracks' frames."""
        return Recordings(self.corpus, self.tracks)

    @cached_property
    def speaker_vectors(self) -> SpeakerVectors | None:
        """The vectors of the voices that are trained, where the corpus has any."""
        vectors, untrained = saved_in(self.corpus.folder), self.voices.untrained
        if vectors is None:
            return None
        trained = set(self.corpus.speakers) - set(untrained.get("speaker", ()))
        return vectors.only(sorted(trained))

    def card_entries(self) -> dict[str, Any]:
        """Further entries of the model's card."""
        return {}

    def card(self, model: M, step: int, seconds: float) -> ModelCard:
        """What is written next to the weights."""
        return self._cards.card(
            model,
            self.model_spec,
            step=step,
            seconds=seconds,
            decodes=self.trains_decoder,
            extra=self.card_entries(),
        )

    @property
    def _cards(self) -> CardWriter:
        return CardWriter(self.name, self.corpus, self.voices, self.config.seed)

    def speech_model(self, model: M) -> SpeechModel:
        """The model as people use it."""
        return SpeechModel(model, self.card(model, 0, 0.0), voices=self.speaker_vectors)

    def describe(self) -> str:
        """What a dry run prints beneath the settings."""
        return self._cards.summary(self.build(), self.samples_of(self.config.data.clip_seconds))
