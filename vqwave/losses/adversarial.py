r"""The least-squares adversarial term, and the discriminator's own training next to the student's.

.. math:: L_{adv} = E (1 - D(g(z)))^2, \quad L_D = E (1 - D(y))^2 + E D(g(z))^2

Reference: Yamamoto et al., 2020 (Parallel WaveGAN), eq. 1 and 2. arXiv:1910.11480
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.distributed.collectives import masked_mean, sum_over_ranks, world_size
from vqwave.models.discriminator import Discriminator, DiscriminatorSpec


def adversarial_loss(score: Tensor, mask: Tensor | None = None) -> Tensor:
    """How far a student's samples are from passing for recordings. score, mask (B, T)."""
    return masked_mean((1 - score).square(), mask)


def discriminator_loss(real: Tensor, generated: Tensor, mask: Tensor | None = None) -> Tensor:
    """real, generated, mask (B, T): scores of recordings and of samples."""
    return masked_mean((1 - real).square() + generated.square(), mask)


@spec
class AdversarialSpec:
    """The last phase of a student (`losses.adversarial`; Parallel WaveGAN weighs it with 4)."""

    start: Annotated[int, Field(ge=0)] = option(
        default=0, help="step from which on there is a discriminator"
    )
    lr: Annotated[float, Field(ge=0)] = option(
        default=5e-5, help="learning rate of the discriminator's Adam"
    )
    clip: Annotated[float, Field(gt=0)] = option(default=1.0, help="largest norm of its gradient")
    discriminator: DiscriminatorSpec = option(default=DiscriminatorSpec(), help="sizes")

    def build(self) -> AdversarialTraining:
        return AdversarialTraining(self.discriminator.build(), self)


class AdversarialTraining:
    """A discriminator with an optimizer of its own.

    It moves once a micro-batch; every rank holds the same weights.

    `state` and `load_state` are all that an exact resume needs.
    """

    def __init__(self, discriminator: Discriminator, spec: AdversarialSpec) -> None:
        self.discriminator = discriminator
        self.start, self.clip = spec.start, spec.clip
        self.optimizer = torch.optim.Adam(discriminator.parameters(), spec.lr)

    def loss(self, x: Tensor, y: Tensor, mask: Tensor, step: int) -> Tensor:
        """The student's term for samples x against recordings y, all (B, T); the discriminator
        learns from both first.
        """
        if step < self.start:
            return x.new_zeros(())
        if torch.is_grad_enabled():
            self._learn(x.detach(), y, mask)
        return adversarial_loss(
            self.discriminator.requires_grad_(requires_grad=False)(x, mask), mask
        )

    def _learn(self, x: Tensor, y: Tensor, mask: Tensor) -> None:
        network = self.discriminator.requires_grad_()
        self.optimizer.zero_grad()
        discriminator_loss(network(y, mask), network(x, mask), mask).backward()
        for p in network.parameters():
            assert p.grad is not None
            p.grad = sum_over_ranks(p.grad) / world_size()
        torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Weights and moments, as flat tensors."""
        moments = self.optimizer.state_dict()["state"]
        return {
            f"network/{name}": value for name, value in self.discriminator.state_dict().items()
        } | {
            f"optimizer/{index}/{name}": value
            for index, values in moments.items()
            for name, value in values.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        weights = {
            name.removeprefix("network/"): value
            for name, value in state.items()
            if name.startswith("network/")
        }
        self.discriminator.load_state_dict(weights)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            part, _, rest = name.partition("/")
            if part == "optimizer":
                index, _, moment = rest.partition("/")
                moments.setdefault(int(index), {})[moment] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
