"""Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet student.

python experiments/distill.py --config configs/distill/fsdd.yaml teacher=runs/vqvae-fsdd
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.data.frame_tracks import Track
from vqwave.decode.reference import noise_scales
from vqwave.decode.sampling import Temperatures
from vqwave.distributed.collectives import masked_mean, mean_over_ranks
from vqwave.distributions import Distribution
from vqwave.errors import UserInputError, under
from vqwave.inference.model_folder import Loaded
from vqwave.inference.model_kinds import kind_of
from vqwave.losses import (
    KL,
    DistillationLosses,
    DistillationSpec,
    Distilled,
    FixedQuantiles,
)
from vqwave.models import (
    VQVAE,
    Classifier,
    ClassifierSpec,
    Student,
    StudentSpec,
    VQVAESpec,
)
from vqwave.nn.flows import FlowOutput
from vqwave.rng import keyed
from vqwave.rng.philox import uniforms
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec, Weights
from vqwave.training.sources import continuous_decoder
from vqwave.training.tracking import SampleSheet


@spec
class Config(ExperimentSpec, DistillationSpec):
    """Settings of `experiments/distill.py`."""

    teacher: Path = option(
        default=Path("runs/demo/vqvae"),
        help="run or model folder of a WaveNet or VQ-VAE with a continuous head",
    )
    model: StudentSpec = option(
        default=StudentSpec(), help="the flows; conditioner and features are the teacher's"
    )
    start_from: Path | None = option(
        default=None,
        help="run or model folder of a trained student with these settings of the model, whose"
        " weights training starts from; none: from random ones",
    )
    losses: Weights = option(
        default={"kl": 1.0, "power": 4.0},
        help="weights (0: off): kl, log_scale_regularizer, contrastive (-0.3), power, log_spectral,"
        " stft, energy_distance, perceptual, adversarial",
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
        self.teacher = self.kind.model
        self.teacher_decoder = continuous_decoder("teacher", config.teacher, self.kind)
        self._check_settings(loaded)
        self.temperatures = Temperatures(1.0, config.scale_temperature, config.voiced_temperature)
        start = config.start_from
        self.start = None if start is None else self.sources.load("start_from", start)

    def _check_settings(self, loaded: Loaded) -> None:
        decoder = self.teacher_decoder
        if self.config.model.flow_type != "iaf":
            raise UserInputError(
                "model.flow_type: maf, expected iaf (experiments/flow.py trains maf)"
            )
        self.sources.check_compatible("teacher", loaded, decoder.conditioner.labels)
        self.config.kl.check(self.config.model.base, decoder.head)
        self.config.check_temperatures(self.config.losses)

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
        if self.start is not None:
            self._start(student, self.start)
        student.conditioner.requires_grad_(requires_grad=self.config.train_conditioner)
        self.teacher.to(self.device)
        self.terms = DistillationLosses(self.config, self.config.losses, self._classifier()).to(
            self.device
        )
        return model

    def _start(self, student: Student, given: Loaded) -> None:
        """Take the weights of another student. Raises UserInputError if its settings differ."""
        wanted = self.config.model.of(self.kind.decoder_spec())
        if kind_of(given.model, given.card).decoder_spec() != wanted:
            raise UserInputError(
                f"start_from: {given.folder} has other settings than `model`, expected the same"
            )
        student.load_state_dict(student_of(given.model).state_dict())

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

        def draw() -> Tensor:
            u = keyed.uniforms(len(batch), 4, batch.wave.shape[1], like=self.device)
            return u.transpose(0, 1).clamp(1e-6, 1 - 1e-6)

        self.terms.step = self.step
        _, compared = self._compare(self.network, batch, frames, draw, self.config.kl)
        power = masked_mean(compared.x.detach().square(), batch.mask)
        return StepOutput(self.terms(compared), {"level_db": 10 * mean_over_ranks(power).log10()})

    def _compare(
        self,
        network: Callable[..., FlowOutput],
        batch: Batch,
        frames: Tensor | None,
        draw: Callable[[], Tensor],
        kl: KL | FixedQuantiles,
    ) -> tuple[FlowOutput, Distilled]:
        """Student (`network`, by uniforms (4, B, T)), teacher and recordings of the same clips.

        The teacher's input is neither rounded, clipped nor detached.
        """
        decoder, student, mask = self.teacher_decoder, student_of(self.model), batch.mask
        frame_mask = batch.frame_mask(self.hop)

        given, samples = (frames, batch.labels, frame_mask), batch.wave.shape[1]
        temperature = noise_scales(student, self.temperatures, *given, samples=samples)

        def sample() -> FlowOutput:
            return network(student.noise(draw(), temperature), batch.labels, frames, frame_mask)

        def teacher(frames: Tensor | None, labels: Mapping[str, Tensor]) -> Distribution:
            return decoder.predict(flowed.x, decoder.condition(frames, labels, frame_mask))

        def contrast() -> Distribution:
            others = self.voices.mismatched_labels(batch)
            return teacher(*self.config.contrastive.wrong(frames, batch.labels, others))

        flowed = sample()
        x, y, distribution = flowed.x * mask, batch.wave, student.distribution(flowed)
        predict, divergence = partial(teacher, frames, batch.labels), kl.of(distribution)
        return flowed, Distilled(
            x, y, mask, distribution, predict, divergence, contrast, lambda: sample().x * mask
        )

    def evaluate(self, model: VQVAE | Student) -> Evaluation:
        """KL from the teacher, spectral distances and level on held-out clips, with fixed noise."""
        student, power = student_of(model), self.config.power
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(self.valid_batches()):
            frames, (B, T) = self.kind.decoder_features(batch), batch.wave.shape
            seed, clips = self.config.seed, torch.arange(B) + B * number
            u, other = (uniforms(s, clips, 0, T).to(self.device) for s in (seed, seed + 1))
            quantiles = (torch.arange(16, device=self.device).view(-1, 1, 1) + u[3]) / 16
            kl, draw = FixedQuantiles(quantiles.clamp(1e-6, 1 - 1e-6)), iter((u, other)).__next__
            flowed, side = self._compare(student, batch, frames, draw, kl)
            values = {
                "kl": side.kl,
                "power": power.power(side.x, side.y),
                "log_spectral": power.log_spectral(side.x, side.y),
                **self.terms.held_out(side),
                "scale": masked_mean((2 * flowed.log_scale).exp(), side.mask),
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
        about = f"held-out speech, level {level:.1f} dB (recordings {level_data:.1f} dB)"
        return Evaluation(
            f"{scalars['kl']:.3f} nats a sample from its teacher on {about}",
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
