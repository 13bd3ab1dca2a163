"""The decode plan: a WaveNet's weights in the one layout that a sample loop reads, from the first
to the last, once a sample.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqwave.distributions import (
    Classes,
    Gaussian,
    Head,
    LinearBins,
    LocationScale,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.models.wavenet import ClassInput, ScalarInput, WaveNet
from vqwave.nn.linear_prediction import LinearPredictor
from vqwave.nn.wavenet import GatedLayer, Stack

WIDTH = 16  # all widths are padded with zeros to a multiple of this many channels
LINE = 64  # bytes: weights begin at a cache line
# bytes of a large page: as many small ones would be more than a core keeps addresses of
LARGE = 1 << 21
NEVER = -1e30  # logit of a class that exists only as padding
# of a unit, which lies between -1 and 1, and of the largest weight of an output, in integers
STEPS = 127
ZERO = 128  # stands for a unit of 0: units are unsigned

CATEGORICAL, LOGISTIC, GAUSSIAN = 0, 1, 2

Floats = NDArray[np.float32]
# floats, bfloat16, units in integers
Numbers = Floats | NDArray[np.uint16] | NDArray[np.uint8]
Precision = Literal["float32", "bf16", "bf16-dot", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class HeadPlan(NamedTuple):
    """A head's constants, as sampling needs them."""

    family: int  # CATEGORICAL, LOGISTIC or GAUSSIAN
    choices: int  # classes, or mixture components
    channels: int
    min_log_scale: float
    level: float  # grid that samples are rounded to, 0 for none

    @staticmethod
    def of_classes(head: Classes) -> HeadPlan:
        return HeadPlan(CATEGORICAL, head.channels, head.channels, 0.0, 0.0)

    @staticmethod
    def of_location_scale(head: LocationScale, family: int, level: float = 0.0) -> HeadPlan:
        return HeadPlan(family, head.components, head.channels, head.min_log_scale, level)

    @staticmethod
    def of_levels(head: MixtureOfLogistics) -> HeadPlan:
        return HeadPlan.of_location_scale(head, LOGISTIC, 2.0 / 2**head.sample_bits)


HEAD_PLANS: dict[type, Callable[[Any], HeadPlan]] = {
    MuLaw: HeadPlan.of_classes,
    LinearBins: HeadPlan.of_classes,
    MixtureOfLogistics: HeadPlan.of_levels,
    Logistic: partial(HeadPlan.of_location_scale, family=LOGISTIC),
    MixtureOfGaussians: partial(HeadPlan.of_location_scale, family=GAUSSIAN),
    Gaussian: partial(HeadPlan.of_location_scale, family=GAUSSIAN),
}
"""The heads that have sampling kernels."""


def class_weights(embedding: ClassInput) -> Tensor:
    return embedding.embedding.weight


def scalar_weights(embedding: ScalarInput) -> Tensor:
    conv = embedding.conv
    return torch.cat([conv.weight[..., 0].T, _bias(conv)[None]])  # (inputs + 1, R)


INPUT_WEIGHTS: dict[type, Callable[[Any], Tensor]] = {
    ClassInput: class_weights,
    ScalarInput: scalar_weights,
}
"""The inputs that have kernels: the weights, (classes, R), or of scalar inputs and the bias."""


class PredictorPlan(NamedTuple):
    """A linear predictor's sizes; all 0 for a network without one."""

    order: int  # P past samples
    pitch_taps: int
    slots: int  # residuals that are kept: one more than the longest lag

    @staticmethod
    def of(predictor: LinearPredictor | None) -> PredictorPlan:
        if predictor is None:
            return PredictorPlan(0, 0, 0)
        return PredictorPlan(predictor.order, predictor.pitch_taps, predictor.memory + 1)


class Plan(NamedTuple):
    """A WaveNet, ready to decode; a named tuple, since that is what numba passes to kernels.

    L layers, k taps, R residual, G gate, S skip (0 for a stack that reads its last residual), H
    hidden, C head channels, all padded to multiples of 16. A matrix is (inputs, outputs), so that
    the outputs of one input lie side by side; in bfloat16 the two weights of an output for two
    neighbouring inputs do, (inputs / 2, outputs, 2), as 16-bit words.

    `weights`, in the order of use: for each layer the dilated convolution (k R, 2G), oldest tap
    first, filter before gate, and the residual (G, R); then all layers' skips as one (L G, S),
    hidden (S or R, H), out (H, C). A stack with skips has no last residual.

    For "int8" the matrices whose inputs are units, residuals and skips, are integers of 8 bits, an
    output's weights for four neighbouring inputs side by side, (inputs / 4, outputs, 4), two in a
    word; all others are bfloat16. Their sums are exact: y = scale sum_k w_k (u_k - 128) + bias, of
    which -128 sum_k w_k is what a sum begins with.
    """

    weights: Numbers  # flat
    # (0,), of the kind that products read activations in: bfloat16 for "bf16-dot" and "int8", else
    # float32
    operand: Numbers
    # (0,), of the kind that units are kept in: integers for "int8", else operands
    units: Numbers
    # (classes, R) embedding; or (inputs + 1, R): weights of scalar inputs, and bias
    input_weights: Floats
    residual_bias: Floats  # (L, R); of integers, the bits of what their sums begin with
    residual_scale: Floats  # (L, 2, R) of integers, scale and bias; else (0, 2, R)
    # (S,), summed over layers; of integers, the bits of what their sums begin with
    skip_bias: Floats
    skip_scale: Floats  # (1, 2, S) of integers, scale and bias; else (0, 2, S)
    hidden_bias: Floats  # (H,)
    out_bias: Floats  # (C,)
    projection: Floats  # (L, condition channels, 2G), always float32
    dilated_bias: Floats  # (L, 2G)
    dilations: NDArray[np.int64]  # (L,)
    kernel: int
    head: HeadPlan
    predictor: PredictorPlan

    @staticmethod
    def of(wavenet: WaveNet, weights: Precision = "float32", *, widened: bool = False) -> Plan:
        """Packs a copy of what `unsupported` accepts.

        `widened` keeps weights that were rounded to bfloat16 in float32: the same products, quicker
        for many streams.
        """
        stack, spec = wavenet.stack, wavenet.stack.spec
        layers, quantized = gated_layers(stack), weights == "int8"
        gate, residual = padded(spec.gate_channels), padded(spec.residual_channels)
        matrices: list[Matrix] = []
        residuals = Sums(residual, quantized=quantized)
        for layer in layers:
            matrices.append(Matrix(_taps(_halves(layer.dilated.weight, spec.gate_channels))))
            if layer.residual is not None:
                matrices.append(residuals.add(_taps(layer.residual.weight), _bias(layer.residual)))
            else:
                residuals.add(torch.zeros(gate, residual), torch.zeros(residual))
        skips = Sums(padded(spec.skip_channels), quantized=quantized)
        if spec.skip_channels:
            convolutions = [layer.skip for layer in layers if layer.skip is not None]
            weight = torch.cat([_taps(conv.weight) for conv in convolutions])
            bias = torch.stack([_bias(conv) for conv in convolutions]).sum(0)
            matrices.append(skips.add(weight, bias))
        out_weight, out_bias = wavenet.last_layer()
        matrices += [Matrix(_taps(stack.hidden.weight)), Matrix(_taps(out_weight))]
        out_bias = _pad(out_bias, -1)
        if not wavenet.head.continuous:
            out_bias[wavenet.head.channels :] = NEVER
        words = weights in ("bf16-dot", "int8")
        operand: Numbers = np.zeros(0, np.uint16) if words else np.zeros(0, np.float32)
        return Plan(
            weights=_pack(matrices, weights, widened=widened),
            operand=operand,
            units=np.zeros(0, np.uint8) if quantized else operand,
            input_weights=_array(_pad(_input_weights(wavenet), -1)),
            residual_bias=_array(torch.stack(residuals.begin)),
            residual_scale=residuals.scale,
            skip_bias=_array(torch.cat(skips.begin))
            if spec.skip_channels
            else np.zeros(0, np.float32),
            skip_scale=skips.scale,
            hidden_bias=_array(_pad(_bias(stack.hidden), -1)),
            out_bias=_array(out_bias),
            projection=_array(_projections(wavenet, 2 * gate)),
            dilated_bias=_array(
                torch.stack([_halves(_bias(layer.dilated), spec.gate_channels) for layer in layers])
            ),
            dilations=np.array(spec.dilations, np.int64),
            kernel=spec.kernel_size,
            head=HEAD_PLANS[type(wavenet.head)](wavenet.head),
            predictor=PredictorPlan.of(wavenet.predictor),
        )


def unsupported(wavenet: WaveNet) -> str | None:
    """Why a plan cannot hold this network, or None where it can."""
    reason = unsupported_ends(wavenet)
    if reason is not None:
        return reason
    if wavenet.stack.context is not None:
        return "its context stack (network.context) has no kernel"
    parameter = next(wavenet.parameters())
    if parameter.device.type != "cpu":
        return f"its parameters are on {parameter.device}, the kernels run on the CPU"
    if parameter.dtype == torch.float64:
        return "its parameters are float64, the kernels compute in float32"
    return None


def unsupported_ends(wavenet: WaveNet) -> str | None:
    """Why no kernel has this network's head or its input, or None."""
    if type(wavenet.head) not in HEAD_PLANS:
        return f"head {wavenet.head.kind!r} has no sampling kernel"
    if type(wavenet.input_embedding) not in INPUT_WEIGHTS:
        return f"input {type(wavenet.input_embedding).__name__} has no kernel"
    return None


def gated_layers(stack: Stack) -> list[GatedLayer]:
    return cast("list[GatedLayer]", list(stack.layers))


def network_input(head: Head, x: Tensor) -> Tensor:
    """Waveforms -> what the network's input takes: class numbers, as floats, or amplitudes."""
    return x if head.continuous else cast(Classes, head).encode(x).float()


def waveform(head: Head, x: Tensor) -> Tensor:
    """The inverse of `network_input`, up to the classes' rounding."""
    return x if head.continuous else cast(Classes, head).decode(x.long()).float()


def padded(channels: int) -> int:
    """The multiple of 16 that holds this many channels.

    >>> padded(64), padded(65), padded(0)
    (64, 80, 0)
    """
    return -(-channels // WIDTH) * WIDTH


def aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray:
    """Zeros whose first byte begins a cache line; if they are many, a large page, where the system
    has those.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    large = size >= LARGE // 2 and hasattr(mmap, "MADV_HUGEPAGE")
    edge = LARGE if large else LINE
    if large:
        memory = mmap.mmap(-1, size + edge)
        memory.madvise(mmap.MADV_HUGEPAGE)
        raw = np.frombuffer(memory, np.uint8)
    else:
        raw = np.zeros(size + edge, np.uint8)
    start = -raw.ctypes.data % edge
    return raw[start : start + size].view(dtype).reshape(shape)


def _pad(x: Tensor, axis: int) -> Tensor:
    """A float32 copy of x with zeros after its channels, up to a multiple of 16."""
    shape = list(x.shape)
    shape[axis] = padded(shape[axis])
    result = torch.zeros(shape)
    result.narrow(axis, 0, x.shape[axis]).copy_(x.detach())
    return result


def _halves(x: Tensor, gate: int) -> Tensor:
    """Filter and gate (2G, ...), each padded on its own."""
    return torch.cat([_pad(x[:gate], 0), _pad(x[gate:], 0)])


def _taps(weight: Tensor) -> Tensor:
    """A convolution's weight (C', C, k) -> (k C, C'), oldest tap first, both widths padded."""
    return _pad(_pad(weight, 0), 1).permute(2, 1, 0).flatten(0, 1)


def _array(x: Tensor) -> Floats:
    """A copy at a cache line; bits of float32 stay as they are."""
    result = aligned(tuple(x.shape), np.float32)
    result.view(np.uint32)[...] = x.detach().float().cpu().contiguous().numpy().view(np.uint32)
    return result


class Matrix(NamedTuple):
    """A matrix (inputs, outputs) as it is to be packed."""

    numbers: Tensor  # float32, or int8
    group: int = 2  # neighbouring inputs whose weights of an output lie side by side

    def words(self) -> Tensor:
        """As words of 16 bits, the weights of an output that are multiplied at once side by
        side.
        """
        narrow = self.numbers if self.group == 4 else self.numbers.to(torch.bfloat16)
        grouped = narrow.unflatten(0, (-1, self.group)).transpose(1, 2)
        return grouped.reshape(-1).view(torch.int16)


class Sums:
    """What the sums of some matrices begin with, and how they end."""

    def __init__(self, width: int, *, quantized: bool) -> None:
        """quantized: whether the matrices become integers of 8 bits."""
        self.width, self.quantized = width, quantized
        self.begin: list[Tensor] = []
        self.ends: list[Tensor] = []

    def add(self, matrix: Tensor, bias: Tensor) -> Matrix:
        """The matrix as it is to be packed."""
        bias = _pad(bias, -1)
        if not self.quantized:
            self.begin.append(bias)
            return Matrix(matrix)
        scale = matrix.abs().amax(0).clamp(min=1e-30) / STEPS  # (outputs,)
        integers = (matrix / scale).round().to(torch.int8)
        begin = -ZERO * integers.long().sum(0)
        self.begin.append(begin.to(torch.int32).view(torch.float32))
        self.ends.append(torch.stack([scale / STEPS, bias]))
        return Matrix(integers, 4)

    @property
    def scale(self) -> Floats:
        return (
            _array(torch.stack(self.ends))
            if self.ends
            else np.zeros((0, 2, self.width), np.float32)
        )


def _pack(matrices: Iterable[Matrix], precision: Precision, *, widened: bool) -> Numbers:
    if precision == "float32":
        return _array(torch.cat([matrix.numbers.reshape(-1) for matrix in matrices]))
    if widened and precision == "bf16":
        rounded = [matrix.numbers.to(torch.bfloat16).reshape(-1) for matrix in matrices]
        return _array(torch.cat(rounded))
    flat = torch.cat([matrix.words() for matrix in matrices])
    result = aligned(tuple(flat.shape), np.uint16)
    result[...] = flat.numpy().view(np.uint16)
    return result


def _bias(conv: nn.Conv1d) -> Tensor:
    """Of a convolution that has one, as all here have."""
    return cast(Tensor, conv.bias)


def _input_weights(wavenet: WaveNet) -> Tensor:
    embedding = wavenet.input_embedding
    return INPUT_WEIGHTS[type(embedding)](embedding)


def _projections(wavenet: WaveNet, width: int) -> Tensor:
    """(L, condition channels, 2G); no condition channels where the network has none."""
    stack, spec = wavenet.stack, wavenet.stack.spec
    if stack.projection is None:
        return torch.zeros(spec.layers, 0, width)
    per_layer = stack.projection.weight[..., 0].unflatten(0, (spec.layers, 2 * spec.gate_channels))
    return torch.stack([_halves(weight, spec.gate_channels).T for weight in per_layer])
