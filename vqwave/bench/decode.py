"""Samples a second of each decoder, compared with the eager loop and with what the machine could do
at most.

A step of B streams must read the weights and multiply each of them B times, so that it takes at
least

    max(bytes of weights / bytes a second, B x weights / multiply-adds a second) .

Both rates are measured immediately before each timing, on the same threads, so that a busy machine
slows both: the share is the median of 5 such pairs. One stream reads the weights of most past taps
once in eight samples (`decode/cpu/wavenet/single_stream.py`), which the floor does not count. P is
a paper-sized network (30 layers of 64, skip 256, mu-law), S a small one (20 layers of 32), both
with random weights.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vqwave.bench import decode_cuda
from vqwave.bench.arguments import duration, whole_number
from vqwave.bench.table import REPEATS, Row
from vqwave.decode import reference
from vqwave.decode.cpu.precision import missing, named
from vqwave.decode.plan import PRECISIONS, Plan, Precision
from vqwave.distributed.threads import limited_to
from vqwave.distributions import MixtureOfLogistics, MuLaw
from vqwave.errors import UserInputError
from vqwave.models.wavenet import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import StackSpec

PEER = "r9y9"
NETWORKS: dict[str, tuple[MuLaw | MixtureOfLogistics, StackSpec]] = {
    "P": (
        MuLaw(),
        StackSpec(
            layers=30,
            dilation_cycle=10,
            kernel_size=2,
            residual_channels=64,
            gate_channels=64,
            skip_channels=256,
            hidden_channels=256,
        ),
    ),
    "S": (
        MuLaw(),
        StackSpec(
            layers=20,
            dilation_cycle=10,
            kernel_size=2,
            residual_channels=32,
            gate_channels=32,
            skip_channels=64,
            hidden_channels=64,
        ),
    ),
    PEER: (
        MixtureOfLogistics(components=10),
        StackSpec(
            layers=24,
            dilation_cycle=6,
            kernel_size=3,
            residual_channels=128,
            gate_channels=128,
            skip_channels=128,
            hidden_channels=128,
        ),
    ),
}
HOP, RATE, CONDITION = 256, 16000, 80


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=("P", "S"), default=["P", "S"])
    parser.add_argument(
        "--precisions",
        nargs="+",
        help="of the numba back-end (default: all that this processor has)",
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=whole_number,
        default=[1, 8, 32],
        help="streams (default %(default)s)",
    )
    parser.add_argument("--threads", nargs="+", type=whole_number, default=[1, 2])
    parser.add_argument(
        "--seconds",
        type=duration,
        default=0.5,
        help="of work behind each timing, about (default %(default)s)",
    )
    parser.add_argument(
        "--peer",
        type=Path,
        metavar="CHECKOUT",
        help="of r9y9/wavenet_vocoder: its loop and ours on its own shape",
    )


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Raises UserInputError where numba is not installed, or for a folder that is no such
    checkout.
    """
    try:
        import numba  # noqa: F401
    except ModuleNotFoundError:
        raise UserInputError(
            "numba is not installed, expected it for this suite: pip install 'vqwave[fast]'"
        ) from None
    if (
        arguments.peer is not None
        and not (arguments.peer / "wavenet_vocoder" / "wavenet.py").is_file()
    ):
        raise UserInputError(
            f"--peer {arguments.peer}: no wavenet_vocoder/wavenet.py, expected a checkout of"
            " r9y9/wavenet_vocoder"
        )
    precisions = [_computed(name) for name in arguments.precisions or ()] or known_precisions()
    yield from floors(arguments.threads)
    for name in arguments.networks:
        yield from network_rows(name, arguments, precisions, arguments.batches)
    if arguments.peer is not None:
        yield peer_row(arguments.peer, arguments.seconds)
        yield from network_rows(PEER, arguments, precisions, [1])


def _computed(name: str) -> Precision:
    """A precision by its name. Raises UserInputError where this processor cannot compute so."""
    precision = named(name)
    if precision is None:
        raise UserInputError(f"--precisions {name}: expected the name of one")
    if reason := missing(precision):
        raise UserInputError(f"--precisions {name}: {reason}")
    return precision


def known_precisions() -> list[Precision]:
    return [precision for precision in PRECISIONS if missing(precision) is None]


def floors(threads: list[int]) -> Iterator[Row]:
    """What the machine can do, by itself."""
    from vqwave.bench import machine

    kinds = {"float32": machine.FLOAT32, "bf16 dot": machine.DOT, "int8 dot": machine.QUADS}
    for count in threads:
        for name, kind in kinds.items():
            if machine.can(kind):
                value = statistics.median(machine.multiplies(kind, count) for _ in range(REPEATS))
                yield Row(
                    "decode", f"multiplying {name}", "machine", None, count, value / 1e9, "G/s"
                )
        for size in (1 << 19, 5 << 20):
            value = statistics.median(machine.bandwidth(size, count) for _ in range(REPEATS))
            yield Row(
                "decode", f"reading {size >> 10:,} KiB", "machine", None, count, value / 1e9, "GB/s"
            )


def network_rows(
    name: str, arguments: argparse.Namespace, precisions: list[Precision], batches: list[int]
) -> Iterator[Row]:
    net = network(name)
    eager = eager_speed(net, arguments.seconds)
    yield Row("decode", name, "reference", 1, 1, eager, "samples/s", eager / RATE, None, 1.0)
    for precision in precisions:
        for threads in arguments.threads:
            for streams in batches:
                speed, share = measure(net, streams, threads, precision, arguments.seconds)
                backend = f"numba {precision}"
                yield Row(
                    "decode",
                    name,
                    backend,
                    streams,
                    threads,
                    speed,
                    "samples/s",
                    speed / RATE,
                    share,
                    speed / eager,
                )
    yield from decode_cuda.rows(name, net, random_condition(net, 1, decode_cuda.SAMPLES), RATE)


def network(name: str) -> WaveNet:
    """With random weights."""
    torch.manual_seed(0)
    head, stack = NETWORKS[name]
    spec = WaveNetSpec(
        head=head, network=stack, conditioner=ConditionerSpec(channels=CONDITION, categorical=())
    )
    return spec.build(RATE, {}, frame_channels=CONDITION, hop=HOP).eval()


@torch.no_grad()
def random_condition(net: WaveNet, streams: int, samples: int) -> Condition | None:
    frames = torch.randn(
        streams, CONDITION, -(-samples // HOP), generator=torch.Generator().manual_seed(0)
    )
    return net.condition(frames, {})


def eager_speed(net: WaveNet, seconds: float) -> float:
    """Samples a second of the reference loop: one stream, one thread, ring buffers."""
    samples = max(50, int(400 * seconds))
    condition, speeds = random_condition(net, 1, samples), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        reference.sample_wavenet(net, condition, samples, streams=torch.arange(1))
        speeds.append(samples / (time.perf_counter() - start))
    return statistics.median(speeds)


def measure(
    net: WaveNet, streams: int, threads: int, precision: Precision, seconds: float
) -> tuple[float, float]:
    """Samples a second, summed over streams, and the share of the floor: medians."""
    from vqwave.decode.cpu.wavenet import decoder as wavenet_decoder

    speeds, shares, samples = [], [], 64
    decoder = wavenet_decoder.Decoder(
        net,
        random_condition(net, streams, HOP),
        torch.arange(streams),
        weights=precision,
        threads=threads,
    )
    # compile; let the policy of one stream settle; measure how many samples take that long
    for turn in range(-3, REPEATS):
        bound = floor(decoder.plan, streams, threads, precision)
        start = time.perf_counter()
        for _ in decoder.sample(samples):
            pass
        speed = streams * samples / (time.perf_counter() - start)
        if turn == -3:
            samples = 512
        if turn == -1:
            samples = max(64, math.ceil(seconds * speed / streams))
        if turn >= 0:
            speeds.append(speed)
            shares.append(speed / bound)
    return statistics.median(speeds), statistics.median(shares)


def floor(plan: Plan, streams: int, threads: int, precision: str) -> float:
    """Samples a second, summed over all streams, that this machine could draw at most just now."""
    from vqwave.bench import machine

    kind = machine.DOT if precision in ("bf16-dot", "int8") else machine.FLOAT32
    used = threads if streams == 1 else min(threads, streams)
    together = streams == 1 and threads > 1  # one stream's weights, shared among the threads
    read = (
        (1 if together else used)
        * plan.weights.nbytes
        / machine.bandwidth(plan.weights.nbytes, used, shared=together)
    )
    integers = of_units(plan) if precision == "int8" else 0
    # two integers are one word
    multiply = (plan.weights.size - integers // 2) / machine.multiplies(kind, used)
    if integers:
        multiply += integers / machine.multiplies(machine.QUADS, used)
    return streams / max(read, streams * multiply)


def of_units(plan: Plan) -> int:
    """Weights of residuals and skips."""
    layers, G, R, S = (
        len(plan.dilations),
        plan.dilated_bias.shape[1] // 2,
        plan.input_weights.shape[1],
        len(plan.skip_bias),
    )
    return (layers - (S > 0)) * G * R + layers * G * S


def peer_row(checkout: Path, seconds: float) -> Row:
    """r9y9's incremental_forward with its own default shape, without its upsampling network: the
    loop alone.
    """
    sys.path.insert(0, str(checkout))
    try:
        from wavenet_vocoder import WaveNet as Other  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(checkout))
    torch.manual_seed(0)
    shape = {
        "layers": 24,
        "stacks": 4,
        "residual_channels": 128,
        "gate_channels": 256,
        "skip_out_channels": 128,
    }
    net = Other(
        out_channels=30, kernel_size=3, cin_channels=CONDITION, scalar_input=True, **shape
    ).eval()
    net.make_generation_fast_()
    samples, speeds = max(50, int(200 * seconds)), []
    frames = torch.randn(1, CONDITION, samples)
    with torch.no_grad(), limited_to(1):
        for _ in range(REPEATS):
            start = time.perf_counter()
            net.incremental_forward(c=frames, T=samples)
            speeds.append(samples / (time.perf_counter() - start))
    speed = statistics.median(speeds)
    return Row("decode", PEER, "r9y9/wavenet_vocoder", 1, 1, speed, "samples/s", speed / RATE)
