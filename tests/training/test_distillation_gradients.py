"""Distillation: the gradient of every loss is its slope, and the evaluation's KL is a KL."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from noise import noise_corpus
from torch import Tensor

from vqwave.data import Batch, Corpus
from vqwave.distributions import Distribution, Gaussian, GaussianMixture, LogisticMixture, Mixture
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.losses import (
    ClosedGaussian,
    ContrastiveSpec,
    EnergySpec,
    FixedQuantiles,
    PowerSpec,
    STFTSpec,
)
from vqwave.models import StudentSpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng import keyed
from vqwave.training.settings import DataSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import Trainer

F64 = torch.float64
NETWORK = StackSpec(
    layers=2,
    dilation_cycle=2,
    kernel_size=2,
    residual_channels=6,
    gate_channels=6,
    skip_channels=6,
    hidden_channels=6,
)
LOSSES = {
    "kl": 1.0,
    "log_scale_regularizer": 1.0,
    "contrastive": -0.3,
    "power": 4.0,
    "log_spectral": 1.0,
    "stft": 1.0,
    "energy_distance": 1.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`corpus`, of noises, and an untrained `teacher` of it with a normal head."""
    root = tmp_path_factory.mktemp("gradients")
    noise_corpus(root, takes=20, samples=1200)
    corpus = Corpus.open(root / "corpus")
    torch.manual_seed(0)
    conditioner = ConditionerSpec(channels=4)
    spec = WaveNetSpec(head=Gaussian(), network=NETWORK, conditioner=conditioner)
    card = ModelCard(sample_rate=8000, labels=corpus.labels, spec=spec, about={})
    save_trained(root / "teacher", spec.build(8000, corpus.labels), card)
    return root


@pytest.fixture
def loop(experiment_script: Callable[[str], ModuleType], folder: Path, tmp_path: Path) -> Trainer:
    """A distillation that has not begun: of a normal teacher into a normal student."""
    script = experiment_script("distill")
    config = script.Config(
        run=tmp_path / "run",
        teacher=folder / "teacher",
        data=DataSpec(
            corpus=folder / "corpus",
            clip_seconds=0.03,
            batch=4,
            valid_clip_seconds=0.03,
            valid_clips=2,
        ),
        model=StudentSpec(flows=(2, 2), network=replace(NETWORK, skip_channels=0), base="gaussian"),
        losses=LOSSES,
        contrastive=ContrastiveSpec(other="labels"),
        power=PowerSpec(fft=64, hop=16),
        stft=STFTSpec(resolutions=((64, 16, 64),)),
        energy_distance=EnergySpec(windows=(64, 32)),
        optim=OptimSpec(),
        train=TrainSpec(steps=1, threads=1),
    )
    loop = Trainer(script.DistillExperiment(config), quiet=True)
    loop.held.close()
    return loop


def test_what_is_compared_is_one_run_of_the_flows(
    loop: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x is z exp(log-scale) + location of the noise that was drawn, not of any other; the teacher
    is given all of it, beyond the range of recordings, too.
    """
    experiment = loop.experiment
    student, teacher = experiment.model, experiment.teacher_decoder
    batch, given, drawn = next(loop.batches()), [], []
    noise, predict = student.noise, teacher.predict

    def loud(u: Tensor, temperature: float | Tensor) -> Tensor:
        drawn.append(100 * noise(u, temperature))
        return drawn[-1]

    def seen(x: Tensor, condition: object) -> Distribution:
        given.append(x)
        return predict(x, condition)

    monkeypatch.setattr(student, "noise", loud)
    monkeypatch.setattr(teacher, "predict", seen)
    u = torch.rand(4, *batch.wave.shape, generator=torch.Generator().manual_seed(0))
    flowed, side = experiment._compare(
        experiment.network, batch, None, lambda: u.clamp(1e-6, 1 - 1e-6), experiment.config.kl
    )
    assert side.teacher is not None
    assert flowed.x.abs().max() > 1.5
    assert torch.equal(given[0], flowed.x)
    assert torch.equal(side.x, flowed.x * batch.mask)
    expected = drawn[0] * flowed.log_scale.exp() + flowed.location
    torch.testing.assert_close(flowed.x, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_is_the_slope_of_its_loss(
    loop: Trainer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By central differences along the gradient, for fixed noise: no path is detached.

    The teacher's past is made of the student's samples, which move with the student's parameters.
    """

    def given(
        draw: Callable[..., Tensor], items: int, shape: tuple[int, ...], like: object
    ) -> Tensor:
        return draw((items, *shape), generator=torch.Generator().manual_seed(0), dtype=F64)

    monkeypatch.setattr(keyed, "_each", given)
    experiment = loop.experiment
    experiment.teacher.double()
    parameters = [p for p in loop.model.double().parameters() if p.requires_grad]
    found = next(loop.batches())
    batch: Batch = replace(found, wave=found.wave.double())

    def loss() -> Tensor:
        return experiment.losses(batch).losses[name]

    gradient = torch.autograd.grad(loss(), parameters)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradient))
    step, ends = 1e-7 / norm, []
    for distance in (step, -2 * step):
        with torch.no_grad():
            for p, g in zip(parameters, gradient, strict=True):
                p += distance * g
            ends.append(float(loss()))
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(norm**2, rel=1e-6)


@pytest.mark.parametrize("family", [GaussianMixture, LogisticMixture])
def test_the_kl_by_fixed_quantiles_is_the_integral(family: type[Mixture]) -> None:
    """Of p ln(p / q) on a fine grid, for scales at which neither entropy is near zero."""
    log_scale = torch.tensor([[[math.log(0.3), math.log(0.02)]]], dtype=F64)
    zero = torch.zeros_like(log_scale)
    student, teacher = family(zero, zero, log_scale), family(zero, zero + 0.05, log_scale + 0.5)
    u = ((torch.arange(4000, dtype=F64) + 0.5) / 4000).view(-1, 1, 1).expand(-1, 1, 2)
    found = FixedQuantiles(u).of(student)(teacher)
    x = torch.linspace(-40, 40, 20_001, dtype=F64)[:, None] * log_scale[0].exp()  # (N, 2)
    p, q = (each.log_density(x) for each in (student, teacher))
    integral = ((p.exp() * (p - q)).sum(0) * (x[1] - x[0]))[None]
    torch.testing.assert_close(found, integral, rtol=1e-3, atol=1e-4)


def test_the_evaluation_of_a_student_gives_its_kl(
    loop: Trainer, experiment_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between normals, the KL by the evaluation's 16 quantiles is near that in closed form."""
    with torch.inference_mode():
        found = loop.experiment.evaluate(loop.model).scalars["kl"]
    monkeypatch.setattr(experiment_script("distill"), "FixedQuantiles", lambda u: ClosedGaussian())
    with torch.inference_mode():
        closed = loop.experiment.evaluate(loop.model).scalars["kl"]
    assert found == pytest.approx(closed, rel=0.2)
    assert closed > 0
