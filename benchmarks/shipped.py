"""The shipped models' own speed: a second of `fsdd` from codes, by each decoder, with the
reference loop, on one core.

python benchmarks/shipped.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

import vqwave
from vqwave.codes import CodeSequence
from vqwave.decode.sampling import Sampling

REPEATS = 5
LOOP = Sampling(backend="reference")


def speed(decode: Callable[[], torch.Tensor]) -> float:
    """Samples a second, median of several calls after one that compiles."""
    decode()
    speeds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        samples = len(decode())
        speeds.append(samples / (time.perf_counter() - start))
    return statistics.median(speeds)


def main() -> None:
    torch.set_num_threads(1)
    teacher, student = vqwave.load("fsdd"), vqwave.load("fsdd-student")
    noise = 0.07 * torch.randn(teacher.sample_rate, generator=torch.Generator().manual_seed(0))
    second: CodeSequence = teacher.encode(noise.numpy(), teacher.sample_rate)
    short: CodeSequence = teacher.encode(noise[:1600].numpy(), teacher.sample_rate)
    ways = {
        "teacher, reference loop": lambda: teacher.decode(short, "theo", sampling=LOOP),
        "teacher, kernels": lambda: teacher.decode(second, "theo"),
        "student, torch": lambda: student.decode(second, "theo", sampling=LOOP),
        "student, kernels": lambda: student.decode(second, "theo"),
    }
    loop = None
    for name, decode in ways.items():
        result = speed(decode)
        loop = loop or result
        print(
            f"{name:24} {result:>9,.0f} samples/s {result / teacher.sample_rate:6.1f} x real time"
            f" {result / loop:6.0f} x the loop"
        )


if __name__ == "__main__":
    main()
