"""Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet student.

accelerate launch experiments/distill.py --config configs/distill/fsdd.yaml teacher=runs/vqvae-fsdd
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqwave.checkpoint import load_trained
from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.decode.philox import uniforms
from vqwave.errors import BadInput
from vqwave.experiment import Evaluation, Experiment, ExperimentSpec, Outcome
from vqwave.loop import main
from vqwave.losses import distillation_kl, log_spectral_loss, power_loss, randomised_quantiles
from vqwave.models import VQVAE, Model, ModelSpec, Student, StudentSpec, VQVAESpec, WaveNet, WaveNetSpec
from vqwave.tracking import SampleSheet


@spec
class PowerSpec:
    """The power loss (`losses.power`); see `vqwave.losses.power_loss`."""

    fft: int = option(512, "window, samples")
    hop: int = option(128, "samples between windows")
    exponent: float = option(1.0, "of the magnitudes: 1 or 2")
    by_frame: bool = option(True, "frame with frame (ClariNet); false: averaged over time (Parallel WaveNet)")


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/distill.py`."""

    teacher: Path = option(Path("runs/vqvae-demo"), "run or model folder of a WaveNet or VQ-VAE with a continuous head")
    model: StudentSpec = option(StudentSpec(), "the flows; conditioner and features are the teacher's")
    losses: dict[str, float] = option({"kl": 1.0, "power": 4.0}, "weights: kl, power, log_spectral")
    power: PowerSpec = option(PowerSpec(), "settings of the power loss")
    draws: int = option(8, "randomised quantiles a time step, for the cross-entropy")
    train_conditioner: bool = option(False, "let the student change its copy of the teacher's conditioner")
    shown: int = option(4, "utterances in samples/")


class DistillExperiment(Experiment[Config]):
    """Distill a trained WaveNet (alone, or the decoder of a VQ-VAE) into a Parallel WaveNet student."""

    name = "distill"
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        loaded = load_trained(config.teacher)
        self.teacher, self.teacher_card = loaded.model.requires_grad_(False), loaded.card
        self._check_teacher()

    def _check_teacher(self) -> None:
        decoder, name = decoder_of(self.teacher), self.config.teacher
        if isinstance(decoder, Student):
            raise BadInput(f"teacher: {name} is itself a student, expected a WaveNet or a VQ-VAE with a WaveNet decoder")
        if not decoder.head.continuous:
            kind = decoder.head.kind
            raise BadInput(f"teacher: {name} has a {kind} head, which cannot be distilled; expected e.g. mixture_of_logistics")
        card = self.teacher_card
        if card.sample_rate != self.corpus.sample_rate:
            raise BadInput(
                f"teacher: {name} speaks at {card.sample_rate} Hz, {self.config.data.corpus} is at {self.corpus.sample_rate} Hz"
            )
        for label in decoder.conditioner.labels:
            if self.corpus.labels.get(label) != card.labels[label]:
                raise BadInput(f"teacher: {name} knows other {label} names than {self.config.data.corpus}, expected its own corpus")

    @property
    def model_spec(self) -> ModelSpec:
        """The teacher's tree with the student in the decoder's place."""
        whole = self.teacher_card.spec
        decoder: WaveNetSpec = whole.decoder if isinstance(whole, VQVAESpec) else whole
        student = replace(self.config.model, conditioner=decoder.conditioner, features=decoder.features)
        return replace(whole, decoder=student, readout=None) if isinstance(whole, VQVAESpec) else student

    @property
    def hop(self) -> int:
        return self.teacher.hop

    def build(self) -> Model:
        model = self.model_spec.build(self.corpus.sample_rate, self.teacher_card.labels)
        shared = ("conditioner", "frontend")
        parts = [(getattr(decoder_of(model), name), getattr(decoder_of(self.teacher), name)) for name in shared]
        if isinstance(model, VQVAE):
            parts += [(model.encoder, self.teacher.encoder), (model.quantizer, self.teacher.quantizer)]
        for mine, theirs in parts:
            if mine is not None:
                mine.load_state_dict(theirs.state_dict())
                mine.requires_grad_(False)
        decoder_of(model).conditioner.requires_grad_(self.config.train_conditioner)
        self.teacher.to(self.device)
        return model

    def trained(self, model: Model) -> nn.Module:
        return decoder_of(model)

    @torch.no_grad()
    def frames(self, wave: Tensor) -> Tensor | None:
        """What the decoders hear of the clips: quantized codes or spectral frames (B, D, F), or nothing."""
        if isinstance(self.teacher, VQVAE):
            return self.teacher.quantizer.decode(self.teacher.encode(wave))
        return None if self.teacher.frontend is None else self.teacher.frontend(wave)

    def losses(self, batch: Batch) -> Outcome:
        frames, decoder = self.frames(batch.wave), decoder_of(self.teacher)
        u = torch.rand(4, *batch.wave.shape, device=self.device).clamp(1e-6, 1 - 1e-6)
        student = decoder_of(self.model)
        flowed = self.network(student.noise(u), batch.labels, frames)
        teacher = decoder.predict(flowed.x, decoder.condition(frames, batch.labels))
        quantiles = randomised_quantiles(self.config.draws, batch.wave.shape, device=self.device, dtype=flowed.x.dtype)
        losses = self._spectral(flowed.x, batch)
        losses["kl"] = distillation_kl(student.distribution(flowed), teacher, quantiles, batch.mask)
        return Outcome(losses, {"level_db": 10 * flowed.x.detach().square().mean().log10()})

    def _spectral(self, x: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses that compare g(z), a true sample, with the recording; padding is silenced in both."""
        x, y, power = x * batch.mask, batch.wave, self.config.power
        return {
            "power": power_loss(x, y, fft=power.fft, hop=power.hop, exponent=power.exponent, by_frame=power.by_frame),
            "log_spectral": log_spectral_loss(x, y, fft=power.fft, hop=power.hop),
        }

    def evaluate(self, model: Model) -> Evaluation:
        """KL from the teacher, spectral distances and level on held-out clips, with fixed noise."""
        student, decoder = decoder_of(model), decoder_of(self.teacher)
        names = ("kl", "power", "log_spectral", "energy", "energy_data", "clips")
        sums = {name: torch.zeros((), dtype=torch.float64) for name in names}
        for number, batch in enumerate(self.valid_batches()):
            frames, (B, T) = self.frames(batch.wave), batch.wave.shape
            u = uniforms(self.config.seed, torch.arange(B) + B * number, 0, T).to(self.device)
            flowed = student(student.noise(u), batch.labels, frames)
            teacher = decoder.predict(flowed.x, decoder.condition(frames, batch.labels))
            quantiles = ((torch.arange(16, device=self.device).view(-1, 1, 1) + u[3]) / 16).clamp(1e-6, 1 - 1e-6)
            sums["kl"] += B * distillation_kl(student.distribution(flowed), teacher, quantiles, batch.mask)
            for name, value in self._spectral(flowed.x, batch).items():
                sums[name] += B * value
            sums["energy"] += (flowed.x * batch.mask).square().sum() / batch.mask.sum() * B
            sums["energy_data"] += batch.wave.square().sum() / batch.mask.sum() * B
            sums["clips"] += B
        total = self.total(sums)
        scalars = {name: total[name] / total["clips"] for name in ("kl", "power", "log_spectral")}
        levels = {name: 10 * torch.tensor(total[name] / total["clips"]).log10().item() for name in ("energy", "energy_data")}
        scalars |= {"level_db": levels["energy"], "level_db_data": levels["energy_data"]}
        level = f"level {levels['energy']:.1f} dB (recordings {levels['energy_data']:.1f} dB)"
        headline = f"{scalars['kl']:.3f} nats a sample from its teacher on held-out speech, {level}"
        return Evaluation(headline, scalars, {"distillation": scalars})

    def samples(self, model: Model, sheet: SampleSheet) -> None:
        codec = self.codec(model)
        for row in self.shown_rows(self.config.shown):
            utterance, wave = self.corpus.utterances[row], torch.from_numpy(self.corpus.read(row))
            about: Mapping[str, Any] = {"speaker": utterance.speaker, "text": utterance.text or ""}
            sheet.add(utterance.id, "original", wave, **about)
            if isinstance(model, VQVAE):
                drawn = codec.decode(codec.encode(wave), utterance.speaker, labels=utterance.labels)
            elif model.frontend is not None:
                drawn = codec.resynthesise(wave, labels=utterance.labels)
            else:
                drawn = codec.generate(len(wave) / codec.sample_rate, labels=utterance.labels)[0]
            sheet.add(utterance.id, "student", drawn, **about)

    def next_steps(self) -> list[str]:
        run = self.config.run
        speaker = self.corpus.speakers[0]
        if isinstance(self.teacher, VQVAE):
            speak = [f"vqwave decode {run} in.vqw --speaker {speaker} --out out.wav"]
        else:
            speak = [f"vqwave generate {run} --speaker {speaker} --seconds 3 --out babble.wav"]
        return [
            *speak,
            f"vqwave report {self.config.teacher} {run} --out {run}/report.html",
        ]


def decoder_of(model: Model) -> WaveNet | Student:
    """The part that makes waveforms."""
    return model.decoder if isinstance(model, VQVAE) else model


if __name__ == "__main__":
    main(DistillExperiment)
