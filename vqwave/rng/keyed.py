"""Random numbers for the items of a training batch: each item has its own, on whichever process it
lies.

All processes seed torch's generator alike (the loop does, at each micro-step). A draw takes one
number from it, and an item's numbers depend on that one and on the item's place in the global batch
alone: one process or eight, a batch is dropped, jittered and noised alike. Each process must draw
as often as the others, for as many items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vqwave.distributed.collectives import rank

ODD = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: neighbouring places get seeds far apart


def _each(
    draw: Callable[..., Tensor], items: int, shape: tuple[int, ...], like: Tensor | torch.device
) -> Tensor:
    device, dtype = (like.device, like.dtype) if isinstance(like, Tensor) else (like, torch.float32)
    key = int(torch.randint(2**63 - 1, ()))
    first, numbers = rank() * items, torch.empty(items, *shape, device=device, dtype=dtype)
    generator = torch.Generator(device)
    for i, row in enumerate(numbers):
        generator.manual_seed((key + (first + i) * ODD) % 2**63)
        draw(shape, generator=generator, out=row)
    return numbers


def uniforms(items: int, *shape: int, like: Tensor | torch.device) -> Tensor:
    """(items, *shape) in [0, 1), of the device and type of `like` (float32 for a device)."""
    return _each(torch.rand, items, shape, like)


def normals(items: int, *shape: int, like: Tensor | torch.device) -> Tensor:
    """(items, *shape), standard normal, of the device and type of `like` (float32 for a device)."""
    return _each(torch.randn, items, shape, like)


def noisy(x: Tensor, most: float) -> Tensor:
    """x (B, ...) and Gaussian noise, of a standard deviation that each item draws between 0 and
    `most`.
    """
    if most == 0:
        return x
    level = uniforms(len(x), *(1,) * (x.ndim - 1), like=x) * most
    return x + level * normals(*x.shape, like=x)
