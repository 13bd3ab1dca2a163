"""Experiments of a few weights, from which tests derive theirs."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from small_models import stack

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.distributions import MuLaw
from vqwave.losses import negative_log_likelihood
from vqwave.models import Model, ModelSpec, WaveNet, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import ExperimentSpec

ConfigT = TypeVar("ConfigT", bound=ExperimentSpec)


@spec
class Config(ExperimentSpec):
    losses: dict[str, float] = option(default={"nll": 1.0})


class SmallExperiment(Experiment[ConfigT, Any]):
    """The model of `model_spec`, a class attribute here; validation counts its clips."""

    model_spec: ModelSpec
    hop = 1

    def build(self) -> Model:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)

    def evaluate(self, model: Model) -> Evaluation:
        return Evaluation("a number", {"clips": float(len(list(self.valid_batches())))})


class SmallWaveNet(SmallExperiment[Config]):
    """A WaveNet whose losses draw noise, so that an inexact resume changes its weights."""

    name = "tiny"
    config_class = Config
    model_spec = WaveNetSpec(
        head=MuLaw(classes=16), network=stack(4), conditioner=ConditionerSpec(channels=4)
    )

    def losses(self, batch: Batch) -> StepOutput:
        wave = batch.wave + 0.01 * torch.randn_like(batch.wave)
        nll = negative_log_likelihood(self.network(wave, batch.labels), wave, batch.mask)
        return StepOutput({"nll": nll})

    def evaluate(self, model: WaveNet) -> Evaluation:
        nll = [
            negative_log_likelihood(model(b.wave, b.labels), b.wave, b.mask)
            for b in self.valid_batches()
        ]
        return Evaluation("a number", {"nll": float(torch.stack(nll).mean())})
