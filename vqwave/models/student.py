"""Parallel WaveNet: a stack of inverse autoregressive flows that decodes in one pass what a WaveNet decodes in a loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributions import GaussianMixture, LogisticMixture, Mixture
from vqwave.features import FeatureSpec
from vqwave.models.wavenet import Vocabulary
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec
from vqwave.nn.flows import Flowed, FlowStack, FlowState
from vqwave.nn.frontend import Frontend
from vqwave.nn.wavenet import StackSpec

BASES: dict[str, type[Mixture]] = {"logistic": LogisticMixture, "gaussian": GaussianMixture}


@spec
class StudentSpec:
    """The student's flows; the conditioner's settings are its teacher's."""

    kind: Literal["student"] = "student"
    flows: tuple[int, ...] = option((10, 10, 10, 30), "layers of each flow")
    network: StackSpec = option(StackSpec(layers=10, kernel=3, skip=0, hidden=64), "sizes of each flow's stack")
    base: Literal["logistic", "gaussian"] = option("logistic", "noise: logistic (Parallel WaveNet) or gaussian (ClariNet)")
    initial_scale: float = option(0.05, "total scale of an untrained student: near the data's standard deviation")
    conditioner: ConditionerSpec = option(ConditionerSpec(), "taken from the teacher")
    features: FeatureSpec | None = option(None, "taken from the teacher")

    def build(self, sample_rate: int, vocabulary: Vocabulary, frame_channels: int = 0, hop: int = 1) -> Student:
        """As `WaveNetSpec.build`."""
        frontend = Frontend(self.features.build(sample_rate)) if self.features else None
        if frontend is not None:
            frame_channels, hop = frontend.channels, frontend.hop
        conditioner = self.conditioner.build(frame_channels, hop, vocabulary)
        stacks = [replace(self.network, layers=layers, skip=0) for layers in self.flows]
        flows = FlowStack(stacks, conditioner.channels, self.initial_scale)
        return Student(flows, conditioner, frontend, BASES[self.base])


class Student(nn.Module):
    """x = g(z, h) with z white noise: van den Oord et al., 2018, sec. 3. arXiv:1711.10433

    It has no skip connections within a flow, reads the same condition as its teacher through the teacher's conditioner,
    and never reverses time, so that x_t given z_{<t} is one `base` distribution (nn/flows.py).
    """

    def __init__(self, flows: FlowStack, conditioner: Conditioner, frontend: Frontend | None, base: type[Mixture]) -> None:
        super().__init__()
        self.flows = flows
        self.conditioner = conditioner
        self.frontend = frontend
        self.base = base

    @property
    def hop(self) -> int:
        return self.conditioner.hop

    @property
    def receptive_field(self) -> int:
        """Past noise that one sample hears."""
        return self.flows.receptive_field

    def condition(self, frames: Tensor | None, labels: Mapping[str, Tensor]) -> Condition | None:
        return self.conditioner(frames, labels)

    def noise(self, u: Tensor, temperature: float = 1.0) -> Tensor:
        """u (4, B, T) uniforms -> z (B, T). A temperature below 1 narrows z, which also changes what later flows hear."""
        return temperature * self.base.standard_sample(u)

    def distribution(self, flowed: Flowed) -> Mixture:
        """p(x_t | z_{<t}): one component of the base family."""
        location, log_scale = flowed.location[:, None], flowed.log_scale[:, None]
        return self.base(torch.zeros_like(location), location, log_scale)

    def transform(self, z: Tensor, condition: Condition | None, states: list[FlowState] | None = None) -> Flowed:
        """z (B, T) -> x and the totals, each (B, T); states, if given, are read and moved on in place."""
        return self.flows(z, condition, states)

    def forward(self, z: Tensor, labels: Mapping[str, Tensor], frames: Tensor | None = None) -> Flowed:
        """z (B, T), labels name -> (B,), frames (B, D, F) -> x and the totals, each (B, T)."""
        return self.transform(z, self.condition(frames, labels))
