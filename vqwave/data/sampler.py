"""Which segments make up micro-batch t: a pure function of (seed, t), so that a run resumes at no
cost.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from vqwave.errors import UserInputError


def counter_key(*parts: int | str) -> int:
    """A number in [0, 2^63) from `parts` alone, to seed or draw with: the same on every machine, in
    every process.
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (position, segment) without end, from micro-step `start_step` on; a `DataLoader`'s
    `batch_sampler`.

    Position p counts all crops ever drawn; its segment is place p % length in the permutation of
    epoch p // length, which depends on (seed, epoch) alone. `batch` is the global micro-batch:
    micro-step t takes the positions [t * batch, (t + 1) * batch), and rank r of `world` the r-th
    part of them, so that any number of processes sees the same global batches. To resume is to
    start at another step.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
    ) -> None:
        if length <= 0:
            raise UserInputError(f"a sampler over {length} segments, expected at least one")
        if batch <= 0 or batch % world:
            raise UserInputError(
                f"a batch of {batch} over {world} processes, expected a multiple of {world}"
            )
        self.length = length
        self.batch = batch
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start_step = start_step

    def permutation(self, epoch: int) -> torch.Tensor:
        """The order (length,) of the segments in an epoch."""
        generator = torch.Generator().manual_seed(counter_key("order", self.seed, epoch))
        return torch.randperm(self.length, generator=generator)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch // self.world
        step, epoch, order = self.start_step, -1, torch.empty(0)
        while True:
            first = step * self.batch + self.rank * share
            pairs = []
            for position in range(first, first + share):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = self.permutation(epoch)
                pairs.append((position, int(order[position % self.length])))
            yield pairs
            step += 1
