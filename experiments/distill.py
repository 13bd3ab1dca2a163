"""Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet student.

accelerate launch experiments/distill.py --config configs/distill/fsdd.yaml teacher=runs/vqvae-fsdd
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
from vqwave.data.frame_tracks import Track, carried, stored_pitch
from vqwave.distributed.collectives import mean_over_ranks
from vqwave.distributions import Distribution
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import Loaded
from vqwave.losses import (
    DistillationLosses,
    DistillationSpec,
    Distilled,
    Divergence,
    FixedQuantiles,
)
from vqwave.models import (
    VQVAE,
    Model,
    ModelSpec,
    Student,
    StudentSpec,
    VQVAESpec,
    WaveNet,
    WaveNetSpec,
    decoder_of,
)
from vqwave.nn.flows import FlowOutput
from vqwave.rng import keyed
from vqwave.rng.philox import uniforms
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec
from vqwave.training.tracking import SampleSheet
from vqwave.training.trainer import main


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
    num_samples: Count = option(default=4, help="utterances in samples/")


class DistillExperiment(Experiment[Config]):
    """Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet
    student.
    """

    name = "distill"
    config_class = Config
    loss_names = DistillationLosses.names

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loaded = self.load_source("teacher", config.teacher)
        self.teacher, self.teacher_card = loaded.model.requires_grad_(False), loaded.card
        self._check_teacher(loaded)

    def _check_teacher(self, loaded: Loaded) -> None:
        decoder, name = decoder_of(self.teacher), self.config.teacher
        if not isinstance(decoder, WaveNet) or not loaded.card.about.get("speaks", True):
            found = {Student: "itself a student", WaveNet: "codes alone"}.get(
                type(decoder), f"a {loaded.card.kind}"
            )
            raise UserInputError(
                f"teacher: {name} is {found}, expected a WaveNet or a VQ-VAE with a trained WaveNet"
                " decoder"
            )
        if not decoder.head.continuous:
            raise UserInputError(
                f"teacher: {name} has a {decoder.head.kind} head, expected e.g."
                " mixture_of_logistics"
            )
        if self.config.model.flow_type != "iaf":
            raise UserInputError(
                "model.flow_type: maf, expected iaf (experiments/flow.py trains maf)"
            )
        self.check_compatible("teacher", loaded, decoder.conditioner.labels)
        self.config.kl.check(self.config.model.base, decoder.head)

    def extra_state(self) -> dict[str, Tensor]:
        return self.terms.state()

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        self.terms.load_state(state)

    @property
    def model_spec(self) -> ModelSpec:
        """The teacher's tree with the student in the decoder's place."""
        whole = self.teacher_card.spec
        decoder: WaveNetSpec = whole.decoder if isinstance(whole, VQVAESpec) else whole
        student = self.config.model.of(decoder)
        return whole.with_decoder(student) if isinstance(whole, VQVAESpec) else student

    @property
    def hop(self) -> int:
        return self.teacher.hop

    @property
    def tracks(self) -> Sequence[Track]:
        if isinstance(self.teacher, VQVAE):
            return () if self.teacher.melody is None else (stored_pitch(self.corpus),)
        frontend = self.teacher.frontend
        return () if frontend is None else carried(self.corpus, frontend.tracks)

    def build(self) -> Model:
        model = self.model_spec.build(self.corpus.sample_rate, self.teacher_card.labels)
        if isinstance(model, VQVAE):
            model.load_frozen_codec(self.teacher)
        for name in ("conditioner", "frontend"):
            mine, theirs = getattr(decoder_of(model), name), getattr(decoder_of(self.teacher), name)
            if mine is not None:
                mine.load_state_dict(theirs.state_dict())
                mine.requires_grad_(False)
        decoder_of(model).conditioner.requires_grad_(self.config.train_conditioner)
        self.teacher.to(self.device)
        self.terms = DistillationLosses(self.config, self.config.losses, self._classifier()).to(
            self.device
        )
        return model

    def _classifier(self) -> Model | None:
        if not self.config.losses.get("perceptual"):
            return None
        loaded = self.load_source("perceptual.classifier", self.config.perceptual.classifier)
        self.check_compatible("perceptual.classifier", loaded)
        return loaded.model.requires_grad_(False)

    def trainable(self, model: Model) -> nn.Module:
        return decoder_of(model)

    @torch.no_grad()
    def frames(self, batch: Batch, recorded_pitch: bool = False) -> Tensor | None:
        """What the decoders hear of the clips: quantized latents or spectral frames (B, D, F), or
        nothing.
        """
        if isinstance(self.teacher, VQVAE):
            return self.teacher.features_of_recordings(
                batch.wave, batch.labels, batch.lengths, recorded_pitch=recorded_pitch
            )
        frontend, mask = self.teacher.frontend, batch.frame_mask(self.hop)
        return None if frontend is None else frontend(batch.wave, batch.labels, mask)

    def losses(self, batch: Batch) -> StepOutput:
        frames = self.frames(batch, self.config.recorded_pitch)
        u = (
            keyed.uniforms(len(batch), 4, batch.wave.shape[1], like=self.device)
            .transpose(0, 1)
            .clamp(1e-6, 1 - 1e-6)
        )
        student = decoder_of(self.model)
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
        """Student, teacher and recordings side by side.

        What the teacher hears is neither rounded, clipped nor detached.
        """
        decoder = decoder_of(self.teacher)

        def teacher(frames: Tensor | None, labels: Mapping[str, Tensor]) -> Distribution:
            mask = batch.frame_mask(self.hop)
            return decoder.predict(flowed.x, decoder.condition(frames, labels, mask))

        def contrast() -> Distribution:
            return teacher(
                *self.config.contrastive.wrong(frames, batch.labels, self.mismatched_labels(batch))
            )

        heard, mask = teacher(frames, batch.labels), batch.mask
        return Distilled(
            flowed.x * mask, batch.wave, mask, student.distribution(flowed), heard, kl, contrast
        )

    def evaluate(self, model: Model) -> Evaluation:
        """KL from the teacher, spectral distances and level on held-out clips, with fixed noise."""
        student, power = decoder_of(model), self.config.power
        sums: dict[str, Tensor] = {}
        for number, batch in enumerate(self.valid_batches()):
            frames, (B, T) = self.frames(batch), batch.wave.shape
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
        beside = f"held-out speech, level {level:.1f} dB (recordings {level_data:.1f} dB)"
        return Evaluation(
            f"{scalars['kl']:.3f} nats a sample from its teacher on {beside}",
            scalars,
            {"distillation": scalars},
        )

    def samples(self, model: Model, sheet: SampleSheet) -> None:
        codec = self.codec(model)
        for row in self.shown_rows(self.config.num_samples):
            utterance, wave = self.corpus.utterances[row], torch.from_numpy(self.corpus.read(row))
            vectors = self.vectors(decoder_of(model), row)
            about: Mapping[str, Any] = {"speaker": utterance.speaker, "text": utterance.text or ""}
            sheet.add(utterance.id, "original", wave, **about)
            if isinstance(model, VQVAE):
                drawn = codec.decode(
                    codec.encode(wave),
                    utterance.speaker,
                    labels=utterance.labels,
                    embeddings=vectors,
                )
            elif model.frontend is not None:
                drawn = codec.reconstruct(
                    wave, labels=utterance.labels, embeddings=vectors, features=self.frames_of(row)
                )
            else:
                drawn = codec.generate(
                    len(wave) / codec.sample_rate, labels=utterance.labels, embeddings=vectors
                )[0]
            sheet.add(utterance.id, "student", drawn, **about)

    def next_steps(self) -> list[str]:
        run, speaker = self.config.run, self.example_speaker
        decode = f"vqwave decode {run} in.vqw --speaker {speaker} --out out.wav"
        generate = f"vqwave generate {run} --speaker {speaker} --seconds 3 --out generated.wav"
        report = f"vqwave report {self.config.teacher} {run} --out {run}/report.html"
        return [decode if isinstance(self.teacher, VQVAE) else generate, report]


if __name__ == "__main__":
    main(DistillExperiment)
