"""torch's defaults, whatever the caller has set for the whole process.

`torch.set_default_dtype` and `torch.set_default_device` change what `torch.zeros(3)` is everywhere.
The package computes with torch's own defaults: float32, on the CPU unless a device is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

CPU = torch.device("cpu")


@contextmanager
def own_defaults() -> Iterator[None]:
    """Within, new tensors are float32 and on the CPU; then all is as before. Also a decorator.

    The default device is one thread's, the default type the whole process': while this holds, other
    threads of a program that has set another see float32, too.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
    try:
        with nullcontext() if device == CPU else CPU:  # a device in force costs each call of torch
            yield
    finally:
        if dtype != torch.float32:
            torch.set_default_dtype(dtype)


@contextmanager
def inference() -> Iterator[None]:
    """`own_defaults`, without gradients. Also a decorator, of functions that are no generators."""
    with own_defaults(), torch.inference_mode():
        yield


def ordinary(x: torch.Tensor) -> torch.Tensor:
    """A copy of what was computed within `inference` that may take part in a training."""
    with torch.inference_mode(mode=False):
        return x.clone()
