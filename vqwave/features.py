"""Frame features of a waveform: log-mel spectra, mel cepstra (MFCC) with deltas, pitch and voicing.

B batch, T samples, F frames, M mel bands, C channels. Frame f is centred on sample f hop + hop //
2, so that the frames tile the waveform: T samples give exactly T / hop frames. Outside the waveform
there are zeros (reflection would need clips that are longer than half an FFT). All is computed in
float32 (float64 for a float64 waveform) with autocast switched off, and all but pitch can be
differentiated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from vqwave import pitch_tracking
from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.pitch_tracking import HIGHEST, LOWEST, RANGE, contour, track

MelScale = Literal["slaney", "htk"]


def hz_to_mel(hz: Tensor, scale: MelScale) -> Tensor:
    """Frequencies in Hz on a mel scale: "htk" is logarithmic; "slaney" is linear below 1 kHz and
    logarithmic above.
    """
    if scale == "htk":
        return 2595 * torch.log10(1 + hz / 700)
    return torch.where(
        hz < 1000, 3 * hz / 200, 15 + 27 * torch.log(hz.clamp_min(1000) / 1000) / math.log(6.4)
    )


def mel_to_hz(mel: Tensor, scale: MelScale) -> Tensor:
    """The inverse of `hz_to_mel`."""
    if scale == "htk":
        return 700 * (10 ** (mel / 2595) - 1)
    return torch.where(mel < 15, 200 * mel / 3, 1000 * torch.exp((mel - 15) * math.log(6.4) / 27))


def mel_filters(
    sample_rate: int,
    fft: int,
    bands: int,
    fmin: float,
    fmax: float,
    *,
    scale: MelScale = "slaney",
) -> Tensor:
    """Triangular filters (M, fft // 2 + 1), float64, from FFT bins to mel bands between `fmin` and
    `fmax` Hz.

    "slaney" gives filters of equal area on Slaney's scale (librosa's default), "htk" gives filters
    of peak one on HTK's scale (TensorFlow's). Raises `UserInputError` where the limits cross or a
    band is too narrow to hold an FFT bin.
    """
    if not 0 <= fmin < fmax <= sample_rate / 2:
        raise UserInputError(
            f"mel bands from {fmin:g} to {fmax:g} Hz: expected 0 <= fmin < fmax <="
            f" {sample_rate / 2:g} Hz"
        )
    limits = hz_to_mel(torch.tensor([fmin, fmax], dtype=torch.float64), scale)
    steps = torch.linspace(0, 1, bands + 2, dtype=torch.float64)
    edges = mel_to_hz(limits[0] + steps * (limits[1] - limits[0]), scale)
    bins = torch.linspace(0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = torch.minimum(
        (bins - low) / (centre - low), (high - bins) / (high - centre)
    ).clamp_min(0)
    empty = int((filters.amax(1) == 0).sum())
    if empty:
        raise UserInputError(
            f"{bands} mel bands at {sample_rate} Hz: {empty} hold no bin of a {fft}-point FFT; "
            "expected fewer bands or a longer window"
        )
    return filters * 2 / (high - low) if scale == "slaney" else filters


@dataclass(frozen=True)
class Span:
    """Columns first .. last of a layer's input that a range of its output depends on.

    In samples, these are relative to sample 0 of frame 0.
    """

    first: int
    last: int

    def wider(self, reach: int) -> Span:
        """By so many columns to either side."""
        return Span(self.first - reach, self.last + reach)

    def windowed(self, size: int, stride: int, before: int) -> Span:
        """Through windows of `size` columns, `stride` apart, of which the first begins `before`
        columns before column 0.
        """
        return Span(self.first * stride - before, self.last * stride - before + size - 1)


def held(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, F) whose frames that are false in mask (B, F) repeat the last real one before them;
    x without a mask.
    """
    if mask is None:
        return x
    last = torch.arange(x.size(-1), device=x.device).where(mask, 0).cummax(1).values
    return x.gather(2, last[:, None].expand(-1, x.size(1), -1))


def deltas(features: Tensor, reach: int = 2, mask: Tensor | None = None) -> Tensor:
    r"""The slope of each channel over `reach` frames to either side; beyond the ends the outermost
    frame is held.

    .. math:: d_f = \sum_{n=1}^{N} n (c_{f+n} - c_{f-n}) / 2 \sum_{n=1}^{N} n^2

    features (B, C, F), mask (B, F) true up to each utterance's end -> (B, C, F), of real frames
    alone. Reference: Young et al., The HTK Book, "Delta and acceleration coefficients".
    """
    frames = features.size(-1)
    around = F.pad(held(features, mask), (reach, reach), mode="replicate")
    slope = torch.zeros_like(features)
    for n in range(1, reach + 1):
        slope = slope + n * (
            around.narrow(-1, reach + n, frames) - around.narrow(-1, reach - n, frames)
        )
    return slope / (2 * sum(n * n for n in range(1, reach + 1)))


class MelBands(nn.Module):
    """Magnitude (`power=1`) or power (`power=2`) in each mel band, through a periodic Hann window,
    not normalised.

    The window is padded with zeros, evenly on both sides, to the next power of two.
    """

    filters: Tensor
    window: Tensor

    def __init__(
        self,
        *,
        sample_rate: int,
        window: int,
        hop: int,
        bands: int,
        fmin: float,
        fmax: float,
        scale: MelScale,
        power: Literal[1, 2],
    ) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.bands, self.scale, self.power = (
            sample_rate,
            hop,
            bands,
            scale,
            power,
        )
        self.fft = 1 << (window - 1).bit_length()
        filters = mel_filters(sample_rate, self.fft, bands, fmin, fmax, scale=scale)
        self.register_buffer("filters", filters.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return (
            f"bands={self.bands}, window={self.window.numel()}, hop={self.hop}, fft={self.fft}, "
            f"scale={self.scale}, sample_rate={self.sample_rate}"
        )

    def forward(self, wave: Tensor) -> Tensor:
        """wave (B, T) -> (B, M, T / hop).

        Raises `UserInputError` unless T is a positive multiple of the hop.
        """
        if wave.ndim != 2 or wave.size(1) == 0 or wave.size(1) % self.hop:
            problem = f"waveform of shape {tuple(wave.shape)}"
            raise UserInputError(
                f"{problem}: expected (batch, samples) with a multiple of {self.hop} samples"
            )
        with torch.autocast(wave.device.type, enabled=False):
            magnitude = self.spectrum(wave.to(torch.promote_types(wave.dtype, torch.float32))).abs()
            bands = magnitude if self.power == 1 else magnitude.square()
            return self.filters.to(bands.dtype) @ bands

    @property
    def before(self) -> int:
        """Samples of frame 0's window, zeros included, that lie before the waveform."""
        return self.fft // 2 - self.hop // 2

    def receptive_span(self, frames: Span) -> Span:
        """Frames -> the samples in their windows."""
        return frames.windowed(self.fft, self.hop, self.before)

    def spectrum(self, wave: Tensor) -> Tensor:
        """wave (B, T), T a multiple of the hop -> complex spectrum (B, fft // 2 + 1, T / hop)."""
        padded = F.pad(wave, (self.before, self.fft - self.hop - self.before))
        window = self.window.to(wave.dtype)
        return torch.stft(
            padded, self.fft, self.hop, window.numel(), window, center=False, return_complex=True
        )


class LogMel(nn.Module):
    """Natural logarithm of mel magnitudes, clipped from below at `floor`.

    (B, T) -> (B, M, T / hop).
    """

    alignment = 1
    """Samples: a recording may be cut at multiples of it without moving its frames."""

    def __init__(self, mel: MelBands, floor: float) -> None:
        super().__init__()
        self.mel, self.floor = mel, floor
        self.channels, self.hop = mel.bands, mel.hop

    @property
    def log_mel(self) -> LogMel:
        """The log-mel features among these: they are."""
        return self

    def forward(self, wave: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """wave (B, T) in [-1, 1] -> (B, M, T / hop); each frame is of its own samples, so that
        `mask` changes nothing.

        Raises `UserInputError` unless T is a positive multiple of the hop.
        """
        return self.mel(wave).clamp_min(self.floor).log()

    def receptive_span(self, frames: Span) -> Span:
        """Frames -> the samples that they depend on."""
        return self.mel.receptive_span(frames)


class MFCC(nn.Module):
    r"""Mel cepstra: the orthonormal DCT-II of log mel powers, followed by as many orders of deltas
    as asked for.

    .. math:: c_k = \sqrt{(2 - \delta_{k0}) / M} \sum_m \log P_m \cos(\pi k (m + 1/2) / M)

    Natural logarithm of powers that are clipped from below at `floor`; librosa's are 10 / ln 10
    times these (and it clips 80 dB below the loudest frame, so that each frame depends on all
    others; here it does not).
    """

    alignment = 1
    log_mel: LogMel | None = None
    basis: Tensor

    def __init__(self, mel: MelBands, coefficients: int, orders: int, floor: float) -> None:
        super().__init__()
        self.mel, self.orders, self.floor = mel, orders, floor
        self.channels, self.hop = coefficients * (1 + orders), mel.hop
        k = torch.arange(coefficients, dtype=torch.float64)[:, None]
        m = torch.arange(mel.bands, dtype=torch.float64)
        basis = torch.cos(math.pi * k * (m + 0.5) / mel.bands) * math.sqrt(2 / mel.bands)
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis.float(), persistent=False)  # (C, M)

    def forward(self, wave: Tensor, mask: Tensor | None = None) -> Tensor:
        """wave (B, T) in [-1, 1] -> (B, coefficients (1 + orders), T / hop): cepstra, slopes,
        slopes of slopes.

        mask (B, T / hop): true up to each utterance's end; slopes are of real frames alone.
        Raises `UserInputError` unless T is a positive multiple of the hop.
        """
        with torch.autocast(wave.device.type, enabled=False):
            log_power = self.mel(wave).clamp_min(self.floor).log()
            features = [self.basis.to(log_power.dtype) @ log_power]
            for _ in range(self.orders):
                features.append(deltas(features[-1], mask=mask))
            return torch.cat(features, 1)

    def receptive_span(self, frames: Span) -> Span:
        """Frames -> the samples that they depend on, by way of the slopes."""
        return self.mel.receptive_span(frames.wider(2 * self.orders))


def samples_of(name: str, milliseconds: float, sample_rate: int) -> int:
    """A length in ms as whole samples.

    Raises `UserInputError`, naming the nearest lengths that fit, where it is not one.
    """
    exact = milliseconds * sample_rate / 1000
    if exact < 1 or abs(exact - round(exact)) > 0.01:
        near = sorted({max(1, math.floor(exact)), math.floor(exact) + 1})
        fits = " or ".join(f"{1000 * count / sample_rate:.6g}" for count in near)
        problem = f"{milliseconds:g} ms is {exact:g} samples at {sample_rate} Hz"
        raise UserInputError(f"{name}: {problem}; expected whole samples, such as {fits}")
    return round(exact)


@spec
class LogMelSpec:
    """A log-mel spectrum for any sample rate: `fmax` (Hz) is lowered to half of it.

    `floor` is a magnitude.

    The default floor suits "slaney" filters, whose magnitudes are small; see `tacotron2` for the
    other usual pair.
    """

    kind: Literal["log_mel"] = "log_mel"
    bands: Annotated[int, Field(ge=1)] = option(default=80, help="mel bands")
    window_ms: Annotated[float, Field(gt=0)] = option(
        default=25.0, help="length of the analysis window"
    )
    hop_ms: Annotated[float, Field(gt=0)] = option(
        default=10.0, help="time from frame to frame; a whole number of samples"
    )
    fmin: Annotated[float, Field(ge=0)] = option(
        default=50.0, help="lower edge of the lowest band, Hz"
    )
    fmax: Annotated[float, Field(gt=0)] = option(
        default=7600.0, help="upper edge of the highest band, Hz; at most half the rate"
    )
    scale: MelScale = option(
        default="slaney", help="slaney: filters of equal area; htk: filters of peak one"
    )
    floor: Annotated[float, Field(gt=0)] = option(
        default=1e-5, help="smallest magnitude before the logarithm"
    )

    @classmethod
    def tacotron2(cls) -> LogMelSpec:
        """50 ms window, 12.5 ms hop, 80 bands from 125 to 7600 Hz, magnitudes clipped at 0.01.

        The paper does not name its mel filters; those of peak one are taken because its floor fits
        them.

        Reference: Shen et al., 2018, sec. 2.1. arXiv:1712.05884
        """
        return cls(
            bands=80, window_ms=50.0, hop_ms=12.5, fmin=125.0, fmax=7600.0, scale="htk", floor=0.01
        )

    def build(self, sample_rate: int) -> LogMel:
        """The module at this sample rate in Hz.

        Raises `UserInputError` for a hop that is no whole number of samples.
        """
        return LogMel(_mel_bands(self, sample_rate, power=1), self.floor)


@spec
class MFCCSpec:
    """Mel cepstra with deltas for any sample rate: `fmax` (Hz) is lowered to half of it.

    `floor` is a power.

    By default 13 cepstra with two orders of deltas, over 25 ms windows each 10 ms.

    Reference: Chorowski et al., 2019. arXiv:1901.08810
    """

    kind: Literal["mfcc"] = "mfcc"
    coefficients: Annotated[int, Field(ge=1)] = option(default=13, help="cepstra, c0 included")
    deltas: Annotated[int, Field(ge=0)] = option(
        default=2, help="orders of slopes that follow the cepstra"
    )
    bands: Annotated[int, Field(ge=1)] = option(default=40, help="mel bands")
    window_ms: Annotated[float, Field(gt=0)] = option(
        default=25.0, help="length of the analysis window"
    )
    hop_ms: Annotated[float, Field(gt=0)] = option(
        default=10.0, help="time from frame to frame; a whole number of samples"
    )
    fmin: Annotated[float, Field(ge=0)] = option(
        default=20.0, help="lower edge of the lowest band, Hz"
    )
    fmax: Annotated[float, Field(gt=0)] = option(
        default=7600.0, help="upper edge of the highest band, Hz; at most half the rate"
    )
    scale: MelScale = option(
        default="slaney", help="slaney: filters of equal area; htk: filters of peak one"
    )
    floor: Annotated[float, Field(gt=0)] = option(
        default=1e-10, help="smallest power before the logarithm"
    )

    def build(self, sample_rate: int) -> MFCC:
        """The module at this sample rate in Hz.

        Raises `UserInputError` for a hop that is no whole number of samples.
        """
        if self.coefficients > self.bands:
            problem = f"{self.coefficients} cepstra of {self.bands} mel bands"
            raise UserInputError(f"coefficients: {problem}; expected at most {self.bands}")
        return MFCC(
            _mel_bands(self, sample_rate, power=2), self.coefficients, self.deltas, self.floor
        )


class Pitch(nn.Module):
    """F0 and voicing by `vqwave.pitch_tracking`: (B, T) -> (B, 2, T / hop), v ln(F0 / 100 Hz) and v
    (1 voiced, 0 not).

    It runs on the CPU, a waveform at a time, and has no gradient: trainings take F0 from the corpus
    instead.
    """

    channels = 2
    log_mel: LogMel | None = None

    def __init__(self, sample_rate: int, hop: int, lowest: float, highest: float) -> None:
        super().__init__()
        self.sample_rate, self.hop, self.lowest, self.highest = sample_rate, hop, lowest, highest
        self.alignment = pitch_tracking.grid(sample_rate)

    def receptive_span(self, frames: Span) -> Span:
        """Frames -> the samples that they depend on."""
        reach = pitch_tracking.context(self.sample_rate)
        return frames.windowed(2 * reach + 1, self.hop, reach - self.hop // 2)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return (
            f"hop={self.hop}, lowest={self.lowest:g}, highest={self.highest:g},"
            f" sample_rate={self.sample_rate}"
        )

    @torch.no_grad()
    def forward(self, wave: Tensor, mask: Tensor | None = None) -> Tensor:
        """wave (B, T) in [-1, 1] -> (B, 2, T / hop), unvoiced beyond `mask`.

        mask (B, T / hop): true up to each utterance's end, where tracking ends, too: to its
        network, silence after the end is not the same as nothing. Raises `UserInputError` unless T
        is a positive multiple of the hop.
        """
        if wave.ndim != 2 or wave.size(1) == 0 or wave.size(1) % self.hop:
            problem = f"waveform of shape {tuple(wave.shape)}"
            raise UserInputError(
                f"{problem}: expected (batch, samples) with a multiple of {self.hop} samples"
            )
        rows = wave.detach().float().cpu().numpy()
        count = wave.size(1) // self.hop
        real = [count] * len(rows) if mask is None else mask.sum(1).tolist()
        f0 = np.zeros((len(rows), count), np.float32)
        settings = self.sample_rate, self.hop, self.lowest, self.highest
        for out, row, n in zip(f0, rows, real, strict=True):
            out[:n] = track(row[: n * self.hop], *settings)
        contours = torch.from_numpy(np.stack([contour(row) for row in f0]))
        return contours.to(wave.device, torch.promote_types(wave.dtype, torch.float32))


@spec
class PitchSpec:
    """F0 and voicing: van den Oord et al., 2016, sec. 3.2 condition on log F0 and linguistic
    features.
    """

    retired: ClassVar[dict[str, str]] = {
        "threshold": "the tracker is SwiftF0, which decides on voicing itself"
    }
    kind: Literal["pitch"] = "pitch"
    hop_ms: Annotated[float, Field(gt=0)] = option(
        default=5.0,
        help=(
            "time from frame to frame; a whole number of samples. At that of the corpus' own F0 (10"
            " ms) nothing is tracked"
        ),
    )
    fmin: Annotated[float, Field(gt=0)] = option(
        default=LOWEST, help="lowest F0, Hz; at least 46.875"
    )
    fmax: Annotated[float, Field(gt=0)] = option(
        default=HIGHEST, help="highest F0, Hz; at most 2093.75"
    )

    def build(self, sample_rate: int) -> Pitch:
        """The module at this sample rate in Hz.

        Raises `UserInputError` where the limits cross, or lie outside the tracker's.
        """
        if not RANGE[0] <= self.fmin < 1.05 * self.fmin < self.fmax <= RANGE[1]:
            expected = f"expected fmin < fmax between {RANGE[0]} and {RANGE[1]} Hz"
            raise UserInputError(f"pitch from {self.fmin:g} to {self.fmax:g} Hz: {expected}")
        return Pitch(
            sample_rate, samples_of("hop_ms", self.hop_ms, sample_rate), self.fmin, self.fmax
        )


Features = LogMel | MFCC | Pitch
FeatureSpec = Annotated[LogMelSpec | MFCCSpec | PitchSpec, Field(discriminator="kind")]


def _mel_bands(features: LogMelSpec | MFCCSpec, sample_rate: int, power: Literal[1, 2]) -> MelBands:
    if features.window_ms < features.hop_ms:
        problem = f"{features.window_ms:g} is shorter than hop_ms {features.hop_ms:g}"
        raise UserInputError(
            f"window_ms: {problem}; expected at least the hop, or samples would be left out"
        )
    return MelBands(
        sample_rate=sample_rate,
        window=max(2, round(features.window_ms * sample_rate / 1000)),
        hop=samples_of("hop_ms", features.hop_ms, sample_rate),
        bands=features.bands,
        fmin=features.fmin,
        fmax=min(features.fmax, sample_rate / 2),
        scale=features.scale,
        power=power,
    )
