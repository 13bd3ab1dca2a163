"""The student's plan: the weights of all its flows in the layout that its kernels read."""

from __future__ import annotations

from typing import NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqwave.decode.plan import WIDTH, Floats, Precision, aligned, gated_layers, padded
from vqwave.models.student import Student
from vqwave.nn.flows import AffineFlow
from vqwave.nn.tensor_state import PerState

Matrix = NDArray[np.float32] | NDArray[np.uint16]  # the latter are bfloat16


PANEL = 64  # outputs of a panel: with all their taps, half of a first-level cache at 64 channels


class FlowPlan(NamedTuple):
    """One flow; a named tuple, since that is what numba passes to kernels.

    L layers, k taps, R residual, G gate, H hidden, all padded to multiples of 16; n samples a
    block, W = 2n padded likewise. A matrix is (inputs, outputs), or of bfloat16 (inputs / 2,
    outputs, 2); filters and gates take turns, 16 of each.
    """

    # (L, panels, k, R, PANEL) flat, oldest tap first: outputs in panels, the last of which may be
    # narrower
    dilated: Matrix
    residual: Matrix  # flat (L, G, R)
    hidden: Matrix  # flat (R, H)
    input_weights: Floats  # flat (inputs, R)
    out: Floats  # flat (H, W): the n locations of a block, then its n log-scales
    projection: Floats  # (condition channels, L 2G)
    dilated_bias: Floats  # (L 2G,)
    residual_bias: Floats  # (L, R)
    hidden_bias: Floats  # (H,)
    input_bias: Floats  # (R,)
    out_bias: Floats  # (W,)
    dilations: NDArray[np.int64]  # (L,)
    kernel: int
    gate: int  # G
    squeeze: int  # n
    inputs: int  # n, or 2n with a harmonic source
    offset: int  # samples at which blocks begin
    floor: float  # of the log-scale

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """R, G, H and W."""
        return len(self.input_bias), self.gate, len(self.hidden_bias), len(self.out_bias)


def plan_flows(student: Student, weights: Precision = "float32") -> list[FlowPlan]:
    """A packed copy of each flow, kept until the student's weights change.

    bf16: weights are rounded, and kept as float32; bf16-dot: weights and activations are.

    int8 is a WaveNet's alone: a student takes bf16-dot for it.
    """
    return _plans[weights](student)


def _planned(weights: Precision) -> PerState[Student, list[FlowPlan]]:
    return PerState(lambda student: [_plan(flow, weights) for flow in affine_flows(student)])


_plans = {weights: _planned(weights) for weights in get_args(Precision)}


def affine_flows(student: Student) -> list[AffineFlow]:
    return cast("list[AffineFlow]", list(student.flows.flows))


def unsupported_student(student: Student) -> str | None:
    """Why the kernels cannot decode this student, or None where they can."""
    flows = affine_flows(student)
    if any(type(flow) is not AffineFlow for flow in flows):
        return "a masked flow (flow_type maf) decodes one block after another, which has no kernel"
    if any(flow.stack.context is not None for flow in flows):
        return "its context stack (network.context) has no kernel"
    if any(flow.stack.spec.skip_channels for flow in flows):
        return "a flow with skips has no kernel"
    parameter = next(student.parameters())
    if parameter.device.type != "cpu":
        return f"its parameters are on {parameter.device}, the kernels run on the CPU"
    if parameter.dtype == torch.float64:
        return "its parameters are float64, the kernels compute in float32"
    return None


@torch.no_grad()
def _plan(flow: AffineFlow, weights: Precision) -> FlowPlan:
    stack, spec = flow.stack, flow.stack.spec
    layers = gated_layers(stack)
    residuals = [layer.residual for layer in layers if layer.residual is not None]
    out_weight, out_bias = flow.last_layer()
    entering = _inputs(flow)

    def matrix(parts: list[Tensor]) -> Matrix:
        return _pack(parts, weights)

    return FlowPlan(
        dilated=matrix(
            [
                panel
                for layer in layers
                for panel in _panels(_taps(_interleaved(layer.dilated.weight, spec.gate_channels)))
            ]
        ),
        residual=matrix([_taps(_pad(residual.weight, 0)) for residual in residuals]),
        hidden=matrix([_taps(_pad(stack.hidden.weight, 0))]),
        input_weights=_floats(entering).reshape(-1),
        out=_floats(_taps(_pad(out_weight, 0))).reshape(-1),
        projection=_floats(_projection(flow)),
        dilated_bias=_floats(
            torch.cat([_interleaved(_bias(layer.dilated), spec.gate_channels) for layer in layers])
        ),
        residual_bias=_floats(torch.stack([_pad(_bias(residual), 0) for residual in residuals])),
        hidden_bias=_floats(_pad(_bias(stack.hidden), 0)),
        input_bias=_floats(_pad(_bias(flow.input), 0)),
        out_bias=_floats(_pad(out_bias, 0)),
        dilations=np.array(spec.dilations, np.int64),
        kernel=spec.kernel_size,
        gate=padded(spec.gate_channels),
        squeeze=flow.squeeze,
        inputs=len(entering),
        offset=flow.offset,
        floor=flow.MIN_LOG_SCALE,
    )


def _pad(x: Tensor, axis: int) -> Tensor:
    """A float32 copy with zeros after the channels on `axis`, up to a multiple of 16."""
    shape = list(x.shape)
    shape[axis] = padded(shape[axis])
    result = torch.zeros(shape)
    result.narrow(axis, 0, x.shape[axis]).copy_(x)
    return result


def _interleaved(x: Tensor, gate: int) -> Tensor:
    """Filters and gates (2G, ...) -> 16 filters, 16 gates, 16 filters, ..., each padded on its
    own.
    """
    halves = [_pad(half, 0).unflatten(0, (-1, WIDTH)) for half in (x[:gate], x[gate:])]
    return torch.stack(halves, 1).flatten(0, 2)


def _taps(weight: Tensor) -> Tensor:
    """A convolution's weight (C', C, k) -> (k C, C'), oldest tap first, with padded inputs."""
    return _pad(weight, 1).permute(2, 1, 0).flatten(0, 1)


def _panels(matrix: Tensor) -> list[Tensor]:
    """(inputs, outputs) -> (inputs, PANEL) each, the last of which may be narrower.

    A panel is read again and again, and rows of one that lie side by side fill the cache evenly.
    """
    return list(matrix.split(PANEL, 1))


def _projection(flow: AffineFlow) -> Tensor:
    """(condition channels, L 2G); no condition channels where the flow has none."""
    stack, spec = flow.stack, flow.stack.spec
    if stack.projection is None:
        return torch.zeros(0, spec.layers * 2 * padded(spec.gate_channels))
    per_layer = stack.projection.weight[..., 0].unflatten(0, (spec.layers, 2 * spec.gate_channels))
    return torch.cat([_interleaved(weight, spec.gate_channels) for weight in per_layer]).T


def _inputs(flow: AffineFlow) -> Tensor:
    """(n, R): what a block is multiplied with, and after it, (n, R), a block of the source."""
    layers = [flow.input] if flow.source is None else [flow.input, flow.source]
    return torch.cat([_pad(layer.weight, 0)[..., 0].T for layer in layers])


def _bias(conv: nn.Conv1d) -> Tensor:
    """Of a convolution that has one, as all here have."""
    return cast(Tensor, conv.bias)


def _floats(x: Tensor) -> Floats:
    result = aligned(tuple(x.shape), np.float32)
    result[...] = x.numpy()
    return result


def _pack(matrices: list[Tensor], weights: Precision) -> Matrix:
    """Matrices (inputs, outputs), flat one after another, in the precision asked for."""
    if weights == "float32":
        return _floats(_flat(matrices))
    rounded = [matrix.to(torch.bfloat16) for matrix in matrices]
    if weights == "bf16":
        return _floats(_flat(rounded).float())
    # (inputs / 2, outputs, 2)
    words = _flat([matrix.unflatten(0, (-1, 2)).transpose(1, 2) for matrix in rounded])
    result = aligned((words.numel(),), np.uint16)
    result[...] = words.view(torch.int16).numpy().view(np.uint16)
    return result


def _flat(matrices: list[Tensor]) -> Tensor:
    return torch.cat([matrix.flatten() for matrix in matrices])
