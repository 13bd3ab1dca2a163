"""How the CUDA kernel cuts its work, so that what it has on the way fits into a multiprocessor's
shared memory.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch

from vqwave.decode.cuda.packing import Shape
from vqwave.decode.plan import HEAD_PLANS, Precision, PredictorPlan, unsupported_ends
from vqwave.models.wavenet import WaveNet

TILE = 16  # streams of a program: the least that a tensor core multiplies
WARPS = 8  # with 4 the kernel spills registers
BYTES = {"float32": 4, "bf16": 2, "bf16-dot": 2}
# 3: the next layer's weights arrive while this one computes; 2: each layer waits for its own; 1:
# each matrix
STAGES = (3, 2, 1)
HIDDEN = (32, 16)  # hidden channels at once
INTERPRETER_LIMIT = 227 * 1024


@dataclass(frozen=True)
class Tuning:
    """How the work is cut, for a kernel that is compiled for it."""

    # streams of a program; the bits of a stream are the same in every batch for one size of tile
    tile: int
    stages: int  # of the pipeline that brings weights
    hidden: int  # hidden channels that one turn of the output layers takes
    # of products of float32: tensor cores have none, and make one of three products in TF32
    precision: str
    interpreted: bool  # Triton's interpreter multiplies no bfloat16: there it is widened first


@dataclass(frozen=True)
class Task:
    """What a launch does."""

    forced: bool  # goes over given samples; else draws them
    keep: bool  # writes the head's parameters


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unsupported(wavenet: WaveNet) -> str | None:
    """Why the CUDA kernel cannot decode this network where it is, or None where it can."""
    parameter = next(wavenet.parameters())
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install 'vqwave[cuda]'"
    if parameter.device.type != "cuda" and not interpreted():
        return f"its parameters are on {parameter.device}, the kernel runs on a CUDA device"
    reason = unsupported_ends(wavenet)
    if reason is not None:
        return reason
    if wavenet.stack.context is not None:
        return "its context stack (network.context) has no CUDA kernel"
    if parameter.dtype == torch.float64:
        return "its parameters are float64, the kernel computes in float32"
    if parameter.device.type == "cuda" and torch.cuda.get_device_capability(parameter.device) < (
        8,
        0,
    ):
        return (
            "its device is older than compute capability 8.0, whose tensor cores the kernel needs"
        )
    head = HEAD_PLANS[type(wavenet.head)](wavenet.head)
    shape = Shape.of(wavenet.stack.spec, head, PredictorPlan.of(wavenet.predictor))
    limit = shared_limit(parameter.device)
    return None if tune(shape, "bf16", limit) else too_wide(shape, limit)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that one program can have."""
    if interpreted() or device.type != "cuda":
        return INTERPRETER_LIMIT
    properties = torch.cuda.get_device_properties(device)
    return properties.shared_memory_per_block_optin  # type: ignore[attr-defined]


def tune(shape: Shape, weights: Precision, limit: int, tile: int = TILE) -> Tuning | None:
    """The deepest pipeline whose buffers fit into `limit` bytes; None where not even one matrix
    fits.
    """
    for stages in STAGES:
        for hidden in HIDDEN:
            if shared(shape, weights, tile, stages, min(hidden, shape.hidden)) <= limit:
                return Tuning(
                    tile,
                    stages,
                    min(hidden, shape.hidden),
                    "tf32x3" if weights == "float32" else "tf32",
                    interpreted(),
                )
    return None


def too_wide(shape: Shape, limit: int) -> str:
    """The message where `tune` returns None."""
    return (
        f"residual {shape.residual}, gate {shape.gate} and skip {shape.skip} channels (as powers of"
        f" two) need more than the {limit // 1024} KB of shared memory that a program can have"
    )


def shared(shape: Shape, weights: Precision, tile: int, stages: int, hidden: int) -> int:
    """Bytes of shared memory that the kernel takes at most: one buffer less than there are stages,
    and the activations.
    """
    R, W, G, S = shape.residual, 2 * shape.gate, shape.gate, shape.skip
    taps = shape.kernel * R * W + G * R + G * S + tile * (W + (shape.kernel - 1) * R)
    layer = taps * BYTES[weights] + R * 4
    turn = hidden * (shape.read + shape.out) * BYTES[weights] + hidden * 4
    if stages == 1:
        layer = max(R * W, G * R, G * S) * BYTES[weights]
        turn = hidden * max(shape.read, shape.out) * BYTES[weights]
    buffers = max(stages - 1, 1)
    during_layer = 2 * tile * max(R, G) * BYTES[weights] + tile * W * 4 * (stages == 1)
    during_turn = tile * (shape.read + hidden) * BYTES[weights]
    drawing = tile * shape.out * 4
    return max(buffers * layer + during_layer, buffers * turn + during_turn, drawing)
