"""Add a voice to a trained VQ-VAE from minutes of it; codes and the other voices stay.

python experiments/adapt.py base=speech data.corpus=data/mine speaker=anna run=runs/anna
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data import Batch, Corpus, Segments, evaluation_batches
from vqwave.data.frame_tracks import Track, stored_pitch
from vqwave.data.joined import JoinedCorpus
from vqwave.data.mixed_segments import MixedSegments
from vqwave.data.sampler import counter_key
from vqwave.data.speaker_vectors import SpeakerVectors
from vqwave.data.voices import UNVOICED, voice_pitches
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard, parameter_counts
from vqwave.models import VQVAE, VQVAESpec
from vqwave.training.adaptation import Adaptation, held_out_sums, objective_of
from vqwave.training.added_voice import AddedVoice
from vqwave.training.coded_clips import CodedClips
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.identity import Identity, of_corpus, of_model
from vqwave.training.replay import Replay, join
from vqwave.training.selection import Selection
from vqwave.training.settings import Count, DataSpec, ExperimentSpec, OptimSpec, TrainSpec, Weights
from vqwave.training.spectral_adaptation import SpectralAdaptation
from vqwave.training.tracking import SampleSheet
from vqwave.training.validation_set import ValidationSet
from vqwave.training.voice_pairs import VoicePairs
from vqwave.training.voice_samples import add_in_voice

Share = Annotated[float, Field(ge=0, le=1)]
# clips that the mixture is fitted to, and at most, of the new voice and of others, the rest
FIT_CLIPS, OWN_CLIPS, KNOWN_CLIPS = 8, 256, 512


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/adapt.py`."""

    base: Path = option(
        default=Path("speech"), help="run, model folder or shipped model that gets one more voice"
    )
    speaker: str = option(default="", help="the new voice, a speaker of data.corpus")
    replay: tuple[Path, ...] = option(
        default=(),
        help="corpora of the voices that the model has, so that they stay; none: those of its run",
    )
    replay_share: Share = option(default=0.5, help="of each batch; 0: none is replayed")
    voice_share: Share = option(
        default=0.1, help="of the steps, in which embeddings and condition projections alone train"
    )
    body_lr_ratio: Share = option(
        default=0.5, help="learning rate of all other weights afterwards, as a share of optim.lr"
    )
    patience: Annotated[int, Field(ge=1)] = option(
        default=8, help="validations without a better one after which the run ends"
    )
    decoder_segment_seconds: Annotated[float, Field(gt=0)] = option(
        default=0.2, help="of each clip, anywhere, that the decoder is trained on"
    )
    losses: Weights = option(
        default={"nll": 1.0, "energy_distance": 1.0},
        help="weights: nll (of a WaveNet), energy_distance (of a student)",
    )
    data: DataSpec = option(
        default=DataSpec(clip_seconds=1.0, batch=4, valid_clip_seconds=2.0, valid_clips=16),
        help="recordings",
    )
    optim: OptimSpec = option(
        default=OptimSpec(lr=2e-3, warmup=50, ema_decay=0.99), help="optimizer"
    )
    train: TrainSpec = option(
        default=TrainSpec(minutes=10.0, log_every=20, valid_every=100, save_every=100),
        help="the loop",
    )
    num_samples: Count = option(default=2, help="utterances in samples/")


class AdaptExperiment(Experiment[Config, VQVAE]):
    """Add a voice to a trained VQ-VAE from minutes of it; codes and the other voices stay."""

    name = "adapt"
    corpus: JoinedCorpus
    config_class = Config
    loss_names = ("nll", "energy_distance")
    network: nn.Module

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.data.speakers:
            raise UserInputError("data.speakers: expected none, `speaker` names the new voice")
        self.loaded = self.sources.load("base", config.base)
        self.sources.check_compatible("base", self.loaded)
        self.added = AddedVoice.to(self.loaded, config.speaker)
        self.own = self.corpus
        self.replay = Replay.of(config.replay, config.base, self.added.known, config.replay_share)
        used = self.added.spec.decoder.conditioner.categorical
        labels, card = {name: self.added.labels[name] for name in used}, self.loaded.card
        self.corpus = join(self.own, config.speaker, self.replay, labels, card)
        self.voices = VoicePairs(self.corpus)
        self.objective = objective_of(self.added.spec.decoder.kind, card.about)
        self.selection = self.kept = Selection("loss", config.patience)
        self.mixture: Tensor | None = None

    @property
    def model_spec(self) -> VQVAESpec:
        return self.added.spec

    @property
    def hop(self) -> int:
        return self.loaded.model.hop

    @property
    def tracks(self) -> Sequence[Track]:
        return () if self.model_spec.melody is None else (stored_pitch(self.corpus),)

    def identity(self) -> Identity:
        corpora = {"data.corpus": self.own, **self.replay.named}
        sources = {name: of_corpus(corpus, self.tracks) for name, corpus in corpora.items()}
        return sources | {"base": of_model(self.config.base)}

    def build(self) -> VQVAE:
        model = self.added.build(self.loaded).requires_grad_(requires_grad=False)
        model.decoder.requires_grad_(requires_grad=True)
        return model

    def trainable(self, model: VQVAE) -> Adaptation:
        segment = self.samples_of(self.config.decoder_segment_seconds)
        return Adaptation(model, self.objective, segment)

    def parameter_groups(self, model: VQVAE) -> list[list[nn.Parameter]]:
        trained = self.trainable(model)
        groups = (trained.voice_parameters(), trained.other_parameters())
        return [[p for p in group if p.requires_grad] for group in groups]

    def lr_factors(self, progress: float) -> Sequence[float]:
        all_weights = progress >= self.config.voice_share
        return (1.0, self.config.body_lr_ratio if all_weights else 0.0)

    def fit_statistics(self, model: VQVAE) -> None:
        """Pitch of the new voice."""
        if model.melody is not None:
            pitch = voice_pitches(self._only).get(self.config.speaker, UNVOICED)
            model.melody.voices[self.added.row] = torch.tensor([pitch.mean, pitch.deviation])

    def before_first_step(self, model: VQVAE, *, quiet: bool) -> None:
        """The mixture of known voices that the new rows start from; the spectral decoder."""
        some = next(self._batches(self._only, FIT_CLIPS))
        self.mixture = self.added.fit_mixture(model, self.trainable(model).start_loss(some))
        self.added.start(model, self.mixture)
        if model.spectral_decoder is None:
            return
        clips = CodedClips.of(model, self._batches(self._only, OWN_CLIPS))
        if not self.replay.corpora:  # nothing to convert
            self.added.fit_spectral_embedding(model, clips)
            return
        known = self.corpus.only(self.replay.speakers("train"))
        others = CodedClips.of(model, self._batches(known, KNOWN_CLIPS))
        row, seed = self.added.row, counter_key("spectral decoder", self.config.seed)
        SpectralAdaptation(model, row, clips, others, seed).fit(quiet=quiet)

    @cached_property
    def speaker_vectors(self) -> SpeakerVectors | None:
        """Those of the base, and of the new voice."""
        return self.added.vectors(self.loaded, self.own)

    @cached_property
    def _only(self) -> Corpus:
        """The new voice alone."""
        return self.corpus.only([self.config.speaker])

    def _batches(self, corpus: Corpus, count: int) -> Iterator[Batch]:
        """So many training clips at most, evenly spread."""
        T = self.samples_of(self.config.data.clip_seconds)
        return evaluation_batches(corpus, "train", FIT_CLIPS, T, count, tracks=self.tracks)

    def training_segments(self) -> Segments:
        data = self.config.data
        return MixedSegments(
            self.corpus,
            "train",
            self.samples_of(data.clip_seconds),
            self.config.seed,
            self.tracks,
            speakers={self.config.speaker},
            share=self.config.replay_share if self.replay.corpora else 0.0,
        )

    def losses(self, batch: Batch) -> StepOutput:
        losses = self.network(batch)
        return StepOutput(losses, self.objective.metrics(self.model.decoder, losses))

    @cached_property
    def validation(self) -> ValidationSet:
        """Clips of the new voice."""
        return self._clips_of(self._only)

    @cached_property
    def _old_validation(self) -> ValidationSet | None:
        """Clips of the voices that are replayed."""
        voices = self.replay.speakers("valid")
        return self._clips_of(self.corpus.only(voices)) if voices else None

    def _clips_of(self, corpus: Corpus) -> ValidationSet:
        frames = self.samples_of(self.config.data.valid_clip_seconds)
        return ValidationSet(corpus, self.config.data, frames, self.tracks)

    def evaluate(self, model: VQVAE) -> Evaluation:
        """Losses of held-out clips of the new voice, `loss` their weighted sum; and of the others,
        `known_loss`.
        """
        scalars = self._held_out(model, self.validation)
        if self._old_validation is not None:
            known = self._held_out(model, self._old_validation)
            scalars |= {f"known_{name}": value for name, value in known.items()}
        headline = f"loss {scalars['loss']:.4g} on held-out speech of {self.config.speaker}"
        return Evaluation(headline, scalars, {"adaptation": scalars})

    def _held_out(self, model: VQVAE, clips: ValidationSet) -> dict[str, float]:
        trained, weights = self.trainable(model), self.config.losses
        sums = held_out_sums(trained, clips.batches(self.device), weights, self.config.seed)
        total = self.total(sums)
        return {name: x / total["clips"] for name, x in total.items() if name != "clips"}

    def samples(self, model: VQVAE, sheet: SampleSheet) -> None:
        """Copies of held-out recordings of the new voice, and conversions to it."""
        count = self.config.num_samples
        rows = [*self.validation.example_rows(count)]
        if self._old_validation is not None:
            rows += self._old_validation.example_rows(count)
        speech, voice = self.speech_model(model), self.config.speaker

        def vectors(row: int) -> Mapping[str, Any]:
            return self.recordings.vectors(model.decoder, row)

        add_in_voice(speech, self.corpus, rows, voice, vectors=vectors, sheet=sheet)

    def introduction(self) -> list[str]:
        base, name = str(self.config.base), self.config.speaker
        train, held_out = (self.corpus.seconds_of(name, split) for split in ("train", "valid"))
        lines = [
            f"{name}: {train / 60:.1f} min to train on, {held_out:.0f} s held out; {base} has"
            f" {len(self.added.known)} voices, {self.corpus.sample_rate:,} Hz",
            *self.replay.lines(base),
        ]
        if self.mixture is not None:
            nearest = self.added.nearest(self.mixture)
            lines.append(f"{name} starts as a mixture of known voices, by its spectra: {nearest}")
        return lines

    def card(self, model: VQVAE, step: int, seconds: float) -> ModelCard:
        """The base's, with the new voice."""
        adapted = {
            "base": str(self.config.base),
            "speaker": self.config.speaker,
            "minutes": round(self.corpus.seconds_of(self.config.speaker, "train") / 60, 2),
            "step": max(0, self.kept.step),
            "replayed": self.replay.speakers("train"),
        }
        entries = {
            "experiment": self.name,
            "parameters": parameter_counts(model),
            "steps": step,
            "seconds": round(seconds, 1),
            "seed": self.config.seed,
            "adapted": adapted,
        }
        return self.added.card(self.loaded.card, entries)

    def extra_state(self) -> dict[str, Tensor]:
        return self.kept.state()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.kept.load_state(state)

    def next_steps(self) -> list[str]:
        run, voice = self.config.run, shlex.quote(self.config.speaker)
        corpus = shlex.quote(str(self.config.data.corpus))
        return [
            f"vqwave convert {run} in.wav --speaker {voice} --out out.wav",
            f"vqwave evaluate {run} --data {corpus} --metrics similarity --out {run}/metrics.json",
            *super().next_steps(),
        ]


if __name__ == "__main__":
    main(AdaptExperiment)
