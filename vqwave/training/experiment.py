"""What an experiment is: its parts, its named losses, its evaluation, its samples.

The loop is in `trainer.py`.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqwave.config.renamed import LOSSES
from vqwave.data import Batch, Corpus, collate, evaluation_crops
from vqwave.data.frame_tracks import Track
from vqwave.data.segments import read_crop
from vqwave.distributed.collectives import rank, sum_over_ranks, world_size
from vqwave.distributions import Head
from vqwave.errors import UserInputError, nearest
from vqwave.inference.model_folder import Loaded, ModelCard, load_trained, parameter_counts
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics import likelihood
from vqwave.models import VQVAE, Model, Prior, Student, WaveNet
from vqwave.models.prior import CodeNetwork
from vqwave.nn.quantize import Quantizer
from vqwave.rng import keyed
from vqwave.training.identity import Identity, of_corpus, of_model
from vqwave.training.settings import ExperimentSpec
from vqwave.training.tracking import SampleSheet

BASELINE_SAMPLES = 2**20  # of training speech, that the baselines are fitted on
C = TypeVar("C", bound=ExperimentSpec)


@dataclass(frozen=True)
class StepOutput:
    """Of one micro-batch: unweighted losses that the config weights, and numbers only to be
    logged.
    """

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """`headline` names the scalar that says how good the model is; `sections` is `evaluation.json`
    (nested).
    """

    headline: str
    scalars: dict[str, float]
    sections: dict[str, Any] = field(default_factory=dict)


class Experiment(ABC, Generic[C]):
    """One experiment.

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
    model: Model
    network: nn.Module
    step: int = 0

    def __init__(self, config: C) -> None:
        self.config = config
        self._check_losses()
        self.corpus = Corpus.open(config.data.corpus).only(config.data.speakers)
        self.device = torch.device("cpu")
        self.sources: dict[str, Path] = {}

    @property
    def more_losses(self) -> Sequence[str]:
        """Losses of parts that the settings chose, which may have a weight, too."""
        return ()

    @abstractmethod
    def build(self) -> Model:
        """The network to train, on the CPU; called with the seed set."""

    @abstractmethod
    def losses(self, batch: Batch) -> StepOutput: ...

    @abstractmethod
    def evaluate(self, model: Model) -> Evaluation:
        """On held-out recordings, with the averaged weights.

        Called on every rank; `valid_batches` splits the work.
        """

    def samples(self, model: Model, sheet: SampleSheet) -> None:
        """Recordings worth hearing, made with the averaged weights.

        Called on every rank; `shown_rows` splits the work.
        """

    def ready(self) -> bool:
        """Whether validation says anything yet: codes that have not been placed among the latents
        would be noise.
        """
        parts = self.model.modules()
        return all(part.initialized for part in parts if isinstance(part, Quantizer))

    def trainable(self, model: Model) -> nn.Module:
        """The part of the model that is trained: it alone is prepared, and put into training
        mode.
        """
        return model

    def fit_statistics(self, model: Model) -> None:
        """Statistics of the corpus that the model needs before its first step."""

    def load_source(self, setting: str, path: Path) -> Loaded:
        """A trained model that a setting names; it becomes part of the run's identity.

        Raises UserInputError.
        """
        self.sources[setting] = path
        return load_trained(path)

    def identity(self) -> Identity:
        """What lies behind the paths of the settings, once the model is built.

        Raises UserInputError.
        """
        models = {setting: of_model(path) for setting, path in self.sources.items()}
        return {"data.corpus": of_corpus(self.corpus, self.tracks), **models}

    def extra_state(self) -> dict[str, Tensor]:
        """What the experiment trains or keeps beside the model, for its checkpoints: flat
        tensors.
        """
        return {}

    def load_extra_state(self, beside: Mapping[str, Tensor]) -> None:
        """The inverse of `beside`."""

    def next_steps(self) -> list[str]:
        """Commands that make sense once the run is done."""
        return [f"vqwave report {self.config.run}"]

    @property
    def trains_decoder(self) -> bool:
        """Whether what makes waveforms is trained, too; else codes alone."""
        return True

    @property
    def example_speaker(self) -> str:
        """A speaker of whom there are training recordings, as a shell takes it."""
        return shlex.quote(self.corpus.speakers[next(iter(self._trained.get("speaker", ())), 0)])

    def next_command(self, experiment: str, key: str) -> str:
        """The command that trains on this run, `key`, with its corpus, in a run folder beside
        it.
        """
        run = self.config.run
        return (
            f"accelerate launch experiments/{experiment}.py {key}={run}"
            f" data.corpus={self.config.data.corpus} run={run}-next"
        )

    @property
    @abstractmethod
    def hop(self) -> int:
        """Clips are cut to a multiple of this."""

    def check_compatible(self, key: str, loaded: Loaded, labels: Sequence[str] = ()) -> None:
        """Raises UserInputError for a model, the setting `key`, of another rate or other names of
        `labels` than the corpus.
        """
        card, corpus, name = loaded.card, self.config.data.corpus, loaded.folder
        if card.sample_rate != self.corpus.sample_rate:
            raise UserInputError(
                f"{key}: {name} is for {card.sample_rate} Hz, {corpus} is at"
                f" {self.corpus.sample_rate} Hz"
            )
        for label in labels:
            if self.corpus.labels.get(label) != card.labels[label]:
                raise UserInputError(
                    f"{key}: {name} knows other {label} names than {corpus}, expected its own"
                    " corpus"
                )

    @property
    def tracks(self) -> Sequence[Track]:
        """Frame features that the corpus gives beside the waveform, and the network hears."""
        return ()

    def samples_of(self, seconds: float) -> int:
        """Seconds -> samples, at least one frame, whole frames."""
        return max(1, round(seconds * self.corpus.sample_rate / self.hop)) * self.hop

    def valid_crops(self) -> list[tuple[int, int]]:
        """(row, start) of the validation clips, the same every time, mixed so that a clip's
        neighbour is any other clip.
        """
        data = self.config.data
        crops = evaluation_crops(
            self.corpus, "valid", self.samples_of(data.valid_clip_seconds), data.valid_clips
        )
        return [
            crops[i]
            for i in torch.randperm(len(crops), generator=torch.Generator().manual_seed(0)).tolist()
        ]

    def valid_batches(self, most: int = 16) -> Iterator[Batch]:
        """This rank's share of the validation clips, as many on each rank, in batches of about
        equal size, at most `most`.

        Raises UserInputError where there are fewer clips than ranks.
        """
        crops, frames, world = (
            self.valid_crops(),
            self.samples_of(self.config.data.valid_clip_seconds),
            world_size(),
        )
        if len(crops) < world:
            raise UserInputError(
                f"data.valid_clips: {len(crops)} clips of {self.config.data.corpus}, expected one a"
                f" process: {world}"
            )
        mine = crops[rank() :: world][: len(crops) // world]
        for part in np.array_split(np.arange(len(mine)), -(-len(mine) // most)):
            clips = [
                read_crop(self.corpus, row, start, frames, self.tracks)
                for row, start in (mine[i] for i in part)
            ]
            yield collate(clips).to(self.device)

    @cached_property
    def _trained(self) -> dict[str, list[int]]:
        """The ids of each label of which there are training recordings, sorted."""
        rows = [self.corpus.label_ids(row) for row in self.corpus.of("train")]
        return {name: sorted({ids[name] for ids in rows}) for name in self.corpus.labels}

    def mismatched_labels(self, batch: Batch) -> dict[str, Tensor]:
        """Labels of somebody else of whom there are training recordings: unchanged where there is
        nobody else.

        Among n of them each moves on by 1 .. n - 1 places, by the clip's row. A given vector is
        that of the clip before it in the batch.
        """
        others = {name: batch.labels[name].roll(1, 0) for name in self.corpus.vectors}
        for name, ids in self._trained.items():
            own, known = batch.labels[name], torch.tensor(ids, device=batch.index.device)
            place, n = torch.searchsorted(known, own).clamp(max=len(ids) - 1), len(ids)
            moved = place + torch.where(
                known[place] == own, 1 + batch.index % max(1, n - 1), batch.index % n
            )
            others[name] = known[moved % n]
        return batch.labels | others

    def comparable(self, decoder: WaveNet | Student | CodeNetwork) -> tuple[bool, bool]:
        """Whether a validation clip has another in its batch; whether `other_labels` are others."""
        pairs, conditioner = len(self.valid_crops()) // world_size() > 1, decoder.conditioner
        named = any(len(self._trained.get(name, ())) > 1 for name in conditioner.labels)
        return pairs, named or (pairs and bool(conditioner.vector_sizes))

    def sample_target_voice(self, batch: Batch, *, drawn: bool = True) -> dict[str, Tensor]:
        """Labels and vectors of each clip in another voice: those of a training recording of
        another speaker, but `text`.

        Speaker and recording are drawn, evenly; if not `drawn`, by the clip's row. A corpus' only
        speaker stays.
        """
        cpu, rows = torch.device("cpu"), []
        places = (
            batch.index.to(cpu, torch.float64)[:, None] * torch.tensor([0.618034, 0.414214]) % 1
        )
        picks = keyed.uniforms(len(batch), 2, like=cpu) if drawn else places
        for own, (who, which) in zip(batch.labels["speaker"].tolist(), picks.tolist(), strict=True):
            others = [speaker for speaker in self._rows_of if speaker != own] or [own]
            found = self._rows_of[others[int(who * len(others))]]
            rows.append(found[int(which * len(found))])
        conditions = [self.corpus.conditions(row) for row in rows]
        voices = {
            name: np.stack([each[name] for each in conditions])
            for name in conditions[0]
            if name != "text"
        }
        return batch.labels | {
            name: torch.from_numpy(values).to(self.device) for name, values in voices.items()
        }

    @cached_property
    def _rows_of(self) -> dict[int, list[int]]:
        """Training rows by the speaker's id."""
        found: dict[int, list[int]] = {}
        for row in self.corpus.of("train"):
            found.setdefault(
                self.corpus.label_id("speaker", self.corpus.utterances[row].speaker), []
            ).append(row)
        return found

    def vectors(self, decoder: WaveNet | Student, row: int) -> dict[str, Any]:
        """The given vectors of an utterance that a decoder hears."""
        return {name: self.corpus.vectors[name][row] for name in decoder.conditioner.vector_sizes}

    def shown_rows(self, count: int) -> list[int]:
        """This rank's share, maybe none, of the rows of validation utterances to listen to."""
        return [row for row, _ in self.shown_pairs(count)]

    def shown_pairs(self, count: int) -> list[tuple[int, int]]:
        """The same, each with a row of somebody else (where there is one)."""
        rows = self._shown(count)
        pairs = list(zip(rows, rows[1:] + rows[:1], strict=True))
        bounds = [len(pairs) * number // world_size() for number in (rank(), rank() + 1)]
        return pairs[slice(*bounds)]

    def _shown(self, count: int) -> list[int]:
        """One a speaker in turn, of middling length."""
        by_speaker: dict[str, list[int]] = {}
        for row in self.corpus.of("valid"):
            by_speaker.setdefault(self.corpus.utterances[row].speaker, []).append(row)
        for rows in by_speaker.values():
            rows.sort(key=lambda row: self.corpus.utterances[row].frames)
        middles = [rows[len(rows) // 2] for _, rows in sorted(by_speaker.items())]
        return middles[:: max(1, len(middles) // max(1, count))][:count]

    def training_waves(self, count: int = 200) -> list[Tensor]:
        """Whole training recordings (T,), spread over the split, for statistics."""
        return [torch.from_numpy(self.corpus.read(row)) for row in self._training_rows(count)]

    def training_frames(self, count: int = 200) -> list[dict[str, Tensor]]:
        """The tracks' frames (C, F) of the same recordings."""
        rows = self._training_rows(count)
        return [
            {track.name: torch.from_numpy(self._whole(track, row)) for track in self.tracks}
            for row in rows
        ]

    def _whole(self, track: Track, row: int) -> NDArray[np.float32]:
        return track.read(self.corpus, row, 0, -(-self.corpus.utterances[row].frames // track.hop))

    def frames_of(self, row: int) -> dict[str, Any]:
        """What the corpus gives of an utterance beside its waveform, as `SpeechModel` takes it."""
        return {track.name: track.stored(self.corpus, row) for track in self.tracks}

    def _training_rows(self, count: int) -> list[int]:
        rows = self.corpus.of("train")
        return rows[:: max(1, len(rows) // count)][:count]

    def baselines(self, head: Head) -> dict[str, float]:
        """Bits a validation sample costs without a network; computed once a run."""
        if not hasattr(self, "_baselines"):
            frames = self.samples_of(self.config.data.valid_clip_seconds)
            test = [self.corpus.read(row, start, frames) for row, start in self.valid_crops()]
            waves = self.training_waves()
            train = [wave[: BASELINE_SAMPLES // len(waves)].numpy() for wave in waves]
            self._baselines = likelihood.baselines(head, train, test)
        return self._baselines

    def card(self, model: Model, step: int, seconds: float) -> ModelCard:
        """What is written beside the weights."""
        about = {
            "experiment": self.name,
            "corpus": self.corpus.name,
            "parameters": parameter_counts(model),
            "receptive_field": model.receptive_field,
            "hop": model.hop,
            "bit_rate": bit_rate(model, self.corpus.sample_rate),
            "speaks": self.trains_decoder,
            "level_db": self.corpus.level_db,
            "steps": step,
            "seconds": round(seconds, 1),
            "seed": self.config.seed,
        }
        unheard = {
            n: [v for i, v in enumerate(values) if i not in self._trained[n]]
            for n, values in self.corpus.labels.items()
        }
        about |= (
            {"unheard": found}
            if (found := {name: values for name, values in unheard.items() if values})
            else {}
        )
        return ModelCard(
            sample_rate=self.corpus.sample_rate,
            labels=self.corpus.vocabulary,
            spec=self.model_spec,
            about=about,
        )

    @property
    @abstractmethod
    def model_spec(self) -> Any:  # noqa: ANN401 - any of ModelSpec
        """The spec that rebuilds the network."""

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

    def codec(self, model: Model) -> SpeechModel:
        return SpeechModel(model, self.card(model, 0, 0.0))

    def describe(self) -> str:
        """What a dry run prints beneath the settings."""
        model = self.build()
        rate = self.corpus.sample_rate
        clip = self.samples_of(self.config.data.clip_seconds)
        counts = ", ".join(f"{name} {count:,}" for name, count in parameter_counts(model).items())
        lines = [
            f"parameters: {counts}",
            (
                f"receptive field: {model.receptive_field:,} samples,"
                f" {1000 * model.receptive_field / rate:.1f} ms at {rate:,} Hz"
            ),
            f"clip: {clip:,} samples, {clip / rate:.3f} s",
        ]
        bits = bit_rate(model, rate)
        if bits is not None:
            lines.append(f"codes: {rate / model.hop:g} frames a second, {bits:g} bit/s")
        return "\n".join(lines)

    def total(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        """Sums over all ranks, as numbers."""
        return {name: float(sum_over_ranks(value.to(self.device))) for name, value in sums.items()}


def bit_rate(model: Model, sample_rate: int) -> float | None:
    """Nominal bits a second of the codes; None for a model without codes."""
    if isinstance(model, VQVAE | Prior):
        return model.bit_rate(sample_rate)
    quantizer = getattr(model, "quantizer", None)
    return None if quantizer is None else quantizer.bits_per_frame * sample_rate / model.hop
