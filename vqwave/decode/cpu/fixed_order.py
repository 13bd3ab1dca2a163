"""What makes a decoder's condition of codes, with sums of a fixed order: convolutions over frames,
and linear prediction.

A library's product may round otherwise for another number of columns. Here an output is one chain
of fused multiply-adds, begun at its bias (see `simd.py`), so that a column's bits depend on its
receptive field alone: an utterance is computed at once, and equals a stream of it bit for bit.
"""

from __future__ import annotations

import copy
from functools import singledispatch
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vqwave.decode.cpu.compiled import Compiled
from vqwave.decode.plan import Floats, aligned, padded
from vqwave.models.vqvae import VQVAE
from vqwave.nn.linear_prediction import SpectralPredictor
from vqwave.nn.tensor_state import PerState

PANEL = 64  # outputs whose weights stay in the second-level cache while all rows go by
AnyModule = TypeVar("AnyModule", bound=nn.Module)


_MODULE = "vqwave.decode.cpu.fixed_order_kernels"
convolve = Compiled(_MODULE, "convolve")
predict = Compiled(_MODULE, "predict")


class FixedOrderConv1d(nn.Module):
    """A convolution of stride 1 that keeps the number of columns, as a kernel."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        taps = conv.kernel_size[0]
        self.kernel_size, self.in_channels = conv.kernel_size, conv.in_channels
        self.before, self.outputs = (taps - 1) // 2, conv.out_channels
        width = padded(self.outputs)
        matrix = torch.zeros(taps * self.in_channels, width)
        matrix[:, : self.outputs] = conv.weight.detach().permute(2, 1, 0).flatten(0, 1)
        self.weights = aligned((matrix.numel(),), np.float32)
        self.weights[:] = torch.cat([part.flatten() for part in matrix.split(PANEL, 1)]).numpy()
        self.bias = np.zeros(width, np.float32)
        if conv.bias is not None:
            self.bias[: self.outputs] = conv.bias.detach().numpy()

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, F) -> (B, C', F)."""
        return torch.stack([self._one(each) for each in x.detach().transpose(1, 2).numpy()])

    def _one(self, columns: Floats) -> Tensor:
        """(F, C) -> (C', F), which lies in memory column by column."""
        frames, taps = len(columns), self.kernel_size[0]
        x = np.zeros((frames + taps - 1, self.in_channels), np.float32)
        x[self.before : self.before + frames] = columns
        y = np.empty((frames, len(self.bias)), np.float32)
        y[:] = self.bias
        convolve(self.weights, taps * self.in_channels, PANEL, x, y)
        return torch.from_numpy(y[:, : self.outputs]).T


class FixedOrderPredictor(nn.Module):
    """`SpectralPredictor` as a kernel: a frame's filter in the order of its bins and lags."""

    def __init__(self, predictor: SpectralPredictor) -> None:
        super().__init__()
        self.order, self.interpolation = predictor.order, predictor.interpolation
        self.subframes, self.offset = predictor.subframes, predictor.offset
        envelope = predictor.envelope.numpy()  # at most two bands of a bin are not zero
        bins = len(envelope)
        there = envelope != 0
        last = envelope.shape[1] - 1 - there[:, ::-1].argmax(1)
        self.bands = np.stack([there.argmax(1), last], 1)
        self.shares = np.take_along_axis(envelope, self.bands, 1)
        self.shares[self.bands[:, 0] == last, 1] = 0.0
        size = 2 * (bins - 1)
        weight = np.full(bins, 2.0 / size)  # the inverse transform of a real, even spectrum
        weight[[0, -1]] /= 2
        lags = np.arange(self.order + 1)
        angles = 2 * np.pi / size * (np.arange(bins)[:, None] * lags % size)
        self.cosines = weight[:, None] * np.cos(angles) * predictor.window.numpy()

    def forward(self, log_mel: Tensor) -> Tensor:
        """As `SpectralPredictor.forward`: (B, M, F) -> (B, P, F interpolation)."""
        level = self.subframes(log_mel.detach().double()) - self.offset
        return torch.stack([self._one(each) for each in level]).to(log_mel.dtype)

    def _one(self, level: Tensor) -> Tensor:
        rows = np.ascontiguousarray(level.T.numpy())
        autocorrelation = np.empty((len(rows), self.order + 1))
        coefficients = np.empty((len(rows), self.order))
        predict(
            rows,
            self.bands,
            self.shares,
            self.cosines,
            autocorrelation,
            coefficients,
            np.empty(self.order),
        )
        return torch.from_numpy(coefficients).T


def _fixed_order(model: VQVAE) -> VQVAE | None:
    melody, spectral, conditioner = model.melody, model.spectral_decoder, model.decoder.conditioner
    uses_spectrum = spectral is not None and model.decoder_input != "latents"
    pitch = None if melody is None else melody.codec.decoder
    parts = [conditioner, spectral if uses_spectrum else None, pitch]
    leaves = [leaf for part in parts if part is not None for leaf in part.modules()]
    if not all(map(_supported, leaves)):
        return None
    replaced: dict[str, nn.Module] = {
        "decoder": _with(model.decoder, {"conditioner": _converted(conditioner)})
    }
    if spectral is not None and uses_spectrum:
        replaced["spectral_decoder"] = _converted(spectral)
    if melody is not None and pitch is not None:
        codec = _with(melody.codec, {"decoder": _converted(pitch)})
        replaced["melody"] = _with(melody, {"codec": codec})
    return _with(model, replaced)


with_fixed_order: PerState[VQVAE, VQVAE | None] = PerState(_fixed_order)
"""A model whose condition has sums of a fixed order: its parts, but for what is a kernel there.

None where there are none: on another device, in another precision, with other layers.
"""


def _supported(module: nn.Module) -> bool:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if any(tensor.device.type != "cpu" for tensor in own):
        return False
    if isinstance(module, nn.Conv1d):
        taps = module.kernel_size[0]
        plain = (module.stride[0], module.dilation[0], module.groups) == (1, 1, 1)
        same = module.padding == "same" or (taps % 2 and module.padding == (taps // 2,))
        return plain and bool(same) and module.weight.dtype == torch.float32
    return not isinstance(module, nn.ConvTranspose1d)


def _with(module: AnyModule, children: dict[str, nn.Module]) -> AnyModule:
    """The module with other children; all else is shared."""
    result = copy.copy(module)
    result.__dict__["_modules"] = module._modules | children
    return result


@singledispatch
def _converted(module: nn.Module) -> nn.Module:
    """The module with kernels for its layers, which keep the weights that these have now."""
    children = {name: child for name, child in module._modules.items() if child is not None}
    return _with(module, {name: _converted(child) for name, child in children.items()})


_converted.register(nn.Conv1d, FixedOrderConv1d)
_converted.register(SpectralPredictor, FixedOrderPredictor)
