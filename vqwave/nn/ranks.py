"""What the processes of one training agree on. Asked at call time: a process group may come up after a module is built."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over all processes; every process must call. x itself where there is one."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def gather_over_ranks(x: Tensor) -> Tensor:
    """x (N, ...) of all processes, (world * N, ...); N must be the same on each."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `values` where `mask` holds, over the valid elements of *all* ranks.

    A rank divides by the mean count of valid elements a rank, so that the average over ranks (what DDP takes of the
    gradients) is the mean over the global batch, however the padding is spread.
    """
    if mask is None:
        return values.mean()
    count = sum_over_ranks(mask.sum().to(values.dtype)).clamp(min=1.0) / world_size()
    return torch.where(mask, values, 0.0).sum() / count


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather_objects(item: T) -> list[T]:
    """What each process gives, in their order; every process must call. For lists and dictionaries, once at the start of a run."""
    found: list[T] = [item] * world_size()
    if world_size() > 1:
        dist.all_gather_object(found, item)
    return found
