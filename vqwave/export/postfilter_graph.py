"""The spectral post-filter in real numbers, which are all that ONNX has: transforms there and back
are convolutions with windowed cosines and sines.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.decode.postfilter import LEAST, LIMIT
from vqwave.features import LogMel, MelBands


class RealSpectrum(nn.Module):
    """`MelBands.spectrum` as real numbers: cosine parts, then sine parts."""

    waves: Tensor

    def __init__(self, mel: MelBands) -> None:
        super().__init__()
        self.hop, self.fft, self.before = mel.hop, mel.fft, mel.before
        phase = torch.arange(mel.fft // 2 + 1)[:, None] * torch.arange(mel.fft)
        phase = phase.double() * (2 * torch.pi / mel.fft)
        waves = torch.cat([phase.cos(), phase.sin()]) * padded_window(mel)
        self.register_buffer("waves", waves[:, None].float(), persistent=False)  # (2 bins, 1, fft)

    def forward(self, wave: Tensor) -> Tensor:
        """wave (B, T) -> (B, 2 bins, T / hop)."""
        return F.conv1d(self.padded(wave)[:, None], self.waves, stride=self.hop)

    def padded(self, wave: Tensor) -> Tensor:
        """With the zeros in the first and last windows."""
        return F.pad(wave, (self.before, self.fft - self.hop - self.before))


def padded_window(mel: MelBands) -> Tensor:
    """The window among its zeros, (fft,), float64."""
    around = (mel.fft - mel.window.numel()) // 2
    window = F.pad(mel.window.double(), (around, around))
    return F.pad(window, (0, mel.fft - window.numel()))


def magnitudes(spectrum: Tensor) -> Tensor:
    """(B, 2 bins, F) -> (B, bins, F)."""
    cosines, sines = spectrum.chunk(2, 1)
    return (cosines.square() + sines.square()).sqrt()


class RealPostfilter(nn.Module):
    """See `decode.postfilter`: complete clips, all frames at once."""

    filters: Tensor
    shares: Tensor
    inverse: Tensor
    window: Tensor

    def __init__(self, features: LogMel, strength: float) -> None:
        super().__init__()
        mel = features.mel
        self.strength, self.floor, self.spectrum = strength, features.floor, RealSpectrum(mel)
        bins = torch.full((mel.fft // 2 + 1,), 2.0 / mel.fft)
        bins[[0, -1]] /= 2  # the inverse transform of a spectrum of real samples
        tensors = {
            "filters": mel.filters.float(),
            "shares": (mel.filters / mel.filters.sum(0).clamp_min(1e-12)).T.float(),
            "inverse": self.spectrum.waves * bins.repeat(2)[:, None, None],
            "window": padded_window(mel).square().float()[None, None],
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, wave: Tensor, log_mel: Tensor) -> Tensor:
        """wave (B, F hop), log_mel (B, M, F) -> (B, F hop)."""
        spectrum, hop = self.spectrum(wave), self.spectrum.hop
        bands = (self.filters @ magnitudes(spectrum)).clamp_min(self.floor).log()
        moved = (self.strength * (log_mel - bands)).clamp(-LIMIT, LIMIT)
        gain = (self.shares @ moved).exp()
        summed = F.conv_transpose1d(spectrum * torch.cat([gain, gain], 1), self.inverse, stride=hop)
        ones = 0.0 * log_mel[:, :1] + 1.0  # of a length that a trace keeps free
        weights = F.conv_transpose1d(ones, self.window, stride=hop)
        nearest = summed / weights.clamp_min(LEAST)
        filtered = torch.where(weights >= LEAST, nearest, self.spectrum.padded(wave)[:, None])
        return filtered[:, 0, self.spectrum.before :][:, : wave.shape[1]].clamp(-1.0, 1.0)
