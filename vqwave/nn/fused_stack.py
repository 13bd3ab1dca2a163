r"""All gated layers of a stack over complete clips: a few matrix products a layer, and a backward
pass written by hand.

The fast twin of `vqwave.nn.wavenet.GatedLayer`, which defines a layer; a test in float64 holds the
two together. Time stays the last axis, so that a tap of a dilated convolution is a product with a
shifted *view*, added in place:

.. math:: a_t = \sum_i W_i x_{t - (k - 1 - i) d} + V h_t + b, \qquad z = \tanh(a_f) \odot
\sigma(a_g), \qquad
    x \leftarrow x + W_r z, \qquad s = (W_{s,1} \dots W_{s,L}) (z_1 \dots z_L)^\top

Nothing is padded or transposed. The skips of all layers are one product, with the sum inside it,
and so are their gradients. Of a layer, x and the two halves of its gate are kept, nothing else.
Conditions are added at the rate of their columns, and the bias is one of them. A CPU takes the
clips one after another, through all layers, so that a clip's numbers stay in its caches. The
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
from typing import Any, cast

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
    """What the layers have in common apart from their weights."""

    dilations: Sequence[int]
    repeats: Sequence[int]  # samples that a column of each condition stands for
    # that products are taken in; sums over layers and over time keep the dtype of what is summed
    dtype: torch.dtype
    checkpointing: bool = False  # of a layer, only x is kept: its gate is computed again


@dataclass(frozen=True)
class Groups:
    """The clips that go through all layers together, `size` of them, and the threads that take the
    groups in turn.

    Where there are enough groups for all of torch's threads, each thread takes complete groups:
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
def pool(process: int, workers: int) -> ThreadPoolExecutor:  # noqa: ARG001 - of the cache
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
        taps, residual, residual_bias, skip, skip_bias, *conditions = tensors
        return cls(taps, residual, residual_bias, skip, skip_bias, tuple(conditions))

    def flat(self) -> tuple[Tensor, ...]:
        return (
            self.taps,
            self.residual,
            self.residual_bias,
            self.skip,
            self.skip_bias,
            *self.conditions,
        )

    def of_layer(self, layer: int, clips: slice) -> list[Tensor]:
        """The conditions of a layer and some clips, (n or 1, 2G, F) each."""
        return [
            features[clips if len(features) > 1 else slice(None), layer]
            for features in self.conditions
        ]

    def factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """taps, residual and skip in the dtype of the products."""
        return self.taps.to(dtype), self.residual.to(dtype), self.skip.to(dtype)


class GatedLayers(torch.autograd.Function):
    """x (B, R, T), with silence before it -> the sum of all skips (B, S, T), or without skips the
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
            totals, zs, inputs, a = (buffer[: len(x[clips])] for buffer in buffers[worker])
            total = totals.copy_(x[clips]) if S else result[clips]  # without the biases
            for i, dilation in enumerate(shape.dilations):
                inputs, a = xs[i][clips] if xs else inputs, gates[i][clips] if gates else a
                z = zs[:, i * G : (i + 1) * G] if S else zs
                torch.add(total, offset[i], out=inputs)
                gate_of(
                    a,
                    inputs,
                    taps[i],
                    dilation=dilation,
                    conditions=weights.of_layer(i, clips),
                    repeats=shape.repeats,
                )
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
        back = Backward(ctx.shape, ctx.saved_tensors, ctx.needs_input_grad, gradient)
        back.groups.each(back.through_all_layers)
        return None, back.dx, *back.total()


class Backward:
    """One backward pass of `GatedLayers`: the gradients in x and in all weights.

    Each worker sums over its clips, from the last layer to the first, into tensors of its own.
    """

    def __init__(
        self,
        shape: Shape,
        saved: Sequence[Tensor],
        needed: Sequence[bool],
        gradient: Tensor,
    ) -> None:
        """saved: weights, inputs of the layers, and their gates unless these are computed again;
        needed: which of shape, x, and weights want a gradient; gradient (B, S or R, T).
        """
        self.shape, self.gradient, self.L = shape, gradient, len(shape.dilations)
        self.learns = any(needed[2:7])  # a frozen teacher passes gradients on, no more
        self.conditions_wanted = needed[7:]
        kept = self.L if shape.checkpointing else 2 * self.L
        self.weights = Weights.of(saved[:-kept])
        self.xs, self.gates = saved[-kept:][: self.L], saved[-kept:][self.L :]
        self.taps, self.residual, self.skip = self.weights.factors(shape.dtype)
        self.groups = Groups.of(gradient)
        self.S, self.G = len(self.skip), self.residual.shape[-1]
        self.dx = torch.zeros_like(self.xs[0], dtype=gradient.dtype)
        self.sums = [
            Weights.of([torch.zeros_like(w) for w in self.weights.flat()])
            for _ in range(self.groups.workers)
        ]
        wide = self.G * (self.L if self.S else 1)
        channels = (wide, wide, 2 * self.G, 2 * self.G)
        self.buffers = self.groups.buffers(gradient, [(n, shape.dtype) for n in channels])

    def through_all_layers(self, worker: int, clips: slice) -> None:
        """Of one group of clips."""
        d, out = self.sums[worker], self.gradient[clips].to(self.shape.dtype)
        # the gradient in the running sum of residuals, (n, R, T)
        total = self.dx[clips] if self.S else self.dx[clips].copy_(self.gradient[clips])
        zs, dzs, da, a = (buffer[: len(out)] for buffer in self.buffers[worker])
        if self.S:
            add_product(dzs, self.skip.t(), out, beta=0)
        for i in reversed(range(self.L)):
            z, dz = (t[:, i * self.G : (i + 1) * self.G] if self.S else t for t in (zs, dzs))
            gates = self.gates_of(i, clips, a)
            multiply_halves(z, gates)
            self.residual_back(i, d, total, z, dz)
            gate_back(da, dz, gates)
            self.conditions_back(i, d, clips, da)
            convolve_back(
                total,
                d.taps[i] if self.learns else None,
                self.taps[i],
                da,
                self.xs[i][clips],
                dilation=self.shape.dilations[i],
            )
        if self.S and self.learns:
            add_correlation(d.skip, out, zs)
            d.skip_bias.add_(self.gradient[clips].sum((0, 2)))

    def gates_of(self, layer: int, clips: slice, a: Tensor) -> Tensor:
        """The sigmoids (s, g) of a layer, (n, 2G, T): kept, or computed again into a."""
        if not self.shape.checkpointing:
            return self.gates[layer][clips]
        gate_of(
            a,
            self.xs[layer][clips],
            self.taps[layer],
            dilation=self.shape.dilations[layer],
            conditions=self.weights.of_layer(layer, clips),
            repeats=self.shape.repeats,
        )
        return a

    def residual_back(self, layer: int, d: Weights, total: Tensor, z: Tensor, dz: Tensor) -> None:
        """dz (n, G, T) += what the gradient of a layer's residual gives, and that of its weights;
        the last layer of a stack with skips has no residual.
        """
        if layer >= len(self.residual):
            return
        out = total.to(self.shape.dtype)
        if self.learns:
            d.residual_bias[layer] += total.sum((0, 2))
            add_correlation(d.residual[layer], out, z)
        add_product(dz, self.residual[layer].t(), out, beta=1 if self.S else 0)

    def conditions_back(self, layer: int, d: Weights, clips: slice, da: Tensor) -> None:
        """Gradients of da (n, 2G, T) in a layer's columns of those conditions that want one."""
        for sums, repeat, wanted in zip(
            d.of_layer(layer, clips), self.shape.repeats, self.conditions_wanted, strict=True
        ):
            if wanted:
                add_sums(sums, da, repeat)

    def total(self) -> tuple[Tensor, ...]:
        """The gradients in all weights: the sums of the workers."""
        flat = zip(*(d.flat() for d in self.sums), strict=True)
        return tuple(sum(parts[1:], parts[0]) for parts in flat)


def gate_of(
    a: Tensor,
    x: Tensor,
    taps: Tensor,
    *,
    dilation: int,
    conditions: Sequence[Tensor],
    repeats: Sequence[int],
) -> None:
    """a (B, 2G, T) = the sigmoids (s, g) of a layer with input x (B, R, T)."""
    convolve(a, taps, x, dilation)
    for features, repeat in zip(conditions, repeats, strict=True):
        add_repeated(a, features, repeat)
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
    bias = cast("Tensor", conv.bias)
    return torch.baddbmm(bias[:, None], conv.weight[..., 0].expand(len(x), -1, -1), x)


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
    dx: Tensor, d_taps: Tensor | None, taps: Tensor, da: Tensor, x: Tensor, *, dilation: int
) -> None:
    """Adds the gradient of `convolve` in x and, if asked for, in the taps."""
    everything = slice(None)
    for now, before, tap in [
        (everything, everything, -1),
        *shifts(len(taps), dilation, x.shape[-1]),
    ]:
        if d_taps is not None:
            add_correlation(d_taps[tap], da[..., now], x[..., before])
        add_product(dx[..., before], taps[tap].t(), da[..., now])


def shifts(kernel: int, dilation: int, T: int) -> list[tuple[slice, slice, int]]:
    """Of each tap but the last whose past the clip holds: outputs, the inputs that it
    multiplies for them, the tap.
    """
    distances = [(kernel - 1 - tap) * dilation for tap in range(kernel - 1)]
    return [(slice(d, None), slice(T - d), tap) for tap, d in enumerate(distances) if d < T]


def repeats(T: int, columns: int, repeat: int) -> tuple[int, int]:
    """Columns that cover `repeat` samples each, and the column that covers the rest, to the end."""
    complete = min(T // repeat, columns)
    return complete, min(complete, columns - 1)


def add_repeated(a: Tensor, features: Tensor, repeat: int) -> None:
    """a (B, H, T) += features (B or 1, H, F), each column for `repeat` samples, the last one to the
    end.
    """
    complete, last = repeats(a.shape[-1], features.shape[-1], repeat)
    body = complete * repeat
    a[..., :body].unflatten(-1, (complete, repeat)).add_(features[..., :complete, None])
    a[..., body:].add_(features[..., last, None])


def add_sums(sums: Tensor, da: Tensor, repeat: int) -> None:
    """sums (B or 1, H, F) += the sums of da (B, H, T) over what `add_repeated` added each column
    to.
    """
    complete, last = repeats(da.shape[-1], sums.shape[-1], repeat)
    body = complete * repeat
    sums[..., :complete] += (
        da[..., :body]
        .unflatten(-1, (complete, repeat))
        .sum(-1, dtype=sums.dtype)
        .sum_to_size(*sums.shape[:2], complete)
    )
    sums[..., last] += da[..., body:].sum(-1, dtype=sums.dtype).sum_to_size(*sums.shape[:2])
