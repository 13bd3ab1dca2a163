"""What the processes of one training agree on.

Asked at call time: a process group may come up after a module is built.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from vqwave.errors import UserInputError

T = TypeVar("T")
LOST = re.compile(
    r"closed by peer|reset by peer|broken pipe|timed? ?out|gloo|nccl|socket|recvbytes|remote"
    r" process",
    re.IGNORECASE,
)
"""Message of a failed collective, whatever the back-end."""
ENDING = 5.0  # seconds that a process may take to die


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of x over all processes; every process must call. x itself where there is one."""
    if world_size() == 1:
        return x
    total = x.detach().clone()
    dist.all_reduce(total)
    return total


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of x over all processes; every process must call."""
    return sum_over_ranks(x) / world_size()


def largest_over_ranks(x: Tensor) -> Tensor:
    """The largest x of all processes; every process must call."""
    if world_size() == 1:
        return x
    maximum = x.detach().clone()
    dist.all_reduce(maximum, dist.ReduceOp.MAX)
    return maximum


def gather_over_ranks(x: Tensor) -> Tensor:
    """x (N, ...) of all processes, (world * N, ...); N must be the same on each."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `values` where `mask` holds, over the valid elements of *all* ranks.

    A rank divides by the mean count of valid elements a rank, so that the average over ranks (what
    DDP takes of the gradients) is the mean over the global batch, however the padding is spread.
    """
    if mask is None:
        return values.mean()
    count = sum_over_ranks(mask.sum().to(values.dtype)).clamp(min=1.0) / world_size()
    return torch.where(mask, values, 0.0).sum() / count


def moments_over_ranks(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count (1,), mean (C,) and sum of squares about that mean (C,) of the vectors x (N, C) of all
    ranks; all must call.

    weight (N,) is one where a vector counts and else zero; a rank may have none. In two passes:
    mean(x^2) - mean(x)^2 would lose its digits where a channel lies far from zero.
    """
    x, weight = x * weight[:, None], weight[:, None]
    count, total = sum_over_ranks(torch.cat([weight.sum().view(1), x.sum(0)])).split(
        [1, x.shape[1]]
    )
    mean = total / count.clamp(min=1.0)
    return count, mean, sum_over_ranks(((x - mean).square() * weight).sum(0))


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def gather_objects(item: T) -> list[T]:
    """What each process gives, in their order; every process must call.

    For lists and dictionaries, once at the start of a run.
    """
    items: list[T] = [item] * world_size()
    if world_size() > 1:
        dist.all_gather_object(items, item)
    return items


class Elsewhere(UserInputError):  # noqa: N818
    """Another process refused the input, and reports it."""


def by_main(work: Callable[[], T]) -> T:
    """What `work` yields on the main process, where alone it is done; every process must call.

    Small, plain results only.

    A UserInputError there is raised everywhere: on the others as `Elsewhere`.
    """
    if world_size() == 1:
        return work()
    message: list[tuple[T | None, str | None]] = [(None, None)]
    error: UserInputError | None = None
    if rank() == 0:
        try:
            message = [(work(), None)]
        except UserInputError as refusal:
            error, message = refusal, [(None, str(refusal))]
    dist.broadcast_object_list(message)
    if error is not None:
        raise error
    value, problem = message[0]
    if problem is not None:
        raise Elsewhere(problem)
    return cast("T", value)


def tensors_of_main(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The main process' tensors by name, on the CPU of every process; the others' are not looked
    at. All must call.
    """
    if world_size() == 1:
        return dict(tensors)
    shapes = by_main(
        lambda: {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
    )
    result = {}
    for name, (shape, dtype) in shapes.items():
        value = (
            tensors[name].to(device)
            if rank() == 0
            else torch.empty(shape, dtype=dtype, device=device)
        )
        dist.broadcast(value, 0)
        result[name] = value.cpu()
    return result


def lost(error: Exception) -> bool:
    """Whether an error is that of a collective: another process is gone, or does not answer."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and LOST.search(str(error)) is not None


class Peers:
    """Who the processes of this training are, to say which is gone when a collective fails.

    All must build it.
    """

    def __init__(self) -> None:
        self.all = gather_objects((socket.gethostname(), os.getpid()))

    def missing(self) -> str:
        """Which processes a failed collective missed, in words: those of this host that are gone,
        else those of others.
        """
        host, me = self.all[rank()][0], rank()
        here = [number for number, (where, _) in enumerate(self.all) if where == host]
        until = time.monotonic() + ENDING
        gone: list[int] = []
        # a killed process closes its connections before it is gone
        while not gone and time.monotonic() < until:
            time.sleep(0.05)
            gone = [number for number in here if not _alive(self.all[number][1])]
        if gone:
            return (
                f"lost {_ranks(gone)} of {len(self.all)} (pid"
                f" {', '.join(str(self.all[number][1]) for number in gone)} on {host})"
            )
        there = [number for number in range(len(self.all)) if number not in here]
        others = there or [number for number in here if number != me]
        where = sorted({self.all[number][0] for number in others})
        return f"no answer from {_ranks(others)} of {len(self.all)} (on {', '.join(where)})"

    def first_here(self) -> bool:
        """Whether this is the first of this host's processes that still run."""
        host = self.all[rank()][0]
        return not any(where == host and _alive(pid) for where, pid in self.all[: rank()])


def _ranks(numbers: list[int]) -> str:
    return f"rank{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _alive(pid: int) -> bool:
    """Whether a process of this host still runs: one that is dead, but not yet waited for, does
    not.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return not Path("/proc/self").exists()  # without /proc nobody can be said to be gone
