r"""All gated layers of a stack over whole clips: a few matrix products a layer, and a backward pass
written by hand.

The fast twin of `vqwave.nn.wavenet.GatedLayer`, which says what a layer is; a test in float64 holds
the two together. Time stays the last axis, so that a tap of a dilated convolution is a product with
a shifted *view*, added in place:

.. math:: a_t = \sum_i W_i x_{t - (k - 1 - i) d} + V h_t + b, \qquad z = \tanh(a_f) \odot
\sigma(a_g), \qquad
    x \leftarrow x + W_r z, \qquad s = (W_{s,1} \dots W_{s,L}) (z_1 \dots z_L)^\top

Nothing is padded or transposed. The skips of all layers are one product, with the sum inside it,
and so are their gradients. Of a layer, x and the two halves of its gate are remembered, nothing
else. Conditions are added at the rate of their columns, and the bias is one of them. A CPU takes
the clips one after another, through all layers, so that a clip's numbers stay in its caches. The
filter's half of a is multiplied by -2 beforehand (in its weights), since :math:`\tanh(a) = 1 - 2
\sigma(-2 a)` makes the whole gate one sigmoid, which a CPU computes seven times faster than tanh.

Reference: van den Oord et al., 2016, sec. 2.3 to 2.5. arXiv:1609.03499
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# samples of a group of clips, about: of fewer, the calls cost too much; of more, the caches are too
# small
TOGETHER = 8192
WORTH_A_THREAD = 4096  # samples


@dataclass(frozen=True)
class Shape:
    """What the layers have in common beside their weights."""

    dilations: Sequence[int]
    holds: Sequence[int]  # samples that a column of each condition stands for
    # that products are taken in; sums over layers and over time keep the dtype of what is summed
    dtype: torch.dtype
    checkpointing: bool = False  # of a layer, only x is remembered: its gate is computed again


@dataclass(frozen=True)
class Groups:
    """The clips that go through all layers together, `size` of them, and the threads that take the
    groups in turn.

    Where there are enough groups for all of torch's threads, each thread takes whole groups:
    threads that share single products wait for each other after every one. Which thread takes which
    group is fixed, and so is the order of all sums.
    """

    clips: int
    size: int
    workers: int

    @classmethod
    def of(cls, x: Tensor) -> Groups:
        """For x (B, C, T)."""
        if x.device.type != "cpu":
            return cls(len(x), len(x), 1)
        (clips, _, T), threads = x.shape, torch.get_num_threads()
        share = threads <= clips and clips * T >= WORTH_A_THREAD * threads
        size = max(1, -(-clips // max(1, clips * T // TOGETHER, threads if share else 1)))
        return cls(clips, size, threads if share and -(-clips // size) >= threads else 1)

    @property
    def largest(self) -> slice:
        return slice(self.size)

    def buffers(self, x: Tensor, wanted: Sequence[tuple[int, torch.dtype]]) -> list[list[Tensor]]:
        """Of each worker, empty tensors of so many channels, for a group."""
        return [
            [rows(x[self.largest], channels, dtype) for channels, dtype in wanted]
            for _ in range(self.workers)
        ]

    def each(self, work: Callable[[int, slice], None]) -> None:
        """work(worker, clips) for every group."""
        groups = [slice(first, first + self.size) for first in range(0, self.clips, self.size)]
        if self.workers == 1:
            for clips in groups:
                work(0, clips)
            return
        threads, inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

        def share(worker: int) -> None:
            torch.set_num_threads(1)  # of this thread, and of the products of all
            with torch.inference_mode(inference), torch.no_grad():
                for clips in groups[worker :: self.workers]:
                    work(worker, clips)

        try:
            list(pool(os.getpid(), self.workers).map(share, range(self.workers)))
        finally:
            torch.set_num_threads(threads)


@cache
def pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Of this process alone: a forked one has none of its parent's threads."""
    return ThreadPoolExecutor(workers, "gated")


@dataclass(frozen=True)
class Weights:
    """L layers' weights.

    The filter's half of taps and conditions is multiplied by -2. Without skips, skip and skip_bias
    are empty.

    taps (L, k, 2G, R), residual (L or L - 1, R, G) and its bias (L or L - 1, R): the last layer of
    a stack with skips has none; skip (S, L G) and skip_bias (S), the sum of the layers'; conditions
    (B or 1, L, 2G, F) each, the bias among them.
    """

    taps: Tensor
    residual: Tensor
    residual_bias: Tensor
    skip: Tensor
    skip_bias: Tensor
    conditions: tuple[Tensor, ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> Weights:
        """The inverse of `flat`."""
        return cls(*tensors[:5], tuple(tensors[5:]))

    def flat(self) -> tuple[Tensor, ...]:
        return (
            self.taps,
            self.residual,
            self.residual_bias,
            self.skip,
            self.skip_bias,
            *self.conditions,
        )

    def told(self, layer: int, clips: slice) -> list[Tensor]:
        """What a layer's clips are told, (B or 1, 2G, F) each."""
        return [
            features[clips if len(features) > 1 else slice(None), layer]
            for features in self.conditions
        ]

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """taps, residual and skip in the dtype of the products."""
        return self.taps.to(dtype), self.residual.to(dtype), self.skip.to(dtype)


class GatedLayers(torch.autograd.Function):
    """x (B, R, T), heard from silence on -> the sum of all skips (B, S, T), or without skips the
    last residual (B, R, T).
    """

    @staticmethod
    def forward(ctx: Any, shape: Shape, x: Tensor, *tensors: Tensor) -> Tensor:  # noqa: ANN401 - torch gives it no type
        weights, keep, L = Weights.of(tensors), any(ctx.needs_input_grad), len(shape.dilations)
        R, S, G = x.shape[1], len(weights.skip), weights.residual.shape[-1]
        taps, residual, skip = weights.factors(shape.dtype)
        offset = F.pad(weights.residual_bias, (0, 0, 1, 0)).cumsum(0)[..., None]
        groups = Groups.of(x)
        xs = [rows(x, R, shape.dtype) for _ in range(L if keep else 0)]
        gates = [
            rows(x, 2 * G, shape.dtype) for _ in range(L if keep and not shape.checkpointing else 0)
        ]
        result = rows(x, S or R)
        result[:] = weights.skip_bias[:, None] if S else x
        buffers = groups.buffers(
            x,
            [
                (R, x.dtype),
                (G * (L if S else 1), shape.dtype),
                *[(n, shape.dtype) for n in (R, 2 * G)],
            ],
        )

        def through_all_layers(worker: int, clips: slice) -> None:
            totals, zs, heard, a = (buffer[: len(x[clips])] for buffer in buffers[worker])
            total = totals.copy_(x[clips]) if S else result[clips]  # without the biases
            for i, dilation in enumerate(shape.dilations):
                heard, a = xs[i][clips] if xs else heard, gates[i][clips] if gates else a
                z = zs[:, i * G : (i + 1) * G] if S else zs
                torch.add(total, offset[i], out=heard)
                gate_of(a, heard, taps[i], dilation, weights.told(i, clips), shape.holds)
                multiply_halves(z, a)
                if i < len(residual):
                    add_product(total, residual[i], z)
            if S:
                add_product(result[clips], skip, zs)

        groups.each(through_all_layers)
        if keep:
            ctx.shape = shape
            ctx.save_for_backward(*tensors, *xs, *gates)
        return result if S else result.add_(offset[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        shape, L, saved, needed = (
            ctx.shape,
            len(ctx.shape.dilations),
            ctx.saved_tensors,
            ctx.needs_input_grad,
        )
        learns = any(needed[2:7])  # a frozen teacher passes gradients on, no more
        kept = L if shape.checkpointing else 2 * L
        weights, xs, gates = Weights.of(saved[:-kept]), saved[-kept:][:L], saved[-kept:][L:]
        (taps, residual, skip), groups = weights.factors(shape.dtype), Groups.of(gradient)
        S, G, dx = len(skip), residual.shape[-1], torch.zeros_like(xs[0], dtype=gradient.dtype)
        sums = [
            Weights.of([torch.zeros_like(w) for w in weights.flat()]) for _ in range(groups.workers)
        ]
        wide = G * (L if S else 1)
        buffers = groups.buffers(gradient, [(n, shape.dtype) for n in (wide, wide, 2 * G, 2 * G)])

        def back_through_all_layers(worker: int, clips: slice) -> None:
            d, heard = sums[worker], gradient[clips].to(shape.dtype)
            total = dx[clips] if S else dx[clips].copy_(gradient[clips])
            zs, dzs, da, a = (buffer[: len(heard)] for buffer in buffers[worker])
            if S:
                add_product(dzs, skip.t(), heard, beta=0)
            for i in reversed(range(L)):
                z, dz = (t[:, i * G : (i + 1) * G] if S else t for t in (zs, dzs))
                if shape.checkpointing:
                    gate_of(
                        a,
                        xs[i][clips],
                        taps[i],
                        shape.dilations[i],
                        weights.told(i, clips),
                        shape.holds,
                    )
                else:
                    a = gates[i][clips]
                multiply_halves(z, a)
                if i < len(residual):
                    out = total.to(shape.dtype)
                    if learns:
                        d.residual_bias[i] += total.sum((0, 2))
                        add_correlation(d.residual[i], out, z)
                    add_product(dz, residual[i].t(), out, beta=1 if S else 0)
                gate_back(da, dz, a)
                for found, hold, wanted in zip(
                    d.told(i, clips), shape.holds, needed[7:], strict=True
                ):
                    if wanted:
                        add_sums(found, da, hold)
                convolve_back(
                    total,
                    d.taps[i] if learns else None,
                    taps[i],
                    da,
                    xs[i][clips],
                    shape.dilations[i],
                )
            if S and learns:
                add_correlation(d.skip, heard, zs)
                d.skip_bias.add_(gradient[clips].sum((0, 2)))

        groups.each(back_through_all_layers)
        return (
            None,
            dx,
            *(sum(parts[1:], parts[0]) for parts in zip(*(d.flat() for d in sums), strict=True)),
        )


def gate_of(
    a: Tensor, x: Tensor, taps: Tensor, dilation: int, told: Sequence[Tensor], holds: Sequence[int]
) -> None:
    """a (B, 2G, T) = the sigmoids (s, g) of a layer that hears x (B, R, T)."""
    convolve(a, taps, x, dilation)
    for features, hold in zip(told, holds, strict=True):
        add_held(a, features, hold)
    a.sigmoid_()


def multiply_halves(z: Tensor, a: Tensor) -> None:
    """z (B, G, T) = g (1 - 2 s) of the sigmoids (s, g) = a."""
    filtered, gate = a.chunk(2, 1)
    torch.addcmul(gate, filtered, gate, value=-2, out=z)


def gate_back(da: Tensor, dz: Tensor, a: Tensor) -> None:
    """da (B, 2G, T) = the gradient, from dz (B, G, T), of z = g (1 - 2 s) in what the sigmoids (s,
    g) = a were taken of.
    """
    filtered, gate = a.chunk(2, 1)
    torch.addcmul(dz.new_zeros(()), dz, gate, value=-2, out=da[:, : dz.shape[1]])
    torch.addcmul(dz, dz, filtered, value=-2, out=da[:, dz.shape[1] :])
    torch.ops.aten.sigmoid_backward.grad_input(da, a, grad_input=da)


def rows(like: Tensor, channels: int, dtype: torch.dtype | None = None) -> Tensor:
    """An empty (B, channels, T) like (B, C, T) whose rows are not a power of two apart.

    Rows that are would share their places in the caches: products of 8,192 samples take up to 1.5
    times as long.
    """
    B, _, T = like.shape
    lines = -(-T // 16) | 1  # cache lines of 16 floats, an odd number
    return like.new_empty(B, channels, 16 * lines, dtype=dtype)[..., :T]


def add_product(out: Tensor, weight: Tensor, x: Tensor, beta: int = 1) -> None:
    """out (B, C', T) += weight (C', C) x (B, C, T); beta 0: what was in out is lost."""
    weight = weight.expand(len(x), -1, -1)
    if out.dtype == x.dtype:
        out.baddbmm_(weight, x, beta=beta)
    else:
        out.add_(torch.bmm(weight, x))


def pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """A convolution of one tap as a product, which has a faster backward pass on a CPU: x (B, C, T)
    -> (B, C', T).
    """
    return torch.baddbmm(conv.bias[:, None], conv.weight[..., 0].expand(len(x), -1, -1), x)


def add_correlation(out: Tensor, y: Tensor, x: Tensor) -> None:
    """out (C', C) += the sum over clips and time of y (B, C', T) x (B, C, T)"""
    if out.dtype == x.dtype and out.device.type == "cpu":
        for clip in range(len(x)):
            out.addmm_(y[clip], x[clip].t())
    else:
        out.add_(torch.bmm(y, x.transpose(1, 2)).sum(0, dtype=out.dtype))


def convolve(a: Tensor, taps: Tensor, x: Tensor, dilation: int) -> None:
    """a (B, 2G, T) = the causal convolution of x (B, R, T) with taps (k, 2G, R), silence before
    x.
    """
    add_product(a, taps[-1], x, beta=0)
    for now, before, tap in shifts(len(taps), dilation, x.shape[-1]):
        add_product(a[..., now], taps[tap], x[..., before])


def convolve_back(
    dx: Tensor, d_taps: Tensor | None, taps: Tensor, da: Tensor, x: Tensor, dilation: int
) -> None:
    """Adds what `convolve` owes to x and, if asked for, to the taps."""
    everything = slice(None)
    for now, before, tap in [
        (everything, everything, -1),
        *shifts(len(taps), dilation, x.shape[-1]),
    ]:
        if d_taps is not None:
            add_correlation(d_taps[tap], da[..., now], x[..., before])
        add_product(dx[..., before], taps[tap].t(), da[..., now])


def shifts(kernel: int, dilation: int, T: int) -> list[tuple[slice, slice, int]]:
    """Of each tap but the last whose past the clip holds: outputs, the inputs that they hear
    through it, the tap.
    """
    distances = [(kernel - 1 - tap) * dilation for tap in range(kernel - 1)]
    return [(slice(d, None), slice(T - d), tap) for tap, d in enumerate(distances) if d < T]


def held(T: int, columns: int, hold: int) -> tuple[int, int]:
    """Columns that are heard for `hold` samples each, and the column that is heard after them, to
    the end.
    """
    whole = min(T // hold, columns)
    return whole, min(whole, columns - 1)


def add_held(a: Tensor, features: Tensor, hold: int) -> None:
    """a (B, H, T) += features (B or 1, H, F), each column for `hold` samples, the last one for
    ever.
    """
    whole, last = held(a.shape[-1], features.shape[-1], hold)
    body = whole * hold
    a[..., :body].unflatten(-1, (whole, hold)).add_(features[..., :whole, None])
    a[..., body:].add_(features[..., last, None])


def add_sums(found: Tensor, da: Tensor, hold: int) -> None:
    """found (B or 1, H, F) += the sums of da (B, H, T) over what `add_held` added each column
    to.
    """
    whole, last = held(da.shape[-1], found.shape[-1], hold)
    body = whole * hold
    found[..., :whole] += (
        da[..., :body]
        .unflatten(-1, (whole, hold))
        .sum(-1, dtype=found.dtype)
        .sum_to_size(*found.shape[:2], whole)
    )
    found[..., last] += da[..., body:].sum(-1, dtype=found.dtype).sum_to_size(*found.shape[:2])
