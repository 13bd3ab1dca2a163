"""Quantize in a few learned directions of the latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from vqwave.errors import UserInputError
from vqwave.nn.quantize.base import Quantized, Quantizer


class Projected(Quantizer):
    r"""Latents -> their coordinates in d learned orthonormal directions, quantized there, and back.

    .. math:: z_q = W\, Q(W^T z),\quad W^T W = I_d

    As W is orthonormal, projecting a decoded latent gives its code vector again: codes survive
    decoding and encoding. Few dimensions keep codes alive (Yu et al., 2022, sec. 3.2.
    arXiv:2110.04627); the free scale and offset that usual projections have are the encoder's last
    layer's already.
    """

    def __init__(self, inner: Quantizer, dim: int, code_dim: int) -> None:
        super().__init__()
        self.inner = inner
        self.num_codebooks, self.codebook_size = inner.num_codebooks, inner.codebook_size
        self.downsample = inner.downsample
        self.weight = nn.Parameter(torch.randn(dim, code_dim))

    @property
    def directions(self) -> Tensor:
        """W (D, d): the weight orthonormalised, with the signs that make it a smooth function of
        the weight.
        """
        q, r = torch.linalg.qr(self.weight)
        return q * r.diagonal().sign()

    def _quantize(self, z: Tensor, mask: Tensor | None) -> Quantized:
        w = self.directions.to(z.dtype)
        inside = self.inner(w.t() @ z, mask)
        return replace(inside, z=w @ inside.z)

    def _encode(self, z: Tensor) -> Tensor:
        return self.inner.encode(self.directions.to(z.dtype).t() @ z)

    def _decode(self, codes: Tensor) -> Tensor:
        q = self.inner.decode(codes)
        return self.directions.to(q.dtype) @ q


def projected(dim: int, code_dim: int | None, build: Callable[[int], Quantizer]) -> Quantizer:
    """`build(dim)`, or that of `code_dim` dimensions between a projection and its transpose.

    Raises UserInputError.
    """
    if code_dim is None:
        return build(dim)
    if not 1 <= code_dim <= dim:
        raise UserInputError(
            f"model.quantizer: {code_dim} code dimensions, expected 1 to {dim}, the latents'"
        )
    return Projected(build(code_dim), dim, code_dim)
