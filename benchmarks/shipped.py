"""The speed of the shipped models on one core: each of them by processor time, as in the README,
and the decoders of `fsdd` with the reference loop, by the clock.

python benchmarks/shipped.py
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch

import vqwave
from vqwave.codes import CodeSequence
from vqwave.decode.sampling import Sampling

REPEATS = 5
LOOP = Sampling(backend="reference")
VOICES = {"fsdd": "theo", "fsdd-student": "theo", "speech": "26", "speech-student": "26"}


def speed(
    decode: Callable[[], torch.Tensor], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Samples a second, median of several calls after one that compiles."""
    decode()
    speeds = []
    for _ in range(REPEATS):
        start = clock()
        samples = len(decode())
        speeds.append(samples / (clock() - start))
    return statistics.median(speeds)


def shipped_speeds() -> None:
    """Two and ten seconds from codes by each shipped model, by processor time: other work matters
    less. The models take turns; a student's ratio is to the default decoder of its teacher.
    """
    for seconds in (2, 10):
        decoders = {name: decoder_of(name, seconds) for name in VOICES}
        times: dict[str, list[float]] = {name: [] for name in decoders}
        for turn in range(REPEATS + 1):
            for name, decode in decoders.items():
                start = time.process_time()
                decode()
                if turn:  # the first compiles
                    times[name].append(time.process_time() - start)
        medians = {name: statistics.median(each) for name, each in times.items()}
        for name, median in medians.items():
            teacher = medians[name.removesuffix("-student")]
            ratio = f", {teacher / median:.1f} x its teacher" if "student" in name else ""
            print(
                f"{name:16} {seconds:>3} s: {seconds / median:6.1f} x real time, processor"
                f" time{ratio}"
            )


def decoder_of(name: str, seconds: int) -> Callable[[], torch.Tensor]:
    """A decoding of so many seconds by a shipped model in its default settings."""
    model = vqwave.load(name)
    generator = torch.Generator().manual_seed(0)
    noise = 0.07 * torch.randn(seconds * model.sample_rate, generator=generator)
    codes = model.encode(noise.numpy(), model.sample_rate)
    return functools.partial(model.decode, codes, VOICES[name])


def main() -> None:
    torch.set_num_threads(1)
    shipped_speeds()
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
