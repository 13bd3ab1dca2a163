"""Twelve steps of the trainer against the same twelve steps written out here, in float64.

Adam, the schedule, clipping, accumulation over masked clips, loss weights and the averaged weights:
what the trainer holds, validates with, saves and writes down.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_experiment import SmallExperiment
from torch import Tensor

from vqwave import audio
from vqwave.config import option, spec
from vqwave.data import Batch, prepare
from vqwave.distributed.threads import busy_cores, denormals_flushed, threads_of_process
from vqwave.distributions import MuLaw
from vqwave.losses import negative_log_likelihood
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.training.experiment import Evaluation, StepOutput
from vqwave.training.settings import DataSpec, ExperimentSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import Trainer

STEPS, MICRO, LR, BETAS, EPS, WARMUP, FINAL = 12, 2, 0.01, (0.8, 0.95), 1e-4, 3, 0.25
CLIP, DECAY = 0.15, 0.5  # both are reached: see `test_the_steps_reach_every_bound`
WEIGHTS = {"nll": 0.5, "level": 3.0}
SMALL = WaveNetSpec(
    head=MuLaw(classes=8),
    network=StackSpec(
        layers=3,
        dilation_cycle=2,
        residual_channels=4,
        gate_channels=4,
        skip_channels=4,
        hidden_channels=4,
    ),
    conditioner=ConditionerSpec(channels=4),
)
Weights = dict[str, Tensor]
DENORMAL = 1e-39


def computed(value: float) -> bool:
    """Whether this thread's float32 has the value, or zero for it."""
    return bool((torch.full((64,), 2 * value) / 2).any())


@spec
class Config(ExperimentSpec):
    losses: dict[str, float] = option(default=WEIGHTS)


class Small(SmallExperiment[Config]):
    """A WaveNet in float64, with a second loss; keeps the weights that it is evaluated with."""

    name = "small"
    config_class = Config
    model_spec = SMALL
    loss_names = ("nll", "level")
    modes: tuple[bool, bool] = (False, True)  # training mode of losses, of evaluation
    evaluated: tuple[Weights, ...] = ()
    denormals: tuple[bool, bool] = (False, False)  # whether any step had them: forward, backward

    def build(self) -> WaveNet:
        return super().build().double()

    def losses(self, batch: Batch) -> StepOutput:
        self.modes = (self.network.training, self.modes[1])
        self.denormals = (computed(DENORMAL) or self.denormals[0], self.denormals[1])
        losses = losses_of(self.network, batch)
        losses["level"].register_hook(self.during_backward)
        return StepOutput(losses)

    def during_backward(self, gradient: Tensor) -> None:
        self.denormals = (self.denormals[0], computed(DENORMAL) or self.denormals[1])

    def evaluate(self, model: WaveNet) -> Evaluation:
        self.modes = (self.modes[0], model.training)
        torch.set_flush_denormal(False)  # as a library may that an evaluation loads
        self.evaluated += (copy_of(model.state_dict()),)
        return Evaluation("a number", {"nll": 0.0})


def losses_of(network: torch.nn.Module, batch: Batch) -> Weights:
    """The mean of -ln p over valid samples, and a penalty of the same."""
    wave = batch.wave.double()
    distribution = network(wave, batch.labels)
    nll = negative_log_likelihood(distribution, wave, batch.mask)
    valid = distribution.logits.transpose(1, 2)[batch.mask]
    return {"nll": nll, "level": valid.square().mean()}


def copy_of(weights: Weights) -> Weights:
    return {name: value.detach().clone() for name, value in weights.items()}


@dataclass
class Written:
    """Of each step below: weights, averages, learning rate, gradient norm before clipping."""

    weights: list[Weights]
    averages: list[Weights]
    rates: list[float]
    norms: list[float]


def written_out(model: WaveNet, batches: list[Batch]) -> Written:
    """The training loop without its parts: 2 x 12 micro-batches -> what they make of the model."""
    theta = dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in theta.items()}
    second, average = copy_of(first), copy_of(theta)
    found = Written([], [], [], [])
    for step in range(STEPS):
        gradient = {name: torch.zeros_like(p) for name, p in theta.items()}
        for batch in batches[MICRO * step : MICRO * (step + 1)]:
            wave = batch.wave.double()
            logits = model(wave, batch.labels).logits
            log_p = logits.log_softmax(1).gather(1, SMALL.head.encode(wave)[:, None])[:, 0]
            valid = torch.arange(wave.shape[1]) < batch.lengths[:, None]
            nll = -log_p[valid].sum() / valid.sum()
            level = (logits.square().sum(1) * valid).sum() / (valid.sum() * logits.shape[1])
            total = (WEIGHTS["nll"] * nll + WEIGHTS["level"] * level) / MICRO
            for name, part in zip(theta, torch.autograd.grad(total, theta.values()), strict=True):
                gradient[name] = gradient[name] + part
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradient.values()))
        scale = min(1.0, CLIP / (norm + 1e-6))
        progress = max(0, step - WARMUP) / (STEPS - WARMUP)
        cosine = FINAL + (1 - FINAL) * (1 + math.cos(math.pi * progress)) / 2
        rate = LR * min(1.0, (step + 1) / WARMUP) * cosine
        decay = min(DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in theta.items():
                g = scale * gradient[name]
                first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * g
                second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * g * g
                mean = first[name] / (1 - BETAS[0] ** (step + 1))
                power = second[name] / (1 - BETAS[1] ** (step + 1))
                p -= rate * mean / (power.sqrt() + EPS)
                average[name] = decay * average[name] + (1 - decay) * p
        found.weights.append(copy_of(theta))
        found.averages.append(copy_of(average))
        found.rates.append(rate)
        found.norms.append(norm)
    return found


@dataclass
class Trained:
    """One run of the trainer, and the same steps written out."""

    run: Path
    experiment: Small
    loop: Trainer
    written: Written


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root, rng = tmp_path_factory.mktemp("steps"), np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        (root / "in" / speaker).mkdir(parents=True)
        for take in range(20):  # of 60 to 250 samples: a clip has 160
            wave = 0.1 * rng.standard_normal(60 + 10 * take).astype(np.float32)
            audio.write(root / "in" / speaker / f"{take}.wav", wave, 8000)
    prepare("folder", root / "in", root / "corpus", quiet=True)
    optim = OptimSpec(
        lr=LR,
        betas=BETAS,
        eps=EPS,
        warmup=WARMUP,
        final_lr_ratio=FINAL,
        max_grad_norm=CLIP,
        ema_decay=DECAY,
    )
    config = Config(
        run=root / "run",
        data=DataSpec(
            corpus=root / "corpus",
            clip_seconds=0.02,
            batch=4,
            valid_clip_seconds=0.02,
            valid_clips=2,
        ),
        optim=optim,
        train=TrainSpec(
            steps=STEPS,
            grad_accumulation=MICRO,
            log_every=1,
            valid_every=5,
            save_every=4,
            threads=1,
        ),
    )
    experiment = Small(config)
    loop = Trainer(experiment, quiet=True)
    model = experiment.build()
    model.load_state_dict(loop.model.state_dict())
    iterator = loop.batches()
    batches = [next(iterator) for _ in range(MICRO * STEPS)]
    assert not all(batch.mask.all() for batch in batches)
    loop.run()
    return Trained(config.run, experiment, loop, written_out(model, batches))


def assert_same(found: Weights, expected: Weights) -> None:
    assert set(expected) <= set(found)
    for name, value in expected.items():
        assert found[name].dtype == torch.float64
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-11, msg=name)


def logged(trained: Trained, name: str) -> list[float]:
    lines = (trained.run / "metrics.jsonl").read_text().splitlines()
    return [row[name] for row in map(json.loads, lines) if name in row]


def test_the_steps_reach_every_bound(trained: Trained) -> None:
    """Else the comparison would not see them: clipped and unclipped, young and old averages."""
    norms = trained.written.norms
    assert min(norms) < 0.8 * CLIP
    assert max(norms) > 1.2 * CLIP
    assert 1 / 10 < DECAY < STEPS / (9 + STEPS)
    end, average = trained.written.weights[-1], trained.written.averages[-1]
    assert max(float((end[name] - average[name]).abs().max()) for name in end) > 1e-3


def test_the_weights_are_those_of_the_steps_written_out(trained: Trained) -> None:
    assert_same(trained.loop.model.state_dict(), trained.written.weights[-1])


def test_the_averaged_weights_are_the_average(trained: Trained) -> None:
    assert_same(trained.loop.averaged.state_dict(), trained.written.averages[-1])


def test_the_model_that_is_saved_and_evaluated_is_the_average(trained: Trained) -> None:
    assert_same(
        load_file(trained.run / "model" / "model.safetensors"), trained.written.averages[-1]
    )
    assert len(trained.experiment.evaluated) == 3
    for found, step in zip(trained.experiment.evaluated, (5, 10, 12), strict=True):
        assert_same(found, trained.written.averages[step - 1])


@pytest.mark.parametrize("step", [8, 12])
def test_a_checkpoint_holds_the_weights_and_the_average(trained: Trained, step: int) -> None:
    folder = trained.run / "checkpoints" / f"step-{step:08d}"
    assert_same(load_file(folder / "network.safetensors"), trained.written.weights[step - 1])
    assert_same(load_file(folder / "average.safetensors"), trained.written.averages[step - 1])


def test_the_log_says_rate_and_norm_of_each_step(trained: Trained) -> None:
    assert logged(trained, "optim/lr") == pytest.approx(trained.written.rates, rel=1e-12)
    assert logged(trained, "train/gradient_norm") == pytest.approx(trained.written.norms, rel=1e-9)


def test_losses_are_taken_in_training_mode_and_evaluation_is_not(trained: Trained) -> None:
    assert trained.experiment.modes == (True, False)


def test_denormals_are_zero_in_a_step_and_afterwards_as_before(trained: Trained) -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor has no mode for denormals")
    assert trained.experiment.denormals == (False, False)
    assert computed(DENORMAL)
    with denormals_flushed():
        assert not computed(DENORMAL)
        with denormals_flushed():
            pass
        assert not computed(DENORMAL)
    assert computed(DENORMAL)


def test_threads_that_would_wait_for_cores_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on two cores that others use; not on idle ones, nor one thread alone."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for load, threads, said in ((3.0, 2, True), (0.3, 2, False), (3.0, 1, False)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0), raising=False)
        assert ("OMP_NUM_THREADS=1" in busy_cores(threads)) is said


def test_the_threads_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, but not by a launcher that sets it unasked."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for environment, threads in (
        ({}, 8),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "0"}, 8),
        ({"OMP_NUM_THREADS": "many"}, 8),
        ({"LOCAL_WORLD_SIZE": "2"}, 4),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, 8),
    ):
        assert threads_of_process(environment) == threads, environment


def test_waiting_threads_sleep_soon() -> None:
    """In a process that imports the package before torch; not where the user has chosen."""
    code = "import os, vqwave; print(os.environ['GOMP_SPINCOUNT'])"
    chosen = {**os.environ, "GOMP_SPINCOUNT": "7"}
    unset = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for environment, printed in ((unset, "1000"), (chosen, "7")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == printed


def test_a_schedule_ends_at_its_final_share(trained: Trained) -> None:
    """One step beyond the last: the cosine has come down to `final`."""
    optim = trained.experiment.config.optim
    assert optim.lr_at(STEPS, STEPS) == pytest.approx(FINAL * LR)
    assert optim.lr_at(WARMUP, STEPS) == pytest.approx(LR)
    assert replace(optim, schedule="constant").lr_at(STEPS, STEPS) == LR
