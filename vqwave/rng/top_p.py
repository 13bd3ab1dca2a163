"""Top-p (nucleus) sampling: only the most probable classes that together hold a given mass."""

from __future__ import annotations

import torch
from torch import Tensor


def outside_nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """probabilities (B, K, ...) over dimension 1 -> which classes are cut, of the same shape.

    Those that are kept are the fewest, most probable classes that hold `mass`. Holtzman et al.,
    2020, sec. 3.1. arXiv:1904.09751
    """
    falling, order = probabilities.sort(1, descending=True)
    beyond = falling.cumsum(1) - falling >= mass  # what the classes before it hold is enough
    return torch.zeros_like(beyond).scatter(1, order, beyond)
