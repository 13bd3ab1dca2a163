"""Weights that are numbers: a network with a NaN would decode, encode and score without a word, and
say nothing that is true.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from vqwave.errors import UserInputError
from vqwave.nn.tensor_state import PerState, tensors

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@torch.no_grad()
def check_finite(module: AnyModule, what: object) -> AnyModule:
    """The module itself.

    Raises UserInputError, which begins with `what`, for a parameter or saved buffer with NaN or
    infinity.

    Every use of a model can ask: one norm over all of them costs some milliseconds, and none where
    nothing was written to them since.
    """
    if _is_finite(module):
        return module
    for name, value in module.state_dict().items():
        if not value.isfinite().all():
            count = int((~value.isfinite()).sum())
            raise UserInputError(
                f"{what}: {count} of {value.numel()} values of {name} are NaN or infinite, expected"
                " finite weights"
            )
    return module


def _norm_is_finite(module: nn.Module) -> bool:
    values = [value for value in tensors(module) if value.is_floating_point()]
    return bool(nn.utils.get_total_norm(values).isfinite())


_is_finite: PerState[nn.Module, bool] = PerState(_norm_is_finite)
