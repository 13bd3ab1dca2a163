r"""Affine autoregressive flows over time, plain or squeezed: inverse (one pass from noise to audio)
or masked (one pass back).

One flow is :math:`x_t = z_t\, s_t + \mu_t`. In an inverse flow (IAF) s and mu depend on
:math:`z_{<t}`, in a masked flow (MAF) on :math:`x_{<t}`. Stacked flows that never reverse time keep
the form :math:`x_t = z_t\, s^{tot}_t + \mu^{tot}_t` with both totals functions of :math:`z_{<t}`
alone (each layer's past is a function of :math:`z_{<t}`), so that x_t given the past is one
logistic (or normal), whose density and entropy are known.

**Squeezed time.** A squeeze of n makes the n samples of a block the channels of one column:
location and log-scale of all n come out of one column, which depends on the blocks before it. The
network runs n times less often: a student several times cheaper a sample, with dilations n times
longer. The KL stays exact. Derivation: block b's totals are functions of the noise of earlier
blocks, hence of :math:`z_{<t}` for each t in b, and the scales are positive; so :math:`x_{<t}
\leftrightarrow z_{<t}` is one to one, dx / dz is triangular with the scales on its diagonal, and

.. math:: p_S(x_t | x_{<t}) = p_S(x_t | z_{<t}) = p_S(x_t | z_{block < b}) =
\mathrm{Logistic}(\mu^{tot}_t, s^{tot}_t)

The samples of a block are independent given earlier blocks' noise: the law of x_t needs nothing
from inside its block. Hence :math:`H(P_S) = E \sum_t (\ln s^{tot}_t + 2)`, and :math:`H(P_S, P_T) =
\sum_t E_{x_{<t}} [-\int p_S(x_t | x_{<t}) \ln p_T(x_t | x_{<t})\, dx_t]` is the same
one-dimensional integral a time step as without it. What it costs is not exactness but
reach: the teacher's x_t depends on its neighbour, the student's does not.

**Staggered blocks.** Only :math:`z_{<t}` entered above, not where blocks begin: blocks of
successive flows may begin at different samples (`offset`), and all of it still holds. The sample
that one flow does not depend on, another does.

References: van den Oord et al., 2018 (Parallel WaveNet), sec. 3. arXiv:1711.10433; Kingma et al.,
2016. arXiv:1606.04934; Papamakarios et al., 2017 (MAF), sec. 3. arXiv:1705.07057
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vqwave.nn.condition import Condition
from vqwave.nn.module_lists import elements, submodules
from vqwave.nn.wavenet import StackSpec, StackState


@dataclass(frozen=True)
class FlowCondition:
    """What flows are conditioned on: features at frame rate, and a harmonic source at block rate.

    source: (B, n, blocks), n samples a block, held for one block each: block b's is an input of the
    network where it makes the parameters of block b, so that it is known before its noise.
    """

    features: Condition | None = None
    source: Condition | None = None

    def squeezed(self, squeeze: int) -> Condition | None:
        """The features of blocks: a column covers `repeat / squeeze` of them.

        Blocks that begin at an offset take it that much early.
        """
        held = self.features
        if held is None:
            return None
        return Condition(held.features, max(1, held.repeat // squeeze), held.offset // squeeze)


SILENT = FlowCondition()


@dataclass(frozen=True)
class FlowOutput:
    """x = z * exp(log_scale) + location, each (B, T); log_scale.sum is the log-determinant of the
    Jacobian dx / dz.
    """

    x: Tensor
    location: Tensor
    log_scale: Tensor
    z: Tensor


@dataclass
class FlowState:
    """The state of a flow between chunks: the last complete block, the block that is not yet
    complete, and its stack's state.

    n samples a block: last (B, n), partial (B, < n), ready (B, 2, n) the location and log-scale of
    the block that is not yet complete, once they are known. Nothing follows a complete clip, whose
    stack (None) has no state.
    """

    last: Tensor | None = None
    partial: Tensor | None = None
    ready: Tensor | None = None
    stack: StackState | None = field(default_factory=StackState)


class AffineFlow(nn.Module):
    """One strictly causal affine flow whose location and log-scale come from a WaveNet stack
    without skips: an IAF.

    The log-scale is clamped from below at `MIN_LOG_SCALE` alone: a cap from above would silence the
    student. Chunks, where a state is given, may have any length.
    """

    MIN_LOG_SCALE = -7.0
    parallel_sampling = True
    """Whether z -> x takes one pass over a clip."""
    units: Tensor

    def __init__(
        self,
        network: StackSpec,
        condition_channels: int,
        initial_log_scale: float,
        *,
        squeeze: int = 1,
        offset: int = 0,
        location_scale: float = 1.0,
        source: bool = False,
    ) -> None:
        """Blocks of `squeeze` samples begin at samples `offset` + k `squeeze`; location_scale: what
        1 stands for in the network's locations; source: a harmonic source is a further input.
        """
        super().__init__()
        units = torch.tensor([location_scale, 1.0]).repeat_interleave(squeeze)
        self.register_buffer("units", units[:, None], persistent=False)
        self.squeeze, self.offset = squeeze, offset % squeeze
        self.input = nn.Conv1d(squeeze, network.residual_channels, 1)
        self.source = (
            nn.Conv1d(squeeze, network.residual_channels, 1, bias=False) if source else None
        )
        self.stack = network.build(2 * squeeze, condition_channels)
        with torch.no_grad():  # start near the identity, scaled
            self.stack.out.weight.mul_(0.1)
            self.stack.last_layer[1].copy_(
                torch.tensor([0.0, initial_log_scale]).repeat_interleave(squeeze)
            )

    def forward(
        self, z: Tensor, condition: FlowCondition = SILENT, state: FlowState | None = None
    ) -> FlowOutput:
        """z (B, T) -> x (B, T) in one pass; a state, if given, is read and moved on in place."""
        location, log_scale = self.parallel(z, condition, state)
        return FlowOutput(z * log_scale.exp() + location, location, log_scale, z)

    def inverse(
        self, x: Tensor, condition: FlowCondition = SILENT, state: FlowState | None = None
    ) -> FlowOutput:
        """x (B, T) -> z (B, T), one block after another: each block's location and scale need the z
        before it.
        """
        return self.sequential(x, condition, state, solve_for_z)

    def parallel(
        self, inputs: Tensor, condition: FlowCondition, state: FlowState | None
    ) -> tuple[Tensor, Tensor]:
        """Location and log-scale (B, T) of all samples of a chunk, of the side that they depend on
        (B, T): blocks depend on blocks before.
        """
        state = self._begin(FlowState(stack=None) if state is None else state, inputs)
        assert state.partial is not None
        assert state.last is not None
        first, end = state.partial.shape[-1], state.partial.shape[-1] + inputs.shape[-1]
        joined = torch.cat([state.partial, inputs], -1)
        touched = -(-end // self.squeeze)
        before = joined if state.ready is not None else torch.cat([state.last, joined], -1)
        wanted = touched - (state.ready is not None)
        blocks = [] if state.ready is None else [state.ready]
        if wanted:
            blocks.append(self._network(before[:, : wanted * self.squeeze], condition, state))
        known = torch.cat(blocks, -1)  # (B, 2, touched * squeeze)
        self._advance(state, joined, known[..., -self.squeeze :])
        location, log_scale = known[..., first:end].unbind(1)
        return location, log_scale

    def sequential(
        self,
        given: Tensor,
        condition: FlowCondition,
        state: FlowState | None,
        solve: Callable[[Tensor, Tensor, Tensor], FlowOutput],
    ) -> FlowOutput:
        """One block after another, where the input is a result of `solve(given, location,
        log_scale)`.
        """
        state, parts, start = self._begin(state, given), [], 0
        while start < given.shape[-1]:
            assert state.partial is not None
            assert state.last is not None
            if state.ready is None:
                state.ready = self._network(state.last, condition, state)
            first = state.partial.shape[-1]
            count = min(self.squeeze - first, given.shape[-1] - start)
            parts.append(
                solve(
                    given[:, start : start + count],
                    *state.ready[..., first : first + count].unbind(1),
                )
            )
            self._advance(
                state, torch.cat([state.partial, self.input_side(parts[-1])], -1), state.ready
            )
            start += count
        names = ("x", "location", "log_scale", "z")
        return FlowOutput(
            *(
                torch.cat([getattr(part, name) for part in parts], -1) if parts else given
                for name in names
            )
        )

    def input_side(self, flowed: FlowOutput) -> Tensor:
        """The side that locations and scales are functions of."""
        return flowed.z

    def _begin(self, state: FlowState | None, x: Tensor) -> FlowState:
        """Silence before the first sample: a block of it, and as much as blocks that begin at
        `offset` leave over.
        """
        state = FlowState() if state is None else state
        if state.last is None:
            state.last = x.new_zeros(len(x), self.squeeze)
            state.partial = x.new_zeros(len(x), -self.offset % self.squeeze)
        return state

    def _advance(self, state: FlowState, joined: Tensor, open_block: Tensor) -> None:
        """joined: the samples from the beginning of a block on; what is left of them stays for the
        next chunk.
        """
        end = joined.shape[-1] // self.squeeze * self.squeeze  # of the last complete block
        if end:
            state.last = joined[:, end - self.squeeze : end]
        state.partial = joined[:, end:]
        state.ready = open_block if state.partial.shape[-1] else None

    def _network(self, inputs: Tensor, condition: FlowCondition, state: FlowState) -> Tensor:
        """inputs (B, n C) -> location and log-scale of the blocks that follow each of them, (B, 2,
        n C).
        """
        blocks = inputs.unflatten(-1, (-1, self.squeeze)).transpose(1, 2)  # (B, n, C)
        projected = self.stack.project(condition.squeezed(self.squeeze))
        x = self.input(blocks)
        if self.source is not None and condition.source is not None:
            time = 0 if state.stack is None else state.stack.time
            x = x + self.source(condition.source.at(time, x.shape[-1]).to(x.dtype))
        out = self.stack(x, projected, state.stack) * self.units
        out = out if out.dtype == torch.float64 else out.float()
        location, log_scale = (
            out.unflatten(1, (2, self.squeeze)).transpose(2, 3).flatten(2).unbind(1)
        )
        return torch.stack([location, log_scale.clamp(min=self.MIN_LOG_SCALE)], 1)

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (2 C, H, 1) and bias (2 C,) of the last 1x1, with the units multiplied in."""
        weight, bias = self.stack.last_layer
        return weight * self.units[..., None], bias * self.units[:, 0]

    def extra_repr(self) -> str:
        return f"squeeze={self.squeeze}, offset={self.offset}"


class MaskedFlow(AffineFlow):
    """The same network read the other way, an MAF: location and scale depend on x, so that the
    density of audio takes one pass.

    Sampling goes one block after another, as in a WaveNet: one Gaussian masked flow of squeeze 1
    is a WaveNet with a Gaussian head. Papamakarios et al., 2017, sec. 3. arXiv:1705.07057
    """

    parallel_sampling = False

    def forward(
        self, z: Tensor, condition: FlowCondition = SILENT, state: FlowState | None = None
    ) -> FlowOutput:
        """z (B, T) -> x (B, T), one block after another."""
        return self.sequential(z, condition, state, solve_for_x)

    def inverse(
        self, x: Tensor, condition: FlowCondition = SILENT, state: FlowState | None = None
    ) -> FlowOutput:
        """x (B, T) -> z (B, T) in one pass."""
        location, log_scale = self.parallel(x, condition, state)
        return solve_for_z(x, location, log_scale)

    def input_side(self, flowed: FlowOutput) -> Tensor:
        return flowed.x


def solve_for_x(z: Tensor, location: Tensor, log_scale: Tensor) -> FlowOutput:
    return FlowOutput(z * log_scale.exp() + location, location, log_scale, z)


def solve_for_z(x: Tensor, location: Tensor, log_scale: Tensor) -> FlowOutput:
    return FlowOutput(x, location, log_scale, (x - location) * (-log_scale).exp())


class FlowStack(nn.Module):
    """Flows one after another; the totals follow mu <- mu s_i + mu_i, ln s <- ln s + ln s_i."""

    def __init__(
        self,
        flows: Sequence[StackSpec],
        condition_channels: int,
        initial_scale: float,
        *,
        squeeze: int = 1,
        stagger_blocks: bool = False,
        location_scale: float = 1.0,
        source: bool = False,
        flow: type[AffineFlow] = AffineFlow,
    ) -> None:
        """stagger_blocks: the blocks of successive flows begin at offsets spread evenly over a
        block; source: each flow has a harmonic source as a further input.
        """
        super().__init__()
        share, count = math.log(initial_scale) / len(flows), len(flows)
        spread = stagger_blocks and count <= squeeze
        offsets = [i * squeeze // count if spread else i * stagger_blocks for i in range(count)]
        self.flows = nn.ModuleList(
            flow(
                network,
                condition_channels,
                share,
                squeeze=squeeze,
                offset=offset,
                location_scale=location_scale,
                source=source,
            )
            for network, offset in zip(flows, offsets, strict=True)
        )

    @property
    def receptive_field(self) -> int:
        """Noise that one output depends on, at the most: from the first sample of the earliest
        block that it depends on, to itself.

        With a squeeze of 1 the fields of the flows add up, one more sample each for the strict
        shift.
        """
        flows = elements(self.flows, AffineFlow)
        period = flows[0].squeeze
        reach = 0
        for end in range(period):
            t = end
            for flow in reversed(flows):
                t = (
                    (t - flow.offset) // flow.squeeze - flow.stack.receptive_field
                ) * flow.squeeze + flow.offset
            reach = max(reach, end - t)
        return 1 + reach

    @property
    def macs_per_sample(self) -> float:
        """Multiply-adds of one sample: the weights of all convolutions at audio rate, shared by the
        samples of a block.
        """
        return sum(weights(flow) / flow.squeeze for flow in elements(self.flows, AffineFlow))

    def forward(
        self,
        z: Tensor,
        condition: FlowCondition = SILENT,
        states: Sequence[FlowState] | None = None,
    ) -> FlowOutput:
        """z (B, T) -> x and the totals of all flows, each (B, T)."""
        steps, x = [], z
        given: Sequence[FlowState | None] = states or [None] * len(self.flows)
        for flow, state in zip(self.flows, given, strict=True):
            steps.append(flow(x, condition, state))
            x = steps[-1].x
        return composed(steps)

    def inverse(
        self,
        x: Tensor,
        condition: FlowCondition = SILENT,
        states: Sequence[FlowState] | None = None,
    ) -> FlowOutput:
        """x (B, T) -> z and the totals of all flows, each (B, T): exact.

        Sequential in an IAF, one pass in an MAF.
        """
        steps, z = [], x
        given: Sequence[FlowState | None] = states or [None] * len(self.flows)
        flows = elements(self.flows, AffineFlow)
        for flow, state in zip(reversed(flows), reversed(given), strict=True):
            steps.append(flow.inverse(z, condition, state))
            z = steps[-1].z
        return composed(steps[::-1])


def composed(steps: Sequence[FlowOutput]) -> FlowOutput:
    """The totals of flows in the order from z to x."""
    location, log_scale = steps[0].location, steps[0].log_scale
    for step in steps[1:]:
        location = location * step.log_scale.exp() + step.location
        log_scale = log_scale + step.log_scale
    return FlowOutput(steps[-1].x, location, log_scale, steps[0].z)


def weights(flow: AffineFlow) -> int:
    """Weights that each column is multiplied with; the condition's projection runs at frame rate
    and is not among them.
    """
    convolutions = [m for m in submodules(flow, nn.Conv1d) if m is not flow.stack.projection]
    return sum(m.weight.numel() for m in convolutions)
