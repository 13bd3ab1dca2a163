"""The WaveNet stack: gated layers, residual and skip; the same stack drives teacher, student flows
and prior.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import reduce
from typing import Annotated, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.nn.causal import CausalConv1d, dilation_cycle, receptive_field
from vqwave.nn.condition import Condition
from vqwave.nn.fused_stack import GatedLayers, Shape, Weights, pointwise
from vqwave.nn.module_lists import elements

_layerwise = ContextVar("layerwise", default=False)


@contextmanager
def force_layerwise() -> Iterator[None]:
    """Inside, stacks take whole clips layer by layer, too: for second derivatives, to count or to
    compare.
    """
    token = _layerwise.set(True)
    try:
        yield
    finally:
        _layerwise.reset(token)


@dataclass(frozen=True)
class LayerOutput:
    """residual (B, R, T), None after the last layer of a stack with skips; skip (B, S, T), None
    without; past: its state.
    """

    residual: Tensor | None
    skip: Tensor | None
    past: Tensor


class GatedLayer(nn.Module):
    r"""One WaveNet layer: causal dilated convolution, gate, residual, skip.

    .. math:: z = \tanh(W_f * x + V_f h) \odot \sigma(W_g * x + V_g h)

    B batch, T samples; R residual, G gate, S skip channels. The condition arrives already projected
    by V.

    Reference: van den Oord et al., 2016, sec. 2.3 to 2.5. arXiv:1609.03499
    """

    def __init__(
        self, residual: int, gate: int, skip: int, kernel: int, dilation: int, *, last: bool = False
    ) -> None:
        super().__init__()
        self.dilated = CausalConv1d(residual, 2 * gate, kernel, dilation)
        self.residual = nn.Conv1d(gate, residual, 1) if not (last and skip) else None
        self.skip = nn.Conv1d(gate, skip, 1) if skip else None

    def forward(
        self,
        x: Tensor,
        condition: Condition | None = None,
        past: Tensor | None = None,
        start: int = 0,
        context: Condition | None = None,
    ) -> LayerOutput:
        """x (B, R, T) from sample `start` on, condition and context (B, 2G, F), past (B, R, (k - 1)
        d) or None for silence.
        """
        a, past = self.dilated(x, past)
        if condition is not None:
            a = condition.add_to(a, start)
        if context is not None:
            a = context.add_to(a, start)
        filtered, gate = a.chunk(2, 1)
        z = filtered.tanh() * gate.sigmoid()  # (B, G, T)
        return LayerOutput(
            None if self.residual is None else x + self.residual(z),
            None if self.skip is None else self.skip(z),
            past,
        )


@dataclass
class StackState:
    """The state of a stack between chunks: one past a layer, the samples taken, and its
    context stack's state.
    """

    pasts: list[Tensor | None] = field(default_factory=list)
    time: int = 0
    context: ContextState | None = None


@dataclass
class ContextState:
    """Of a context stack: the samples of the unfinished block (B, R, < stride), the last column (B,
    C, 1), its layers' pasts.
    """

    unfinished: Tensor
    last: Tensor
    stack: StackState


@spec
class ContextSpec:
    """A second, smaller stack over a longer past at a lower rate.

    van den Oord et al., 2016, sec. 2.6. arXiv:1609.03499
    """

    stride: Annotated[int, Field(ge=2)] = option(
        default=64, help="samples that one column of the context stands for"
    )
    layers: Annotated[int, Field(ge=1)] = option(
        default=6, help="gated layers, dilation doubled in each"
    )
    kernel_size: Annotated[int, Field(ge=1)] = option(
        default=2, help="taps of each dilated convolution"
    )
    residual_channels: Annotated[int, Field(ge=1)] = option(
        default=32, help="residual and gate channels"
    )
    channels: Annotated[int, Field(ge=1)] = option(
        default=32, help="channels that condition the main stack"
    )

    def build(self, in_channels: int) -> ContextStack:
        """in_channels: of the main stack's input."""
        return ContextStack(self, in_channels)


@spec
class StackSpec:
    """Sizes of a WaveNet stack."""

    layers: Annotated[int, Field(ge=1)] = option(default=30, help="gated layers")
    dilation_cycle: Annotated[int, Field(ge=1)] = option(
        default=10, help="layers after which the dilation starts again from 1"
    )
    kernel_size: Annotated[int, Field(ge=1)] = option(
        default=2, help="taps of each dilated convolution"
    )
    residual_channels: Annotated[int, Field(ge=1)] = option(default=64, help="residual channels")
    gate_channels: Annotated[int, Field(ge=1)] = option(
        default=64, help="channels of the gated unit (filter and gate have this many each)"
    )
    skip_channels: Annotated[int, Field(ge=0)] = option(
        default=256,
        help="skip channels; 0 reads the last residual instead, as the student's flows do",
    )
    hidden_channels: Annotated[int, Field(ge=1)] = option(
        default=256, help="channels between the two output convolutions"
    )
    context: ContextSpec | None = option(
        default=None, help="a second stack over a longer past, which conditions this one"
    )

    @property
    def dilations(self) -> list[int]:
        return dilation_cycle(self.layers, self.dilation_cycle)

    @property
    def receptive_field(self) -> int:
        """Samples that one output sees at most; with a context this depends on its place in the
        context's block.
        """
        own = receptive_field(self.kernel_size, self.dilations)
        if self.context is None:
            return own
        columns = receptive_field(
            self.context.kernel_size, dilation_cycle(self.context.layers, self.context.layers)
        )
        # the first layer's gate takes the context this much earlier
        below = (self.kernel_size - 1) * sum(self.dilations[1:])
        return max(own, below + (columns + 1) * self.context.stride)

    def build(self, out_channels: int, condition_channels: int) -> Stack:
        return Stack(self, out_channels, condition_channels)


class Stack(nn.Module):
    """Gated layers, the sum of their skips, ReLU - 1x1 - ReLU - 1x1.

    van den Oord et al., 2016, fig. 4. arXiv:1609.03499
    """

    def __init__(self, spec: StackSpec, out_channels: int, condition_channels: int) -> None:
        super().__init__()
        self.spec = spec
        # whether the backward pass computes the gates again instead of keeping them
        self.checkpointing = False
        self.layers = nn.ModuleList(
            GatedLayer(
                spec.residual_channels,
                spec.gate_channels,
                spec.skip_channels,
                spec.kernel_size,
                d,
                last=i == spec.layers - 1,
            )
            for i, d in enumerate(spec.dilations)
        )
        self.projection = (
            nn.Conv1d(condition_channels, spec.layers * 2 * spec.gate_channels, 1, bias=False)
            if condition_channels
            else None
        )
        self.context = None if spec.context is None else spec.context.build(spec.residual_channels)
        self.context_projection = (
            None
            if spec.context is None
            else nn.Conv1d(
                spec.context.channels, spec.layers * 2 * spec.gate_channels, 1, bias=False
            )
        )
        self.hidden = nn.Conv1d(
            spec.skip_channels or spec.residual_channels, spec.hidden_channels, 1
        )
        self.out = nn.Conv1d(spec.hidden_channels, out_channels, 1)

    @property
    def receptive_field(self) -> int:
        return self.spec.receptive_field

    @property
    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (C, H, 1) and bias (C,) of the last 1x1."""
        return self.out.weight, cast("Tensor", self.out.bias)

    def project(self, condition: Condition | None) -> Condition | None:
        """All layers' projections at the rate of the condition's columns: (B, L * 2G, F).

        Done once an utterance.
        """
        return (
            None
            if self.projection is None or condition is None
            else condition.project(self.projection)
        )

    def forward(
        self, x: Tensor, projected: Condition | None = None, state: StackState | None = None
    ) -> Tensor:
        """x (B, R, T), projected from `project` -> (B, out_channels, T).

        A state, if given, is read and moved on in place.

        Without a state x is a whole clip, which takes `GatedLayers`, the fast way: it has first
        derivatives only. Layer by layer, as within `force_layerwise`, there are all. Compilers and
        exporters get the layers one by one.
        """
        if state is None and self._can_be_fused(projected):
            features = F.relu(self._fused(x, projected))
            return pointwise(self.out, F.relu(pointwise(self.hidden, features)))
        features = F.relu(self._chunk(x, projected, state or StackState()))
        return self.out(F.relu(self.hidden(features)))

    def _can_be_fused(self, projected: Condition | None) -> bool:
        return (
            not torch.compiler.is_compiling()
            and not _layerwise.get()
            and (projected is None or projected.offset == 0)
        )

    def _chunk(self, x: Tensor, projected: Condition | None, state: StackState) -> Tensor:
        """The layers' sum of skips (B, S, T), or the last residual, one layer after another."""
        pasts = state.pasts or [None] * len(self.layers)
        width, skip, residual = 2 * self.spec.gate_channels, None, x
        context = (
            None
            if self.context is None
            else self.context(x, state).project(self.context_projection)
        )
        for i, layer in enumerate(self.layers):
            local = None if projected is None else projected.channels(i * width, width)
            longer = None if context is None else context.channels(i * width, width)
            layered = layer(residual, local, pasts[i], state.time, longer)
            residual, pasts[i] = layered.residual, layered.past
            if layered.skip is not None:
                skip = layered.skip if skip is None else skip + layered.skip
        state.pasts, state.time = pasts, state.time + x.shape[-1]
        return residual if skip is None else skip

    def _fused(self, x: Tensor, projected: Condition | None) -> Tensor:
        """The same of a clip that begins with silence, all layers at once."""
        spec, device = self.spec, x.device.type
        filter_and_gate = (
            torch.tensor([-2.0, 1.0]).to(x).repeat_interleave(spec.gate_channels)[:, None]
        )
        layers = elements(self.layers, GatedLayer)
        biases = [cast("Tensor", layer.dilated.bias) for layer in layers]
        bias = torch.stack(biases)[..., None]  # (L, 2G, 1)
        conditions = [] if projected is None else [projected]
        if self.context is not None:
            conditions.append(self.context(x, StackState()).project(self.context_projection))
        columns = [c.features.unflatten(1, bias.shape[:2]) for c in conditions] or [
            torch.zeros_like(bias)[None]
        ]
        columns[0] = columns[0] + bias
        residuals, skips = (
            [getattr(layer, name) for layer in self.layers] for name in ("residual", "skip")
        )
        residuals, skips = (
            [m for m in residuals if m is not None],
            [m for m in skips if m is not None],
        )
        nothing = bias.new_zeros(0)
        weights = Weights(
            torch.stack([layer.dilated.weight for layer in layers]).permute(0, 3, 1, 2)
            * filter_and_gate,
            torch.stack([m.weight[..., 0] for m in residuals])
            if residuals
            else bias.new_zeros(0, spec.residual_channels, spec.gate_channels),
            torch.stack([m.bias for m in residuals])
            if residuals
            else bias.new_zeros(0, spec.residual_channels),
            torch.cat([m.weight[..., 0] for m in skips], 1) if skips else nothing,
            # one by one: the sum of a stack hands every bias the same gradient memory
            reduce(torch.add, [m.bias for m in skips]) if skips else nothing,
            tuple(features * filter_and_gate for features in columns),
        )
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        shape = Shape(
            spec.dilations, [c.repeat for c in conditions] or [1], dtype, self.checkpointing
        )
        return GatedLayers.apply(shape, x.to(bias.dtype), *weights.flat())

    def extra_repr(self) -> str:
        return f"receptive_field={self.receptive_field}"


class ContextStack(nn.Module):
    r"""The past at a lower rate: blocks of `stride` samples through one convolution, then a stack
    of its own.

    Column j is made of the blocks up to block j and conditions block j + 1, all of whose samples
    come after it: causal, and a column is computed once a block. The input may itself be delayed by
    a sample (a WaveNet's is), which this does not change.

    Reference: van den Oord et al., 2016, sec. 2.6. arXiv:1609.03499
    """

    def __init__(self, spec: ContextSpec, in_channels: int) -> None:
        super().__init__()
        self.stride = spec.stride
        self.blocks = nn.Conv1d(in_channels, spec.residual_channels, spec.stride, spec.stride)
        width = spec.residual_channels
        sizes = StackSpec(
            layers=spec.layers,
            dilation_cycle=spec.layers,
            kernel_size=spec.kernel_size,
            residual_channels=width,
            gate_channels=width,
            skip_channels=width,
            hidden_channels=width,
        )
        self.stack = sizes.build(spec.channels, 0)

    def forward(self, x: Tensor, state: StackState) -> Condition:
        """x (B, R, T) from sample `state.time` on -> the condition of its samples, (B, C, F).

        `state.context` is moved on in place.
        """
        if state.context is None:
            silence = x.new_zeros(x.shape[0], self.stack.out.out_channels, 1)
            state.context = ContextState(x[..., :0], silence, StackState())
        context, origin = state.context, state.time // self.stride * self.stride
        samples = torch.cat([context.unfinished, x], -1)
        end = samples.shape[-1] // self.stride * self.stride  # of the last complete block
        columns = context.last
        if end:
            columns = torch.cat(
                [columns, self.stack(self.blocks(samples[..., :end]), None, context.stack)], -1
            )
        context.unfinished, context.last = samples[..., end:], columns[..., -1:]
        return Condition(columns, self.stride, origin)
