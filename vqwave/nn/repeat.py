"""Columns at a lower rate than what they go with: each is repeated."""

from __future__ import annotations

from torch import Tensor


def repeated(x: Tensor, times: int) -> Tensor:
    """x (..., F) -> (..., F times), each column so many times: `repeat_interleave`, in operations
    that ONNX has.
    """
    return x[..., None].expand(*[-1] * x.dim(), times).flatten(-2)
