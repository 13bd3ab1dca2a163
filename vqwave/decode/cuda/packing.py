"""What the CUDA kernel reads: the plan's weights in powers of two, filter next to gate, on
the device.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vqwave.decode.plan import (
    CATEGORICAL,
    NEVER,
    HeadPlan,
    Numbers,
    Plan,
    Precision,
    PredictorPlan,
)
from vqwave.models.wavenet import WaveNet
from vqwave.nn.wavenet import StackSpec

SMALLEST = 16  # a tensor core multiplies tiles of 16: no width is less
# tensor cores have no other bf16
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "bf16-dot": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """The sizes that a kernel is compiled for. Widths are powers of two; a stack without skips has
    skip = 0.
    """

    layers: int
    cycle: int  # layers after which the dilation starts again from 1
    kernel: int
    # slots of a ring per sample of dilation: a power of two, so that a slot is a mask away from the
    # time
    span: int
    residual: int
    gate: int
    skip: int
    read: int  # what the output layers read: the skips, or the last residual where there are none
    hidden: int
    out: int
    family: int  # of the head: CATEGORICAL, LOGISTIC or GAUSSIAN
    choices: int  # classes, or mixture components
    min_log_scale: float
    level: float  # grid that samples are rounded to, 0 for none
    order: int  # past samples of a linear predictor; 0 without one
    pitch_taps: int
    longest_lag: int  # of the residuals that they read

    @staticmethod
    def of(spec: StackSpec, head: HeadPlan, predictor: PredictorPlan) -> Shape:
        residual, skip = (
            power_of_two(spec.residual_channels),
            power_of_two(spec.skip_channels) if spec.skip_channels else 0,
        )
        return Shape(
            layers=spec.layers,
            cycle=min(spec.dilation_cycle, spec.layers),
            kernel=spec.kernel_size,
            span=1 << (spec.kernel_size - 1).bit_length(),
            residual=residual,
            gate=power_of_two(spec.gate_channels),
            skip=skip,
            read=skip or residual,
            hidden=power_of_two(spec.hidden_channels),
            out=power_of_two(head.channels),
            family=head.family,
            choices=head.choices,
            min_log_scale=float(head.min_log_scale),
            level=float(head.level),
            order=predictor.order,
            pitch_taps=predictor.pitch_taps,
            longest_lag=predictor.slots,
        )

    @property
    def slots(self) -> int:
        """Ring slots of a stream, all layers together."""
        return sum(self.span * 2 ** (layer % self.cycle) for layer in range(self.layers))

    @property
    def inputs(self) -> int:
        """Of the first layer, if it has scalars: x_{t-1}, and with a predictor e_{t-1}, the pitch
        taps and p_t.
        """
        return 3 + self.pitch_taps if self.order else 1

    @property
    def sample_slots(self) -> int:
        """Slots of a stream's ring of past samples: a power of two above the order, so that no slot
        is both read and written in a sample.
        """
        return power_of_two(self.order + 1, 2) if self.order else 0

    @property
    def residual_slots(self) -> int:
        """The same of its ring of residuals, for the longest lag."""
        return power_of_two(self.longest_lag + 1, 2) if self.order else 0

    @property
    def products(self) -> int:
        """Multiply-adds of one sample of one stream, padding included; as many weights are read for
        a sample of a tile.
        """
        layer = self.residual * 2 * self.gate * self.kernel + self.gate * (
            self.residual + self.skip
        )
        return self.layers * layer + self.read * self.hidden + self.hidden * self.out


class Weights(NamedTuple):
    """Matrices are (inputs, outputs) in the weights' type; biases and input weights are float32."""

    input_weights: Tensor  # (classes, R); or (inputs + 1, R): weights of scalar inputs, and bias
    dilated: Tensor  # (L, k, R, 2G), oldest tap first; filter and gate of a channel side by side
    residual: Tensor  # (L, G, R); zeros where a layer has none
    residual_bias: Tensor  # (L, R)
    skip: Tensor  # (L, G, S)
    skip_bias: Tensor  # (S or R,)
    hidden: Tensor  # (S or R, H)
    hidden_bias: Tensor  # (H,)
    out: Tensor  # (H, C)
    out_bias: Tensor  # (C,)
    projection: Tensor  # (condition channels, L 2G) float32, filter and gate side by side
    dilated_bias: Tensor  # (L 2G,)


def pack(wavenet: WaveNet, weights: Precision, device: torch.device) -> tuple[Weights, Shape]:
    """Packs a copy, by way of the plan that all back-ends share.

    Call `tuning.unsupported` first.
    """
    plan = Plan.of(copy.deepcopy(wavenet).cpu())
    shape = Shape.of(wavenet.stack.spec, plan.head, plan.predictor)
    matrices = {name: matrix.to(DTYPES[weights]) for name, matrix in _matrices(plan, shape).items()}
    vectors = {
        "input_weights": _wide(_tensor(plan.input_weights), -1),
        "residual_bias": _wide(_tensor(plan.residual_bias), -1),
        "skip_bias": _wide(_tensor(plan.skip_bias), -1) if shape.skip else torch.zeros(shape.read),
        "hidden_bias": _wide(_tensor(plan.hidden_bias), -1),
        "out_bias": _out_bias(plan, shape),
        "projection": _projection(plan),
        "dilated_bias": _side_by_side(_tensor(plan.dilated_bias)).flatten(),
    }
    on_device = {name: x.to(device).contiguous() for name, x in (matrices | vectors).items()}
    return Weights(**on_device), shape


def power_of_two(width: int, least: int = SMALLEST) -> int:
    """The least power of two, of at least `least`, that holds this many channels.

    >>> power_of_two(64), power_of_two(65), power_of_two(3)
    (64, 128, 16)
    """
    return max(least, 1 << (width - 1).bit_length())


def _matrices(plan: Plan, shape: Shape) -> dict[str, Tensor]:
    """The plan's weights, in its order of use, each widened."""
    L, k = shape.layers, shape.kernel
    R, G = plan.input_weights.shape[1], plan.dilated_bias.shape[1] // 2
    S, H, C = len(plan.skip_bias), len(plan.hidden_bias), len(plan.out_bias)
    flat = Flat(_tensor(plan.weights))
    dilated, residual = [], []
    for layer in range(L):
        dilated.append(_wide(_side_by_side(flat.take(k, R, 2 * G)), 1))
        last = layer == L - 1 and S > 0
        residual.append(torch.zeros(G, R) if last else flat.take(G, R))
    skip = flat.take(L, G, S) if S else torch.zeros(1, SMALLEST, SMALLEST)
    return {
        "dilated": torch.stack(dilated),
        "residual": _wide(_wide(torch.stack(residual), 1), 2),
        "skip": _wide(_wide(skip, 1), 2),
        "hidden": _wide(_wide(flat.take(S or R, H), 0), 1),
        "out": _wide(_wide(flat.take(H, C), 0), 1),
    }


class Flat:
    """The plan's weights, taken one array after another."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.at = numbers, 0

    def take(self, *shape: int) -> Tensor:
        first, self.at = self.at, self.at + math.prod(shape)
        return self.numbers[first : self.at].view(shape)


def _out_bias(plan: Plan, shape: Shape) -> Tensor:
    bias = torch.full((shape.out,), NEVER if plan.head.family == CATEGORICAL else 0.0)
    bias[: len(plan.out_bias)] = _tensor(plan.out_bias)
    return bias


def _projection(plan: Plan) -> Tensor:
    """(condition channels, L 2G), the channels padded with zeros to a multiple of 16, at least to
    16.
    """
    y = _side_by_side(_tensor(plan.projection)).transpose(0, 1).flatten(1)
    missing = -len(y) % SMALLEST if len(y) else SMALLEST
    return torch.cat([y, torch.zeros(missing, y.shape[1])])


def _tensor(x: Numbers) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def _wide(x: Tensor, axis: int) -> Tensor:
    """x with zeros after its channels, up to a power of two."""
    missing = power_of_two(x.shape[axis]) - x.shape[axis]
    shape = list(x.shape)
    shape[axis] = missing
    return torch.cat([x, x.new_zeros(shape)], axis) if missing else x


def _side_by_side(x: Tensor) -> Tensor:
    """(..., 2G), the filter's channels before the gate's -> f_0, g_0, f_1, g_1, ..., widened.

    The two numbers of a gate so end up in the registers of one thread.
    """
    halves = _wide(x.unflatten(-1, (2, -1)), -1)
    return halves.transpose(-1, -2).flatten(-2)
