"""Weights that are numbers: a network with a NaN would decode, encode and score without a word, and
say nothing that is true.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from vqwave.errors import UserInputError

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@torch.no_grad()
def check_finite(module: AnyModule, what: object) -> AnyModule:
    """The module itself.

    Raises UserInputError, which begins with `what`, for a parameter or saved buffer with NaN or
    infinity.

    One norm over all of them costs a millisecond, so that every use of a model can ask.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if nn.utils.get_total_norm(
        [value for value in tensors if value.is_floating_point()]
    ).isfinite():
        return module
    for name, value in module.state_dict().items():
        if not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise UserInputError(
                f"{what}: {count} of {value.numel()} values of {name} are NaN or infinite, expected"
                " finite weights"
            )
    return module
