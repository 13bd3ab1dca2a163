"""Weights that are numbers: a network with a NaN would decode, encode and score without a word, and
say nothing that is true.
"""

from __future__ import annotations

from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from vqwave.errors import UserInputError

# module -> where its tensors lie, and how often each was written to, when all were finite
_finite: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], ...]] = WeakKeyDictionary()
AnyModule = TypeVar("AnyModule", bound=nn.Module)


@torch.no_grad()
def check_finite(module: AnyModule, what: object) -> AnyModule:
    """The module itself.

    Raises UserInputError, which begins with `what`, for a parameter or saved buffer with NaN or
    infinity.

    Every use of a model can ask: one norm over all of them costs some milliseconds, and none where
    nothing was written to them since.
    """
    tensors = [*module.parameters(), *module.buffers()]
    state = tuple((t.data_ptr(), -1 if t.is_inference() else t._version) for t in tensors)
    if _finite.get(module) == state and all(version >= 0 for _, version in state):
        return module
    if nn.utils.get_total_norm(
        [value for value in tensors if value.is_floating_point()]
    ).isfinite():
        _finite[module] = state
        return module
    for name, value in module.state_dict().items():
        if not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise UserInputError(
                f"{what}: {count} of {value.numel()} values of {name} are NaN or infinite, expected"
                " finite weights"
            )
    return module
