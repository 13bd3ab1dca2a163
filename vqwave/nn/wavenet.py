"""The WaveNet stack: gated layers, residual and skip; the same stack drives teacher, student flows and prior."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.nn.causal import CausalConv1d, dilation_cycle, receptive_field
from vqwave.nn.condition import Condition


@dataclass(frozen=True)
class Layered:
    """residual (B, R, T), None after the last layer of a stack with skips; skip (B, S, T), None without; past: the layer's state."""

    residual: Tensor | None
    skip: Tensor | None
    past: Tensor


class GatedLayer(nn.Module):
    r"""One WaveNet layer: causal dilated convolution, gate, residual, skip.

    .. math:: z = \tanh(W_f * x + V_f h) \odot \sigma(W_g * x + V_g h)

    B batch, T samples; R residual, G gate, S skip channels. The condition arrives already projected by V.

    Reference: van den Oord et al., 2016, sec. 2.3 to 2.5. arXiv:1609.03499
    """

    def __init__(self, residual: int, gate: int, skip: int, kernel: int, dilation: int, *, last: bool = False) -> None:
        super().__init__()
        self.dilated = CausalConv1d(residual, 2 * gate, kernel, dilation)
        self.residual = nn.Conv1d(gate, residual, 1) if not (last and skip) else None
        self.skip = nn.Conv1d(gate, skip, 1) if skip else None

    def forward(self, x: Tensor, condition: Condition | None = None, past: Tensor | None = None, start: int = 0) -> Layered:
        """x (B, R, T) from sample `start` on, condition (B, 2G, F), past (B, R, (k - 1) d) or None for silence."""
        a, past = self.dilated(x, past)
        if condition is not None:
            a = condition.add_to(a, start)
        filtered, gate = a.chunk(2, 1)
        z = filtered.tanh() * gate.sigmoid()  # (B, G, T)
        return Layered(
            None if self.residual is None else x + self.residual(z),
            None if self.skip is None else self.skip(z),
            past,
        )


@dataclass
class StackState:
    """All that a stack must remember between chunks: one past a layer, and the number of samples heard."""

    pasts: list[Tensor | None] = field(default_factory=list)
    time: int = 0


@spec
class StackSpec:
    """Sizes of a WaveNet stack."""

    layers: Annotated[int, Field(ge=1)] = option(30, "gated layers")
    cycle: Annotated[int, Field(ge=1)] = option(10, "layers after which the dilation starts again from 1")
    kernel: Annotated[int, Field(ge=1)] = option(2, "taps of each dilated convolution")
    residual: Annotated[int, Field(ge=1)] = option(64, "residual channels")
    gate: Annotated[int, Field(ge=1)] = option(64, "channels of the gated unit (filter and gate have this many each)")
    skip: Annotated[int, Field(ge=0)] = option(256, "skip channels; 0 reads the last residual instead, as the student's flows do")
    hidden: Annotated[int, Field(ge=1)] = option(256, "channels between the two output convolutions")

    @property
    def dilations(self) -> list[int]:
        return dilation_cycle(self.layers, self.cycle)

    @property
    def receptive_field(self) -> int:
        return receptive_field(self.kernel, self.dilations)

    def build(self, out_channels: int, condition_channels: int) -> Stack:
        return Stack(self, out_channels, condition_channels)


class Stack(nn.Module):
    """Gated layers, the sum of their skips, ReLU - 1x1 - ReLU - 1x1. van den Oord et al., 2016, fig. 4. arXiv:1609.03499"""

    def __init__(self, spec: StackSpec, out_channels: int, condition_channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList(
            GatedLayer(spec.residual, spec.gate, spec.skip, spec.kernel, d, last=i == spec.layers - 1)
            for i, d in enumerate(spec.dilations)
        )
        self.projection = nn.Conv1d(condition_channels, spec.layers * 2 * spec.gate, 1, bias=False) if condition_channels else None
        self.hidden = nn.Conv1d(spec.skip or spec.residual, spec.hidden, 1)
        self.out = nn.Conv1d(spec.hidden, out_channels, 1)

    @property
    def receptive_field(self) -> int:
        return self.spec.receptive_field

    def project(self, condition: Condition | None) -> Condition | None:
        """All layers' projections at the rate of the condition's columns: (B, L * 2G, F). Done once an utterance."""
        return None if self.projection is None or condition is None else condition.project(self.projection)

    def forward(self, x: Tensor, projected: Condition | None = None, state: StackState | None = None) -> Tensor:
        """x (B, R, T), projected from `project` -> (B, out_channels, T). A state, if given, is read and moved on in place."""
        state = state or StackState()
        pasts = state.pasts or [None] * len(self.layers)
        width, skip, residual = 2 * self.spec.gate, None, x
        for i, layer in enumerate(self.layers):
            local = None if projected is None else projected.channels(i * width, width)
            layered = layer(residual, local, pasts[i], state.time)
            residual, pasts[i] = layered.residual, layered.past
            if layered.skip is not None:
                skip = layered.skip if skip is None else skip + layered.skip
        state.pasts, state.time = pasts, state.time + x.shape[-1]
        return self.out(F.relu(self.hidden(F.relu(residual if skip is None else skip))))

    def extra_repr(self) -> str:
        return f"receptive_field={self.receptive_field}"
