"""The student's pass over a second of audio: its kernels compared with torch, torch.compile,
onnxruntime, and the machine's floor.

The floor is arithmetic: multiply-adds of a sample over the multiply-adds that as many threads can
do out of registers, measured around each timing, so that a busy machine slows both; a share
is the median of 5 such pairs. bf16-dot has a floor of its own. The last column counts times torch's
eager pass, on as many threads. "paper" is Parallel WaveNet's size (flows of 10, 10, 10 and 30
layers, 64 channels, kernel 3), "small" has 4 flows of 10 layers, 32 channels, kernel 2; "folded" is
"paper" in blocks of 4; "squeeze-8" and "squeeze-16" have 4 flows of 8 layers, 64 channels, kernel
2, in staggered blocks of as many samples, "narrow-8" the same with 32 channels. Weights are random.

One thread is timed by processor time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from vqwave.bench.arguments import whole_number
from vqwave.bench.table import REPEATS, Row
from vqwave.decode.cpu.precision import missing
from vqwave.decode.plan import Precision
from vqwave.distributed.threads import limited_to
from vqwave.errors import UserInputError
from vqwave.export import DecoderGraph, open_session, run_session, trace
from vqwave.models.student import Student, StudentSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import StackSpec

RATE, HOP, CONDITION = 16000, 160, 64
PAPER = StudentSpec(
    flows=(10, 10, 10, 30),
    network=StackSpec(
        layers=10,
        kernel_size=3,
        residual_channels=64,
        gate_channels=64,
        skip_channels=0,
        hidden_channels=64,
    ),
    conditioner=ConditionerSpec(channels=CONDITION, categorical=()),
)
SMALL = StackSpec(
    layers=10,
    kernel_size=2,
    residual_channels=32,
    gate_channels=32,
    skip_channels=0,
    hidden_channels=32,
)


def squeezed(squeeze: Literal[8, 16], channels: int) -> StudentSpec:
    """Four flows of eight layers in staggered blocks."""
    network = replace(
        SMALL,
        layers=8,
        residual_channels=channels,
        gate_channels=channels,
        hidden_channels=channels,
    )
    changed = {"flows": (8, 8, 8, 8), "network": network, "squeeze": squeeze}
    return StudentSpec(**{**vars(PAPER), **changed, "stagger_blocks": True})


NETWORKS: dict[str, StudentSpec] = {
    "paper": PAPER,
    "small": StudentSpec(**{**vars(PAPER), "flows": (10, 10, 10, 10), "network": SMALL}),
    "folded": StudentSpec(**{**vars(PAPER), "squeeze": 4, "stagger_blocks": True}),
    "squeeze-8": squeezed(8, 64),
    "squeeze-16": squeezed(16, 64),
    "narrow-8": squeezed(8, 32),
}
EAGER = "torch"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--networks", nargs="+", choices=tuple(NETWORKS), default=["paper", "small", "squeeze-8"]
    )
    parser.add_argument("--threads", nargs="+", type=whole_number, default=[1, 2])
    parser.add_argument(
        "--samples",
        type=whole_number,
        default=RATE,
        help="of one pass, a multiple of 160 (default %(default)s)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile as well, whose first call takes a minute or more",
    )


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Raises UserInputError where numba is not installed, or for samples that are no multiple of
    the frame.
    """
    if importlib.util.find_spec("numba") is None:
        raise UserInputError(
            "numba is not installed, expected it for this suite: pip install 'vqwave[fast]'"
        )
    if arguments.samples < HOP or arguments.samples % HOP:
        raise UserInputError(f"--samples {arguments.samples}: expected a multiple of {HOP}")
    for name in arguments.networks:
        for threads in arguments.threads:
            yield from network_rows(name, threads, arguments.samples, compiled=arguments.compile)


def network_rows(name: str, threads: int, samples: int, *, compiled: bool) -> Iterator[Row]:
    torch.manual_seed(0)
    student = NETWORKS[name].build(RATE, {}, CONDITION, HOP).eval()
    eager = 0.0
    with torch.no_grad(), limited_to(threads), tempfile.TemporaryDirectory() as folder:
        for backend, work, kind in contestants(
            student, threads, samples, Path(folder), compiled=compiled
        ):
            speed, share = measure(work, samples, student.flows.macs_per_sample, kind, threads)
            eager = speed if backend == EAGER else eager
            yield Row(
                "student",
                name,
                backend,
                1,
                threads,
                speed,
                "samples/s",
                speed / RATE,
                share,
                speed / eager,
            )


Work = Callable[[], object]


def contestants(
    student: Student,
    threads: int,
    samples: int,
    folder: Path,
    *,
    compiled: bool,
) -> Iterator[tuple[str, Work, int]]:
    """Name, one pass, and the kind of instruction that its floor is made of; torch's eager pass
    comes first.
    """
    from vqwave.bench.machine import DOT, FLOAT32

    frames = torch.randn(1, CONDITION, samples // HOP)
    condition, z = student.condition(frames, {}), torch.randn(1, samples)

    def eager() -> Tensor:
        return student.transform(z, condition).x

    yield EAGER, eager, FLOAT32
    if compiled:
        yield "torch.compile", torch.compile(eager, dynamic=False), FLOAT32
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        graph = DecoderGraph(student, None, {}).eval()
        trace(graph, folder / "student.onnx", "student")
        session = open_session(folder / "student.onnx", threads)
        yield "onnxruntime", lambda: run_session(session, graph.names, (frames, z)), FLOAT32
    yield "numba float32", kernels(student, condition, samples, threads, "float32"), FLOAT32
    if missing("bf16-dot") is None:
        yield "numba bf16-dot", kernels(student, condition, samples, threads, "bf16-dot"), DOT


def kernels(
    student: Student,
    condition: Condition | None,
    samples: int,
    threads: int,
    weights: Precision,
) -> Work:
    """Decoding an utterance from its noise on, with weights that are packed already."""
    from vqwave.decode.cpu.flow.decoder import StudentDecoder
    from vqwave.decode.cpu.flow.plan import plan_flows

    plans = plan_flows(student, weights)

    def work() -> None:
        decoder = StudentDecoder(student, condition, torch.arange(1), threads=threads, plans=plans)
        for _ in decoder.sample(samples):
            pass

    return work


def measure(work: Work, samples: int, macs: float, kind: int, threads: int) -> tuple[float, float]:
    """Samples a second, and the share of the floor: medians, after a first run that does not
    count.
    """
    from vqwave.bench.machine import multiplies

    work()
    clock = time.process_time if threads == 1 else time.perf_counter
    speeds, shares = [], []
    for _ in range(REPEATS):
        before, start = multiplies(kind, threads, clock), clock()
        work()
        speeds.append(samples / (clock() - start))
        peak = (before + multiplies(kind, threads, clock)) / 2
        shares.append(speeds[-1] * macs / peak)
    return statistics.median(speeds), statistics.median(shares)
