"""The negative log-likelihood of recordings."""

from __future__ import annotations

from torch import Tensor

from vqwave.distributed.collectives import masked_mean
from vqwave.distributions import Distribution


def negative_log_likelihood(
    distribution: Distribution, x: Tensor, mask: Tensor | None = None
) -> Tensor:
    """-log p(x_t | x_{<t}), nats a sample, mean over the valid samples. x, mask (B, T)."""
    return masked_mean(-distribution.log_prob(x), mask)
