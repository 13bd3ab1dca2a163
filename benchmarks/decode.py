"""How fast each decoder draws samples, and how far that is from what the machine could do.

    python benchmarks/decode.py [--networks P S] [--threads 1 2] [--seconds 1.0] [--json FILE]

A step of B streams must read every weight once and multiply it B times, so that it takes at least

    max(bytes of weights / bandwidth, B x weights / multiply-add rate) .

Both rates are measured by kernels of their own right beside each timing, on the same threads, so that a busy machine slows
both: `floor_share` is the median of 5 such pairs. P and S are the networks of docs/decoding.md, with random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
import torch

from vqwave.decode import numba_backend, reference
from vqwave.decode.arithmetic import Floats
from vqwave.decode.plan import Plan, Precision, aligned
from vqwave.decode.vector import LANES, add, broadcast, fused, load, total
from vqwave.distributions import MuLaw
from vqwave.models.wavenet import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import StackSpec

NETWORKS = {
    "P": StackSpec(layers=30, cycle=10, kernel=2, residual=64, gate=64, skip=256, hidden=256),
    "S": StackSpec(layers=20, cycle=10, kernel=2, residual=32, gate=32, skip=64, hidden=64),
}
HOP, RATE, REPEATS = 320, 16000, 5
PROBE = 0.05  # seconds that each measurement of a rate takes, about


@dataclass(frozen=True)
class Row:
    """One line of the table; see `vqwave bench`."""

    suite: str
    name: str
    backend: str
    batch: int
    threads: int
    value: float
    unit: str
    times_real_time: float
    floor_share: float | None
    reference_ratio: float | None


@numba.njit(nogil=True, boundscheck=False, error_model="numpy", _nrt=False)
def read_all(weights: Floats, times: int) -> float:
    """Add up all weights, `times` times over: nothing but loads."""
    a = b = c = d = broadcast(np.float32(0))
    for _ in range(times):
        for i in range(0, weights.size, 4 * LANES):
            a, b = add(a, load(weights, i)), add(b, load(weights, i + LANES))
            c, d = add(c, load(weights, i + 2 * LANES)), add(d, load(weights, i + 3 * LANES))
    return total(add(add(a, b), add(c, d)))


@numba.njit(nogil=True, boundscheck=False, error_model="numpy", _nrt=False)
def multiply_add(x: Floats, times: int) -> float:
    """Twelve chains of multiply-adds `times` times over: nothing but arithmetic, 192 of them a turn."""
    a = b = c = d = e = f = g = h = i = j = k = l = load(x, 0)  # noqa: E741
    m, n = load(x, LANES), load(x, 2 * LANES)
    for _ in range(times):
        a, b, c, d = fused(a, m, n), fused(b, m, n), fused(c, m, n), fused(d, m, n)
        e, f, g, h = fused(e, m, n), fused(f, m, n), fused(g, m, n), fused(h, m, n)
        i, j, k, l = fused(i, m, n), fused(j, m, n), fused(k, m, n), fused(l, m, n)  # noqa: E741
    sums = add(add(add(a, b), add(c, d)), add(add(add(e, f), add(g, h)), add(add(i, j), add(k, l))))
    return total(sums)


@dataclass(frozen=True)
class Machine:
    """What the threads that decode can do, all together."""

    bandwidth: float  # bytes a second, each thread reading all weights
    multiplies: float  # float32 multiply-adds a second

    @classmethod
    def measure(cls, plan: Plan, threads: int) -> Machine:
        size = plan.weights.nbytes // 4 // (4 * LANES) * 4 * LANES
        weights, x = aligned((size,), np.float32), np.full(3 * LANES, 0.5, np.float32)
        rounds, turns = max(1, int(PROBE * 9e10 / (4 * size))), int(PROBE * 5e10 / 192)
        read = together(lambda: read_all(weights, rounds), threads)
        multiplied = together(lambda: multiply_add(x, turns), threads)
        return cls(threads * rounds * 4 * size / read, threads * turns * 192 / multiplied)

    def floor(self, plan: Plan, streams: int, threads: int) -> float:
        """Samples a second, summed over all streams, that this machine could draw at most."""
        used = min(threads, streams)
        reading = used * plan.weights.nbytes / self.bandwidth
        return streams / max(reading, streams * plan.weights.size / self.multiplies)


def together(work: Callable[[], object], threads: int) -> float:
    """Seconds until every thread has done the work once."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: None, range(threads)))
        start = time.perf_counter()
        list(pool.map(lambda _: work(), range(threads)))
        return time.perf_counter() - start


def network(name: str) -> WaveNet:
    torch.manual_seed(0)
    spec = WaveNetSpec(head=MuLaw(), network=NETWORKS[name], conditioner=ConditionerSpec(channels=64, labels=()))
    return spec.build(RATE, {}, frame_channels=64, hop=HOP).eval()


def told(net: WaveNet, streams: int, samples: int) -> Condition:
    frames = torch.randn(streams, 64, -(-samples // HOP), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return net.condition(frames, {})


def eager_speed(net: WaveNet, seconds: float) -> float:
    """Samples a second of the reference loop with one stream on one thread."""
    torch.set_num_threads(1)
    samples = max(50, int(300 * seconds))
    condition, speeds = told(net, 1, samples), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        reference.sample_wavenet(net, condition, samples, streams=torch.arange(1))
        speeds.append(samples / (time.perf_counter() - start))
    return statistics.median(speeds)


def measure(name: str, streams: int, threads: int, weights: Precision, seconds: float, eager: float) -> Row:
    """Median of REPEATS, each with its own floor."""
    net, used = network(name), min(threads, streams)
    plan = Plan.of(net, weights)
    speeds, shares, samples = [], [], 64
    for turn in range(-2, REPEATS):  # the first turn compiles, the second finds how many samples take that long
        decoder = numba_backend.Decoder(net, told(net, streams, samples), torch.arange(streams), weights=weights, threads=threads)
        machine = Machine.measure(plan, used)
        start = time.perf_counter()
        for _ in decoder.draw(samples):
            pass
        speed = streams * samples / (time.perf_counter() - start)
        if turn == -1:
            samples = max(64, int(seconds * speed / streams))
        if turn >= 0:
            speeds.append(speed)
            shares.append(speed / machine.floor(plan, streams, used))
    value, share = statistics.median(speeds), statistics.median(shares)
    return Row("decode", name, f"numba {weights}", streams, threads, value, "samples/s", value / RATE, share, value / eager)


def rows(names: Iterable[str], threads: Iterable[int], seconds: float) -> Iterable[Row]:
    for name in names:
        eager = eager_speed(network(name), seconds)
        yield Row("decode", name, "reference", 1, 1, eager, "samples/s", eager / RATE, None, 1.0)
        for weights in ("float32", "bf16"):
            for count in threads:
                for streams in (1, 8, 32):
                    if streams >= count:
                        yield measure(name, streams, count, weights, seconds, eager)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=sorted(NETWORKS), default=sorted(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=1.0, help="of work behind each timing, about")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    arguments = parser.parse_args()
    measured = []
    print(f"{'network':8}{'back-end':16}{'batch':>6}{'threads':>8}{'samples/s':>11}{'x real':>8}{'of floor':>9}{'x eager':>9}")
    for row in rows(arguments.networks, arguments.threads, arguments.seconds):
        measured.append(row)
        share = "" if row.floor_share is None else f"{row.floor_share:.2f}"
        print(
            f"{row.name:8}{row.backend:16}{row.batch:6}{row.threads:8}{row.value:11.0f}"
            f"{row.times_real_time:8.2f}{share:>9}{row.reference_ratio:9.1f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in measured], indent=1) + "\n")


if __name__ == "__main__":
    main()
