"""Causal convolution: the one definition that serves training (whole clips) and streaming (any
chunk, with its past).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dilation_cycle(layers: int, cycle: int) -> list[int]:
    """1, 2, 4, ...

    doubled for `cycle` layers, then again from 1. van den Oord et al., 2016, sec. 2.1.
    arXiv:1609.03499

    >>> dilation_cycle(6, 3)
    [1, 2, 4, 1, 2, 4]
    """
    return [2 ** (layer % cycle) for layer in range(layers)]


def receptive_field(kernel: int, dilations: Sequence[int]) -> int:
    r"""Samples that one output sees, :math:`1 + (k - 1) \sum d`: exact (Turukin's formula counts
    too many).

    >>> receptive_field(2, dilation_cycle(10, 10)), receptive_field(3, dilation_cycle(30, 10))
    (1024, 6139)
    """
    return 1 + (kernel - 1) * sum(dilations)


def shift_right(x: Tensor, first: Tensor | None = None) -> Tensor:
    """x (..., T) delayed by one sample: the input of a strictly causal network.

    `first` (..., 1) precedes x; else zero.
    """
    start = torch.zeros_like(x[..., :1]) if first is None else first
    return torch.cat([start, x[..., :-1]], -1)


class CausalConv1d(nn.Conv1d):
    """Dilated convolution over the present and the past: y_t = sum_i W_i x_{t - (k - 1 - i) d} + b.

    `span` = (k - 1) d past inputs are its whole state. Zeros stand before the first sample, as in
    the queues of Fast WaveNet at their start (Le Paine et al., 2016. arXiv:1611.09482).
    """

    def __init__(
        self, channels: int, out_channels: int, kernel: int, dilation: int = 1, *, bias: bool = True
    ) -> None:
        super().__init__(channels, out_channels, kernel, dilation=dilation, bias=bias)
        self.span = (kernel - 1) * dilation

    def forward(  # type: ignore[override]  # with the past, in and out
        self, x: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (B, C, T), past (B, C, span) -> y (B, C', T) and the past of the next chunk (B, C,
        span).
        """
        context = F.pad(x, (self.span, 0)) if past is None else torch.cat([past.to(x.dtype), x], -1)
        return self._taps(context), context[..., context.shape[-1] - self.span :]

    def _taps(self, context: Tensor) -> Tensor:
        """The convolution without padding; of one output, a plain product with its taps, several
        times faster.
        """
        if context.shape[-1] != self.span + 1 or torch.is_grad_enabled():
            return super().forward(context)
        taps = context[..., :: self.dilation[0]].flatten(1)  # (B, C * k)
        return F.linear(taps, self.weight.flatten(1), self.bias)[..., None]
