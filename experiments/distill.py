"""Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet student.

python experiments/distill.py --config configs/distill/fsdd.yaml teacher=runs/vqvae-fsdd
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.data.frame_tracks import Track
from vqwave.distributed.collectives import mean_over_ranks
from vqwave.distributions import Distribution
from vqwave.errors import UserInputError, under
from vqwave.inference.model_folder import Loaded
from vqwave.inference.model_kinds import kind_of
from vqwave.losses import (
    DistillationLosses,
    DistillationSpec,
    Distilled,
    Divergence,
    FixedQuantiles,
)
from vqwave.models import (
    VQVAE,
    Classifier,
    ClassifierSpec,
    Student,
    StudentSpec,
    VQVAESpec,
    WaveNet,
)
from vqwave.nn.flows import FlowOutput
from vqwave.rng import keyed
from vqwave.rng.philox import uniforms
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec
from vqwave.training.tracking import SampleSheet


@spec
class Config(ExperimentSpec, DistillationSpec):
    """Settings of `experiments/distill.py`."""

    teacher: Path = option(
        default=Path("runs/vqvae-demo"),
        help="run or model folder of a WaveNet or VQ-VAE with a continuous head",
    )
    model: StudentSpec = option(
        default=StudentSpec(), help="the flows; conditioner and features are the teacher's"
    )
    losses: dict[str, float] = option(
        default={"kl": 1.0, "power": 4.0},
        help="weights (0: off): kl, log_scale_regularizer, contrastive (-0.3), power, log_spectral,"
        " stft, perceptual, adversarial",
    )
    train_conditioner: bool = option(
        default=False, help="let the student change its copy of the teacher's conditioner"
    )
    recorded_pitch: bool = option(
        default=True,
        help="with a melody: trained on the recordings' own F0, not the one decoded from its codes",
    )
    recorded_spectrum: bool = option(
        default=False,
        help="with model.decoder_input: trained on the recordings' own frames, not predicted ones",
    )
    num_samples: Count = option(default=4, help="utterances in samples/")


class DistillExperiment(Experiment[Config, VQVAE | Student]):
    """Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet
    student.
    """

    name = "distill"
    config_class = Config
    loss_names = DistillationLosses.names

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loaded = self.sources.load("teacher", config.teacher)
        with under(f"teacher: {config.teacher}"):
            self.kind = kind_of(loaded.model.requires_grad_(requires_grad=False), loaded.card)
        self.teacher, self.teacher_decoder = self.kind.model, self._checked_decoder()
        self._check_settings(loaded)

    def _checked_decoder(self) -> WaveNet:
        """Raises UserInputError for a teacher without a trained WaveNet with a continuous head."""
        name, decoder, problem = self.config.teacher, self.kind.decoder.scorer, ""
        if self.kind.prior is not None:
            problem = "a prior"
        elif not self.kind.card.decodes:
            problem = "codes alone"
        if problem or decoder is None:
            raise UserInputError(
                f"teacher: {name} is {problem or 'itself a student'}, expected a WaveNet or a"
                " VQ-VAE with a trained WaveNet decoder"
            )
        if not decoder.head.continuous:
            raise UserInputError(
                f"teacher: {name} has a {decoder.head.kind} head, expected e.g."
                " mixture_of_logistics"
            )
        return decoder

    def _check_settings(self, loaded: Loaded) -> None:
        decoder = self.teacher_decoder
        if self.config.model.flow_type != "iaf":
            raise UserInputError(
                "model.flow_type: maf, expected iaf (experiments/flow.py trains maf)"
            )
        self.sources.check_compatible("teacher", loaded, decoder.conditioner.labels)
        self.config.kl.check(self.config.model.base, decoder.head)

    def extra_state(self) -> dict[str, Tensor]:
        return self.terms.state()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.terms.load_state(state)

    @property
    def model_spec(self) -> VQVAESpec | StudentSpec:
        """The teacher's settings with the student in the decoder's place."""
        return self.kind.with_decoder(self.config.model.of(self.kind.decoder_spec()))

    @property
    def hop(self) -> int:
        return self.teacher.hop

    @property
    def tracks(self) -> Sequence[Track]:
        return self.kind.tracks(self.corpus)

    def build(self) -> VQVAE | Student:
        model = self.model_spec.build(self.corpus.sample_rate, self.kind.card.labels)
        kind_of(model, self.kind.card).load_frozen_parts(self.kind)
        student = student_of(model)
        for name in ("conditioner", "frontend"):
            own, teachers = getattr(student, name), getattr(self.teacher_decoder, name)
            if own is not None:
                own.load_state_dict(teachers.state_dict())
                own.requires_grad_(requires_grad=False)
        student.conditioner.requires_grad_(requires_grad=self.config.train_conditioner)
        self.teacher.to(self.device)
        self.terms = DistillationLosses(self.config, self.config.losses, self._classifier()).to(
            self.device
        )
        return model

    def _classifier(self) -> Classifier | None:
        path = self.config.perceptual.classifier if self.config.losses.get("perceptual") else None
        types = (Classifier, ClassifierSpec)
        given = self.sources.load_typed("perceptual.classifier", path, types, "a classifier")
        if given is None:
            return None
        self.sources.check_compatible("perceptual.classifier", given.loaded)
        return given.model.requires_grad_(requires_grad=False)

    def trainable(self, model: VQVAE | Student) -> nn.Module:
        return student_of(model)

    def losses(self, batch: Batch) -> StepOutput:
        frames = self.kind.decoder_features(
            batch,
            recorded_pitch=self.config.recorded_pitch,
            recorded_spectrum=self.config.recorded_spectrum,
        )
        u = (
            keyed.uniforms(len(batch), 4, batch.wave.shape[1], like=self.device)
            .transpose(0, 1)
            .clamp(1e-6, 1 - 1e-6)
        )
        student = student_of(self.model)
        flowed = self.network(student.noise(u), batch.labels, frames, batch.frame_mask(self.hop))
        divergence = self.config.kl.of(student.distribution(flowed))
        self.terms.step = self.step
        losses = self.terms(self._compare(student, flowed, divergence, batch, frames))
        return StepOutput(
            losses, {"level_db": 10 * mean_over_ranks(flowed.x.detach().square().mean()).log10()}
        )

    def _compare(
        self,
        student: Student,
        flowed: FlowOutput,
        kl: Divergence,
        batch: Batch,
        frames: Tensor | None,
    ) -> Distilled:
        """Student, teacher and recordings of the same clips.

        The teacher's input is neither rounded, clipped nor detached.
        """
        decoder = self.teacher_decoder

        def teacher(frames: Tensor | None, labels: Mapping[str, Tensor]) -> Distribution:
            mask = batch.frame_mask(self.hop)
            return decoder.predict(flowed.x, decoder.condition(frames, labels, mask))

        def contrast() -> Distribution:
            return teacher(
                *self.config.contrastive.wrong(
                    frames, batch.labels, self.voices.mismatched_labels(batch)
                )
            )

        def predict() -> Distribution:
            return teacher(frames, batch.labels)

        mask, distribution = batch.mask, student.distribution(flowed)
        return Distilled(flowed.x * mask, batch.wave, mask, distribution, predict, kl, contrast)

    def evaluate(self, model: VQVAE | Student) -> Evaluation:
        """KL from the teacher, spectral distances and level on held-out clips, with fixed noise."""
        student, power = student_of(model), self.config.power
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(self.valid_batches()):
            frames, (B, T) = self.kind.decoder_features(batch), batch.wave.shape
            u = uniforms(self.config.seed, torch.arange(B) + B * number, 0, T).to(self.device)
            flowed = student(student.noise(u), batch.labels, frames, batch.frame_mask(self.hop))
            fixed = FixedQuantiles(
                ((torch.arange(16, device=self.device).view(-1, 1, 1) + u[3]) / 16).clamp(
                    1e-6, 1 - 1e-6
                )
            )
            side = self._compare(
                student, flowed, fixed.of(student.distribution(flowed)), batch, frames
            )
            values = {
                "kl": side.kl,
                "power": power.power(side.x, side.y),
                "log_spectral": power.log_spectral(side.x, side.y),
            }
            values |= self.terms.held_out(side) | {"scale": (2 * flowed.log_scale).exp().mean()}
            values |= {
                "energy": side.x.square().sum() / side.mask.sum(),
                "energy_data": side.y.square().sum() / side.mask.sum(),
            }
            for name, value in {**values, "clips": torch.ones(())}.items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + B * value
        total = self.total(sums)
        scalars = {name: value / total["clips"] for name, value in total.items() if name != "clips"}
        level, level_data, scale = (
            10 * math.log10(scalars.pop(k) or 1e-30) for k in ("energy", "energy_data", "scale")
        )
        scalars |= {"level_db": level, "level_db_data": level_data, "scale_db": scale}
        clips = f"held-out speech, level {level:.1f} dB (recordings {level_data:.1f} dB)"
        return Evaluation(
            f"{scalars['kl']:.3f} nats a sample from its teacher on {clips}",
            scalars,
            {"distillation": scalars},
        )

    def samples(self, model: VQVAE | Student, sheet: SampleSheet) -> None:
        speech = self.speech_model(model)
        for row in self.validation.example_rows(self.config.num_samples):
            utterance, wave = self.corpus.utterances[row], torch.from_numpy(self.corpus.read(row))
            vectors = self.recordings.vectors(student_of(model), row)
            features = self.recordings.stored_frames(row)
            about: Mapping[str, Any] = {"speaker": utterance.speaker, "text": utterance.text or ""}
            sheet.add(utterance.id, "original", wave, **about)
            generated = speech.kind.reconstruct(speech, wave, utterance.labels, vectors, features)
            sheet.add(utterance.id, "student", generated, **about)

    def next_steps(self) -> list[str]:
        run, speaker = self.config.run, self.example_speaker
        decode = f"vqwave decode {run} in.vqw --speaker {speaker} --out out.wav"
        generate = f"vqwave generate {run} --speaker {speaker} --seconds 3 --out generated.wav"
        report = f"vqwave report {self.config.teacher} {run} --out {run}/report.html"
        return [generate if self.kind.codec is None else decode, report]


def student_of(model: Any) -> Student:  # noqa: ANN401 - a VQ-VAE or a student
    """The student in a model that this experiment builds: its decoder, or all of it."""
    return getattr(model, "decoder", model)


if __name__ == "__main__":
    main(DistillExperiment)
