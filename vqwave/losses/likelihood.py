"""What a model pays for the recordings themselves."""

from __future__ import annotations

from torch import Tensor

from vqwave.distributions import Distribution
from vqwave.nn.ranks import masked_mean


def negative_log_likelihood(distribution: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """-log p(x_t | x_{<t}), nats a sample, mean over the valid samples. x, mask (B, T)."""
    return masked_mean(-distribution.log_prob(x), mask)
