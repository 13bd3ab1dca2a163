"""Gradients through a quantizer: each returns the code q, bit for bit, and defines the gradient
that reaches the latents z.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

Estimator = Callable[[Tensor, Tensor], Tensor]
EstimatorName = Literal["straight_through", "rotation"]


class _StraightThrough(torch.autograd.Function):
    """`q + (z - sg(z))` without the arithmetic."""

    @staticmethod
    def forward(ctx: FunctionCtx, z: Tensor, q: Tensor) -> Tensor:  # noqa: ARG004
        return q.view_as(q)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradient, None


def straight_through(z: Tensor, q: Tensor) -> Tensor:
    """q, bit for bit, with the gradient of z; the usual `z + sg(q - z)` rounds.

    van den Oord et al., 2017, sec. 3.2
    """
    return _StraightThrough.apply(z, q.detach())


def rotation(z: Tensor, q: Tensor) -> Tensor:
    r"""q, bit for bit, with the gradient of the rotation and scaling that takes z to q.

    z, q (B, D, F), vectors along D.

    .. math:: \tfrac{|q|}{|z|} R z,\quad R = I - 2 w w^T + 2 \hat q \hat z^T,\quad w = (\hat z +
    \hat q) / |\hat z + \hat q|

    R and the ratio of the norms are constants to the gradient, so that an angle between gradient
    and code is kept as one between gradient and latent. A zero vector, which has no direction,
    falls back to an identity of its gradient.

    Reference: Fifty et al., 2024. arXiv:2410.06424
    """
    tiny = 1e-6
    fixed, q = z.detach(), q.detach()
    z_norm, q_norm = fixed.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    directed = (z_norm > tiny) & (q_norm > tiny)
    z_unit, q_unit = fixed / z_norm.clamp(min=tiny), q / q_norm.clamp(min=tiny)
    w = z_unit + q_unit
    w = w / w.norm(dim=1, keepdim=True).clamp(min=tiny)
    turned = (
        z - 2 * w * (w * z).sum(1, keepdim=True) + 2 * q_unit * (z_unit * z).sum(1, keepdim=True)
    )
    turned = (turned * (q_norm / z_norm.clamp(min=tiny))).where(directed, z)
    return q + (turned - turned.detach())


ESTIMATORS: Mapping[EstimatorName, Estimator] = {
    "straight_through": straight_through,
    "rotation": rotation,
}
