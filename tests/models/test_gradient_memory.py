"""No two gradients share memory: clipping and accumulation change them in place.

Autograd keeps a view as `.grad` where its layout is that of the parameter. The sum of a stack of
parameters, for one, gives each of them a view of the same row, which is then scaled once for each.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from every_model import MODELS, Built
from torch import nn


def shared(model: nn.Module) -> list[str]:
    """Names of gradients whose own elements share memory, and pairs of gradients that overlap."""
    spans, found = [], []
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        extent = 1 + sum(
            (n - 1) * stride for n, stride in zip(p.grad.shape, p.grad.stride(), strict=True)
        )
        found += [name] if extent < p.grad.numel() else []
        spans.append((p.grad.data_ptr(), p.grad.data_ptr() + extent * p.grad.element_size(), name))
    return found + [
        f"{a} and {b}" for (_, end, a), (start, _, b) in pairwise(sorted(spans)) if start < end
    ]


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_no_gradients_share_memory(build: Callable[[], Built]) -> None:
    """After one backward pass, and after a second one has been added to it."""
    torch.manual_seed(0)
    model, loss = build()
    model.train()
    for _ in range(3):  # the first steps of a codebook are others
        model.zero_grad()
        loss().backward()
        assert sum(p.grad is not None for p in model.parameters()) > 3
        assert shared(model) == []
        loss().backward()
        assert shared(model) == []


def test_what_shares_memory_is_named() -> None:
    model = nn.ParameterDict({name: nn.Parameter(torch.zeros(3)) for name in ("a", "b", "c")})
    (torch.stack([model["a"], model["b"]]).sum(0) * torch.arange(3.0)).sum().backward()
    model["c"].grad = torch.ones(1).expand(3)
    assert shared(model) == ["c", "a and b"]
