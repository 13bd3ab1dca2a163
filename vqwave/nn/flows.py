r"""Inverse autoregressive flows over time.

One flow is :math:`x_t = z_t\, s(z_{<t}) + \mu(z_{<t})`. Stacked flows that never reverse time keep the form
:math:`x_t = z_t\, s^{tot}_t + \mu^{tot}_t` with both totals functions of :math:`z_{<t}` alone, so that x_t given the past is
one logistic (or normal), whose density and entropy are known. Reference: van den Oord et al., 2018 (Parallel WaveNet),
sec. 3. arXiv:1711.10433; Kingma et al., 2016. arXiv:1606.04934
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vqwave.nn.causal import shift_right
from vqwave.nn.condition import Condition
from vqwave.nn.wavenet import StackSpec, StackState


@dataclass(frozen=True)
class Flowed:
    """x = z * exp(log_scale) + location, each (B, T); log_scale.sum is the log-determinant of the Jacobian dx / dz."""

    x: Tensor
    location: Tensor
    log_scale: Tensor


@dataclass
class FlowState:
    """What a flow remembers between chunks: the last z, and its stack's state."""

    last: Tensor | None = None
    stack: StackState = field(default_factory=StackState)


class AffineFlow(nn.Module):
    """One strictly causal affine flow whose location and log-scale come from a WaveNet stack without skips.

    The log-scale is clamped from below at `MIN_LOG_SCALE` alone: a cap from above would silence the student.
    """

    MIN_LOG_SCALE = -7.0

    def __init__(self, network: StackSpec, condition_channels: int, initial_log_scale: float) -> None:
        super().__init__()
        self.input = nn.Conv1d(1, network.residual, 1)
        self.stack = network.build(2, condition_channels)
        with torch.no_grad():  # start near the identity, scaled
            self.stack.out.weight.mul_(0.1)
            self.stack.out.bias.copy_(torch.tensor([0.0, initial_log_scale]))

    def forward(self, z: Tensor, condition: Condition | None = None, state: FlowState | None = None) -> Flowed:
        """z (B, T) -> x (B, T); a state, if given, is read and moved on in place."""
        state = state or FlowState()
        heard = shift_right(z, state.last)
        state.last = z[:, -1:]
        location, log_scale = self.stack(self.input(heard[:, None]), self.stack.project(condition), state.stack).unbind(1)
        if log_scale.dtype != torch.float64:
            location, log_scale = location.float(), log_scale.float()
        log_scale = log_scale.clamp(min=self.MIN_LOG_SCALE)
        return Flowed(z * log_scale.exp() + location, location, log_scale)


class FlowStack(nn.Module):
    """Flows one after another; the totals follow mu <- mu s_i + mu_i, ln s <- ln s + ln s_i."""

    def __init__(self, flows: Sequence[StackSpec], condition_channels: int, initial_scale: float) -> None:
        super().__init__()
        share = math.log(initial_scale) / len(flows)
        self.flows = nn.ModuleList(AffineFlow(network, condition_channels, share) for network in flows)

    @property
    def receptive_field(self) -> int:
        """Past noise that one output hears: the fields of the flows add up, one more sample each for the strict shift."""
        return 1 + sum(flow.stack.receptive_field for flow in self.flows)

    def forward(self, z: Tensor, condition: Condition | None = None, states: Sequence[FlowState] | None = None) -> Flowed:
        """z (B, T) -> the totals of all flows, each (B, T)."""
        x, location, log_scale = z, torch.zeros_like(z), torch.zeros_like(z)
        for flow, state in zip(self.flows, states or [None] * len(self.flows), strict=True):
            step = flow(x, condition, state)
            x = step.x
            location = location * step.log_scale.exp() + step.location
            log_scale = log_scale + step.log_scale
        return Flowed(x, location, log_scale)
