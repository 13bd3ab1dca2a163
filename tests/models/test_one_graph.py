"""Models are one graph to `torch.compile`: nothing in their forward, such as a decorator that
checks shapes or a number read from a tensor, breaks it.

Evaluated: trained, codebooks take the real vectors of a batch, whose number is known to the data
alone, and `train.compile` compiles layer by layer.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from every_model import MODELS
from torch import Tensor, nn

KINDS = (
    "wavenet, mu-law",
    "wavenet, context",
    "wavenet, pitch taps",
    "vqvae, two levels",
    "vqvae, readout alone",
    "student, folded",
    "prior, books",
    "classifier",
)
Call = tuple[tuple[Any, ...], dict[str, Any]]


def forward(kind: str) -> tuple[nn.Module, Call]:
    """A model and what its loss gives to it."""
    torch.manual_seed(0)
    model, loss = MODELS[kind]()
    calls: list[Call] = []
    hook = model.eval().register_forward_pre_hook(
        lambda _, given, named: calls.append((given, named)), with_kwargs=True
    )
    loss()
    hook.remove()
    return model, calls[0]


def tensors(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [x for each in result.values() for x in tensors(each)]
    if isinstance(result, list | tuple):
        return [x for each in result for x in tensors(each)]
    return tensors(vars(result)) if hasattr(result, "__dict__") else []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_is_one_graph(kind: str) -> None:
    model, (given, named) = forward(kind)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        expected, found = tensors(model(*given, **named)), tensors(compiled(*given, **named))
    assert expected
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
