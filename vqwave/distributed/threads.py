"""How many threads torch's products may take, and what they do with numbers too small to matter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """torch with so many threads, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_of_process(environment: Mapping[str, str] = os.environ) -> int:
    """OMP_NUM_THREADS, else an even share of this host's cores, at least one.

    `accelerate launch` sets that variable, to 1 where nobody did: under it only cores count.
    """
    asked = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdecimal() and int(asked) > 0 and "ACCELERATE_MIXED_PRECISION" not in environment:
        return int(asked)
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return max(1, count // int(environment.get("LOCAL_WORLD_SIZE", "1")))


def busy_cores(threads: int) -> str:
    """What to say before so many threads begin, where other processes keep the cores busy; else
    nothing. Threads that share a product wait for one of them that has no core.
    """
    cores, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if threads < 2 or load + threads <= 1.5 * cores:
        return ""
    return (
        f"note: the load is {load:.1f} on {cores} cores: one thread may be faster than {threads}"
        " (OMP_NUM_THREADS=1 in the environment)"
    )


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """float32 below 1.2e-38 counts as zero, and afterwards as before; nothing where the processor
    has no such mode.

    The gradients of saturated gates and of far mixture components are that small, and a processor
    takes a hundred times as long for each: the backward pass of a trained WaveNet falls to a fifth
    of its speed. The mode is the calling thread's; threads that torch starts later inherit it.
    A library may end it: onnxruntime does so as its first session begins, in the calling thread.
    """
    smallest = torch.tensor(torch.finfo(torch.float32).tiny, device="cpu")
    flushed = not (smallest / 2).item()
    if not flushed:
        torch.set_flush_denormal(True)
    try:
        yield
    finally:
        if not flushed:
            torch.set_flush_denormal(False)
