"""The decode plan: a WaveNet's weights in the one layout that a sample loop reads, from the first
to the last, once a sample.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.distributions import (
    Gaussian,
    LinearBins,
    LocationScale,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.models.wavenet import ClassInput, ScalarInput, WaveNet
from vqwave.nn.linear_prediction import LinearPredictor

WIDTH = 16  # all widths are padded with zeros to a multiple of this many channels
LINE = 64  # bytes: weights begin at a cache line
# bytes of a large page: as many small ones would be more than a core keeps addresses of
LARGE = 1 << 21
NEVER = -1e30  # logit of a class that exists only as padding
# of a unit, which lies between -1 and 1, and of the largest weight of an output, in whole numbers
STEPS = 127
ZERO = 128  # stands for a unit of 0: units are unsigned

CATEGORICAL, LOGISTIC, GAUSSIAN = 0, 1, 2
FAMILIES = {
    MuLaw: CATEGORICAL,
    LinearBins: CATEGORICAL,
    MixtureOfLogistics: LOGISTIC,
    Logistic: LOGISTIC,
    MixtureOfGaussians: GAUSSIAN,
    Gaussian: GAUSSIAN,
}

Floats = NDArray[np.float32]
# floats, bfloat16, units in whole numbers
Numbers = Floats | NDArray[np.uint16] | NDArray[np.uint8]
Precision = Literal["float32", "bf16", "bf16-dot", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class HeadPlan(NamedTuple):
    """What drawing needs to know of a head."""

    family: int  # CATEGORICAL, LOGISTIC or GAUSSIAN
    choices: int  # classes, or mixture components
    channels: int
    min_log_scale: float
    level: float  # grid that samples are rounded to, 0 for none


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

    For "int8" the matrices that hear units, residuals and skips, are whole numbers of 8 bits, an
    output's weights for four neighbouring inputs side by side, (inputs / 4, outputs, 4), two in a
    word; all others are bfloat16. Their sums are exact: y = scale sum_k w_k (u_k - 128) + bias, of
    which -128 sum_k w_k is what a sum begins with.
    """

    weights: Numbers  # flat
    # (0,), of the kind that products read activations in: bfloat16 for "bf16-dot" and "int8", else
    # float32
    operand: Numbers
    # (0,), of the kind that units are kept in: whole numbers for "int8", else operands
    units: Numbers
    heard: Floats  # (classes, R) embedding; or (inputs + 1, R): weights of scalar inputs, and bias
    residual_bias: Floats  # (L, R); of whole numbers, the bits of what their sums begin with
    residual_scale: Floats  # (L, 2, R) of whole numbers, scale and bias; else (0, 2, R)
    # (S,), summed over layers; of whole numbers, the bits of what their sums begin with
    skip_bias: Floats
    skip_scale: Floats  # (1, 2, S) of whole numbers, scale and bias; else (0, 2, S)
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
        """Packs a copy. Call `unsupported` first: this takes what it accepts.

        `widened` keeps weights that were rounded to bfloat16 in float32: the same products, quicker
        for many streams.
        """
        stack, spec = wavenet.stack, wavenet.stack.spec
        layers, whole = list(stack.layers), weights == "int8"
        gate, residual = padded(spec.gate_channels), padded(spec.residual_channels)
        matrices: list[Tensor | Whole] = []
        residuals = Sums(residual)
        for layer in layers:
            matrices.append(_matrix(_halves(layer.dilated.weight, spec.gate_channels)))
            if layer.residual is not None:
                matrices.append(
                    residuals.add(_matrix(layer.residual.weight), layer.residual.bias, whole=whole)
                )
            else:
                residuals.add(torch.zeros(gate, residual), torch.zeros(residual), whole=whole)
        skips = Sums(padded(spec.skip_channels))
        if spec.skip_channels:
            heard = torch.cat([_matrix(layer.skip.weight) for layer in layers])
            matrices.append(
                skips.add(
                    heard, torch.stack([layer.skip.bias for layer in layers]).sum(0), whole=whole
                )
            )
        out_weight, out_bias = wavenet.last_layer()
        matrices += [_matrix(stack.hidden.weight), _matrix(out_weight)]
        out_bias = _pad(out_bias, -1)
        if not wavenet.head.continuous:
            out_bias[wavenet.head.channels :] = NEVER
        operand = np.uint16 if weights in ("bf16-dot", "int8") else np.float32
        return Plan(
            weights=_pack(matrices, weights, widened),
            operand=np.zeros(0, operand),
            units=np.zeros(0, np.uint8 if whole else operand),
            heard=_array(_pad(_heard(wavenet), -1)),
            residual_bias=_array(torch.stack(residuals.begin)),
            residual_scale=residuals.scale,
            skip_bias=_array(torch.cat(skips.begin))
            if spec.skip_channels
            else np.zeros(0, np.float32),
            skip_scale=skips.scale,
            hidden_bias=_array(_pad(stack.hidden.bias, -1)),
            out_bias=_array(out_bias),
            projection=_array(_projections(wavenet, 2 * gate)),
            dilated_bias=_array(
                torch.stack([_halves(layer.dilated.bias, spec.gate_channels) for layer in layers])
            ),
            dilations=np.array(spec.dilations, np.int64),
            kernel=spec.kernel_size,
            head=_head(wavenet),
            predictor=PredictorPlan.of(wavenet.predictor),
        )


def unsupported(wavenet: WaveNet) -> str | None:
    """Why the plan cannot carry this network, or None where it can."""
    if type(wavenet.head) not in FAMILIES:
        return f"head {wavenet.head.kind!r} has no sampling kernel"
    if not isinstance(wavenet.input_embedding, ClassInput | ScalarInput):
        return f"input {type(wavenet.input_embedding).__name__} has no kernel"
    if wavenet.stack.context is not None:
        return "its context stack (network.context) has no kernel"
    parameter = next(wavenet.parameters())
    if parameter.device.type != "cpu":
        return f"its parameters are on {parameter.device}, the kernels run on the CPU"
    if parameter.dtype == torch.float64:
        return "its parameters are float64, the kernels compute in float32"
    return None


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


def _matrix(weight: Tensor) -> Tensor:
    """A convolution's weight (C', C, k) -> (k C, C'), oldest tap first, both widths padded."""
    return _pad(_pad(weight, 0), 1).permute(2, 1, 0).flatten(0, 1)


def _array(x: Tensor) -> Floats:
    """A copy at a cache line; bits of float32 stay as they are."""
    result = aligned(tuple(x.shape), np.float32)
    result.view(np.uint32)[...] = x.detach().float().cpu().contiguous().numpy().view(np.uint32)
    return result


class Whole(NamedTuple):
    """A matrix in whole numbers of 8 bits: numbers (inputs, outputs) times scale (outputs,)."""

    numbers: Tensor
    scale: Tensor

    @staticmethod
    def of(matrix: Tensor) -> Whole:
        scale = matrix.abs().amax(0).clamp(min=1e-30) / STEPS
        return Whole((matrix / scale).round().to(torch.int8), scale)


class Sums:
    """What the sums of some matrices begin with, and how they end."""

    def __init__(self, width: int) -> None:
        self.width, self.begin, self.ends = width, [], []

    def add(self, matrix: Tensor, bias: Tensor, *, whole: bool) -> Tensor | Whole:
        """The matrix as it is to be packed."""
        bias = _pad(bias, -1)
        if not whole:
            self.begin.append(bias)
            return matrix
        packed = Whole.of(matrix)
        begin = -ZERO * packed.numbers.long().sum(0)
        self.begin.append(begin.to(torch.int32).view(torch.float32))
        self.ends.append(torch.stack([packed.scale / STEPS, bias]))
        return packed

    @property
    def scale(self) -> Floats:
        return (
            _array(torch.stack(self.ends))
            if self.ends
            else np.zeros((0, 2, self.width), np.float32)
        )


def _pack(matrices: Iterable[Tensor | Whole], precision: Precision, widened: bool) -> Numbers:
    if precision == "float32":
        return _array(torch.cat([matrix.reshape(-1) for matrix in matrices]))
    if widened and precision == "bf16":
        return _array(torch.cat([matrix.to(torch.bfloat16).reshape(-1) for matrix in matrices]))
    flat = torch.cat([_words(matrix) for matrix in matrices])
    result = aligned(tuple(flat.shape), np.uint16)
    result[...] = flat.numpy().view(np.uint16)
    return result


def _words(matrix: Tensor | Whole) -> Tensor:
    """A matrix (inputs, outputs) as words of 16 bits, the weights of an output that are multiplied
    at once side by side.
    """
    together, numbers = (
        (4, matrix.numbers) if isinstance(matrix, Whole) else (2, matrix.to(torch.bfloat16))
    )
    return numbers.unflatten(0, (-1, together)).transpose(1, 2).reshape(-1).view(torch.int16)


def _heard(wavenet: WaveNet) -> Tensor:
    if isinstance(wavenet.input_embedding, ClassInput):
        return wavenet.input_embedding.embedding.weight
    conv = wavenet.input_embedding.conv
    return torch.cat([conv.weight[..., 0].T, conv.bias[None]])  # (inputs + 1, R)


def _projections(wavenet: WaveNet, width: int) -> Tensor:
    """(L, condition channels, 2G); no condition channels where the network hears none."""
    stack, spec = wavenet.stack, wavenet.stack.spec
    if stack.projection is None:
        return torch.zeros(spec.layers, 0, width)
    per_layer = stack.projection.weight[..., 0].unflatten(0, (spec.layers, 2 * spec.gate_channels))
    return torch.stack([_halves(weight, spec.gate_channels).T for weight in per_layer])


def _head(wavenet: WaveNet) -> HeadPlan:
    head = wavenet.head
    family = FAMILIES[type(head)]
    if not isinstance(head, LocationScale):
        return HeadPlan(family, head.channels, head.channels, 0.0, 0.0)
    level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
    return HeadPlan(family, head.components, head.channels, head.min_log_scale, level)
