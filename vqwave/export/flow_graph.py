"""A student's one pass in operations that ONNX has, with shapes that a trace keeps free: flows,
predictor, synthesis filter.

ONNX has neither Fourier transforms back to real numbers nor triangular systems. The autocorrelation
is a product with cosines here, and the inverse of a system its impulse response. Blocks of samples
are solved at once; the samples before each come from doublings, the one loop of the graph.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.nn.condition import Condition
from vqwave.nn.flows import AffineFlow, FlowCondition
from vqwave.nn.linear_prediction import SpectralPredictor, levinson
from vqwave.nn.synthesis_filter import column_states, column_systems
from vqwave.nn.wavenet import GatedLayer


def one_pass(flow: AffineFlow, z: Tensor, condition: FlowCondition, *, still: bool) -> Tensor:
    """`AffineFlow.forward` of a full clip z (B, F hop), in steps whose shapes a trace keeps free.

    still: the condition is one column, which does not change in time.
    """
    fold, before = flow.squeeze, -flow.offset % flow.squeeze
    # (B, n, blocks)
    folded = F.pad(z, (fold + before, -(before or fold))).unflatten(-1, (-1, fold)).transpose(1, 2)
    x = flow.input(folded)
    if flow.source is not None and condition.source is not None:
        source = condition.source.features
        x = x + flow.source(torch.cat([source, source[..., -1:]], -1) if before else source)
    projection, projected, features = flow.stack.projection, None, condition.squeezed(fold)
    if features is not None and projection is not None:
        projected = features.project(projection)
    width = 2 * flow.stack.spec.gate_channels
    layers = cast(list[GatedLayer], flow.stack.layers)
    for i, layer in enumerate(layers):
        conv = layer.dilated
        a = F.conv1d(F.pad(x, (conv.span, 0)), conv.weight, conv.bias, dilation=conv.dilation)
        if projected is not None:
            local = projected.channels(i * width, width)
            a = a + local.features if still else _conditioned(a, local, late=before > 0)
        filtered, gate = a.chunk(2, 1)
        residual = cast(nn.Conv1d, layer.residual)  # flows have no skip path
        x = x + residual(filtered.tanh() * gate.sigmoid())
    out = flow.stack.out(F.relu(flow.stack.hidden(F.relu(x)))) * flow.units
    params = out.unflatten(1, (2, fold)).transpose(2, 3).flatten(2)  # (B, 2, samples)
    if before:
        params = params[..., before : before - fold]
    return z * params[:, 1].clamp(min=flow.MIN_LOG_SCALE).exp() + params[:, 0]


def _conditioned(a: Tensor, columns: Condition, *, late: bool) -> Tensor:
    """`Condition.add_to` of columns that tile a; `late`: a has one block more, which takes the last
    column.
    """
    features = columns.features[..., None]
    if not late:
        return (a.unflatten(-1, (-1, columns.repeat)) + features).flatten(-2)
    held = features.expand(-1, -1, -1, columns.repeat).flatten(-2)
    return a + torch.cat([held, columns.features[..., -1:]], -1)


class RealSpectralPredictor(nn.Module):
    """`SpectralPredictor` in real numbers."""

    cosines: Tensor

    def __init__(self, analysis: SpectralPredictor) -> None:
        super().__init__()
        self.analysis, self.interpolation = analysis, analysis.interpolation
        bins = len(analysis.envelope)
        lag = torch.arange(analysis.order + 1, dtype=torch.float64)
        angle = lag[:, None] * torch.arange(bins) * (math.pi / (bins - 1))
        twice = torch.full((bins,), 2.0, dtype=torch.float64)
        twice[0] = twice[-1] = 1.0
        cosines = angle.cos() * twice / (2 * (bins - 1)) * analysis.window[:, None]
        self.register_buffer("cosines", cosines, persistent=False)  # (P + 1, bins)

    def forward(self, log_mel: Tensor) -> Tensor:
        """As `SpectralPredictor.forward`."""
        level = self.analysis.subframes(log_mel.double()) - self.analysis.offset
        power = (2 * (self.analysis.envelope @ level)).exp()  # (B, bins, F)
        r = (self.cosines @ power).transpose(1, 2)
        return levinson(r).transpose(1, 2).to(log_mel.dtype)


def synthesise(residual: Tensor, coefficients: Tensor, hold: int) -> Tensor:
    """`nn.synthesis_filter.synthesise` of full columns: residual (B, F hold), coefficients (B, P,
    F) -> (B, F hold).
    """
    a = coefficients.transpose(1, 2)  # (B, F, P)
    order = a.shape[-1]
    n = block_length(hold, order)
    inverse = lower_triangular(impulse_response(a, n))
    response = inverse @ column_systems(a, n)[1]  # (B, F, n, P) to the P samples before a block
    blocks = residual.unflatten(1, (-1, hold // n, n))  # (B, F, blocks, n)
    alone = blocks @ inverse.transpose(2, 3)
    matrix = response[:, :, None, -order:].expand(-1, -1, hold // n, -1, -1).flatten(1, 2)
    offset = alone[..., -order:].flatten(1, 2)
    silence = F.pad(offset[:, 0], (order, 0))[:, :order]
    before = looped_states()(matrix, offset, silence)  # (B, F blocks, P)
    wave = alone + before.unflatten(1, (-1, hold // n)) @ response.transpose(2, 3)
    return wave.flatten(1)


@cache
def looped_states() -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`column_states`, of which a trace keeps the loop: its length is that of the utterance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older way
        return torch.jit.script(column_states)


def block_length(hold: int, order: int) -> int:
    """Samples that are solved together: at least 2 P, which was the fastest, of those numbers that
    divide a column.
    """
    return next(n for n in range(min(2 * order, hold), hold + 1) if hold % n == 0)


def impulse_response(a: Tensor, length: int) -> Tensor:
    """Coefficients a (..., P) -> h (..., length) of the all-pole filter, h_0 = 1."""
    # a trace would keep the shape of `ones_like`
    newest_first = F.pad(a[..., :1], (1, 0), value=1.0)[..., :1]
    for i in range(1, length):
        k = min(i, a.shape[-1])
        h = (a[..., :k] * newest_first[..., :k]).sum(-1, keepdim=True)
        newest_first = torch.cat([h, newest_first], -1)
    return newest_first.flip(-1)


def lower_triangular(h: Tensor) -> Tensor:
    """h (..., n) -> the matrix (..., n, n) of a convolution with it."""
    at = torch.arange(h.shape[-1])
    lag = at[:, None] - at
    return h[..., lag.clamp(min=0)] * (lag >= 0)
