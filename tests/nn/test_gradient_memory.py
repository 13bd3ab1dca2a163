"""Gradients do not share memory: clipping and accumulation change them in place."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from vqwave.nn.wavenet import ContextSpec, Stack, StackSpec

SMALL = {"layers": 4, "cycle": 2, "residual": 3, "gate": 4, "hidden": 5}
STACKS = {
    "skips": StackSpec(**SMALL, skip=6),
    "no skips": StackSpec(**SMALL, skip=0),
    "context": StackSpec(**SMALL, skip=6, context=ContextSpec(stride=4, layers=2, residual=3, channels=3)),
}


def spans(stack: Stack) -> list[tuple[int, int, str]]:
    """(first byte, last byte + 1, name) of every gradient, by address."""
    found = []
    for name, p in stack.named_parameters():
        if p.grad is None:
            continue
        extent = 1 + sum((n - 1) * s for n, s in zip(p.grad.shape, p.grad.stride(), strict=True))
        assert extent >= p.grad.numel(), f"{name}: elements of one gradient share memory"
        found.append((p.grad.data_ptr(), p.grad.data_ptr() + extent * p.grad.element_size(), name))
    return sorted(found)


@pytest.mark.parametrize("spec", STACKS.values(), ids=STACKS)
def test_no_two_gradients_of_a_stack_share_memory(spec: StackSpec) -> None:
    torch.manual_seed(0)
    stack = spec.build(2, 0)
    for _ in range(2):
        stack(torch.randn(3, spec.residual, 16)).square().sum().backward()
        placed = spans(stack)
        for (_, end, one), (start, _, other) in pairwise(placed):
            assert end <= start, f"{one} and {other}"
