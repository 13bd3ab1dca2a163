r"""Linear prediction around a WaveNet: an all-pole predictor from its conditioning frames, and taps
one pitch period ago.

.. math:: p_t = \sum_{k=1}^{P} a_k(t)\, x_{t-k}, \qquad e_t = x_t - p_t

The coefficients a come from the log-mel frames that condition the decoder (the spectral envelope's
autocorrelation, Levinson and Durbin), so a decoder of codes computes them, too. The network's
locations are relative to p_t. Its input is x_{t-1}, the residual e_{t-1}, the prediction p_t and,
in voiced frames, the residual around one pitch period T0 ago, e_{t-T0-m}, ..., e_{t-T0+m}.
Short-term prediction leaves the network the excitation alone to model; the pitch taps bring the
last glottal pulse into its receptive field.

References: Markel and Gray, 1976, "Linear Prediction of Speech", ch. 2 and 3; Valin and Skoglund,
2019 (LPCNet). arXiv:1810.11846; Hwang et al., 2018 (LP-WaveNet). arXiv:1811.11913; the pitch taps
are the long-term predictor of CELP coders, learned; cf. Wu et al., 2020 (QPNet). arXiv:2007.12955
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.features import LogMel
from vqwave.nn.repeat import repeated

LOWEST_F0 = 50.0  # Hz: no pitch period is longer than one of this
HIGHEST_F0 = 600.0


@spec
class LinearPredictorSpec:
    """An all-pole predictor from the spectral frames that condition the decoder."""

    kind: Literal["linear"] = "linear"
    order: Annotated[int, Field(ge=1, le=64)] = option(
        default=16, help="past samples that a prediction is made of"
    )
    lag_window_hz: Annotated[float, Field(ge=0)] = option(
        default=40.0,
        help="width of the window on the autocorrelation: broadens formants, so that no pole comes"
        " near 1",
    )
    white_noise_db: Annotated[float, Field(le=-20)] = option(
        default=-40.0,
        help="white noise added to the spectrum, dB below its power: bounds the prediction gain",
    )
    interpolation: Literal[1, 2, 4, 8] = option(
        default=1,
        help="predictors a frame, made from linearly interpolated log spectra; 1: one, held",
    )

    def build(self, features: LogMel, sample_rate: int, pitch_taps: int) -> LinearPredictor:
        """features: the log-mel that the frames are.

        pitch_taps: 0, or an odd number. Raises UserInputError otherwise.
        """
        if pitch_taps and pitch_taps % 2 == 0:
            raise UserInputError(
                f"pitch_taps: {pitch_taps}, expected 0 or an odd number: as many before the period"
                " as after it"
            )
        analysis = SpectralPredictor(self, features, sample_rate)
        return LinearPredictor(analysis, sample_rate, pitch_taps)


def levinson(autocorrelation: Tensor) -> Tensor:
    r"""Autocorrelation r (..., P + 1) -> the coefficients a (..., P) that minimise E (x_t - \sum_k
    a_k x_{t-k})^2.

    The synthesis filter 1 / A is stable wherever r is positive definite: every reflection
    coefficient is below 1. Levinson, 1947; Durbin, 1960; Markel and Gray, 1976, sec. 3.3.
    """
    r = autocorrelation
    a, error = r[..., :0], r[..., 0]
    for i in range(r.shape[-1] - 1):
        reflection = (r[..., i + 1] - (a * r[..., 1 : i + 1].flip(-1)).sum(-1)) / error
        a = torch.cat([a - reflection[..., None] * a.flip(-1), reflection[..., None]], -1)
        error = error * (1 - reflection.square())
    return a


class SpectralPredictor(nn.Module):
    """Log-mel frames -> predictor coefficients. No parameters; arithmetic in float64.

    The spectral envelope at the bins of an FFT is interpolated linearly between the centres of the
    mel bands, in the logarithm: it is positive everywhere, and so is the autocorrelation's Toeplitz
    matrix definite: the filters are stable.
    """

    envelope: Tensor
    offset: Tensor
    window: Tensor

    def __init__(self, spec: LinearPredictorSpec, features: LogMel, sample_rate: int) -> None:
        super().__init__()
        self.order, self.interpolation = spec.order, spec.interpolation
        filters = features.mel.filters.double()  # (M, bins)
        bins = torch.arange(filters.shape[1], dtype=torch.float64)
        area = filters.sum(1)
        centres = (filters @ bins) / area
        place = torch.searchsorted(centres, bins).clamp(1, len(centres) - 1)
        share = ((bins - centres[place - 1]) / (centres[place] - centres[place - 1])).clamp(0, 1)
        envelope = torch.zeros(len(bins), len(centres), dtype=torch.float64)
        envelope.scatter_(1, place[:, None], share[:, None])
        envelope.scatter_(1, place[:, None] - 1, 1 - share[:, None])
        lag = torch.arange(spec.order + 1, dtype=torch.float64)
        window = (-0.5 * (2 * math.pi * spec.lag_window_hz / sample_rate * lag).square()).exp()
        window[0] += 10 ** (spec.white_noise_db / 10)
        self.register_buffer("envelope", envelope, persistent=False)  # (bins, M)
        self.register_buffer("offset", area.log()[:, None], persistent=False)  # (M, 1)
        self.register_buffer("window", window, persistent=False)  # (P + 1,)

    def _apply(self, fn, recurse=True):  # noqa: ANN001, ANN202, FBT002 - as in torch
        """Moves between devices, but stays in float64."""
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers(recurse=False):
            setattr(self, name, buffer.double())
        return self

    def forward(self, log_mel: Tensor) -> Tensor:
        """log_mel (B, M, F), natural logarithm of magnitudes -> a (B, P, F interpolation), in the
        dtype of log_mel.
        """
        with torch.autocast(log_mel.device.type, enabled=False):
            level = self.subframes(log_mel.double()) - self.offset
            power = (2 * (self.envelope @ level)).exp()  # (B, bins, F)
            r = torch.fft.irfft(power, dim=1)[:, : self.order + 1].transpose(1, 2) * self.window
            return levinson(r).transpose(1, 2).to(log_mel.dtype)

    def subframes(self, frames: Tensor) -> Tensor:
        """(B, C, F) -> (B, C, F n): n values a frame at the centres of its parts, interpolated
        between frames' centres.
        """
        n = self.interpolation
        if n == 1:
            return frames
        at = (torch.arange(n, dtype=frames.dtype, device=frames.device) + 0.5) / n - 0.5
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        after = torch.cat([frames[..., 1:], frames[..., -1:]], -1)
        parts = [torch.lerp(frames, before if a < 0 else after, abs(a)) for a in at.tolist()]
        return torch.stack(parts, -1).flatten(-2)


@dataclass(frozen=True)
class Predicted:
    """location p (B, n); inputs (B, 1 + pitch taps, n): the residual before each sample, and around
    one period ago.
    """

    location: Tensor
    inputs: Tensor


@dataclass
class PredictorState:
    """samples (B, P) and residuals (B, memory) before the chunk's past; prediction (B, 1) of its
    first sample.
    """

    samples: Tensor
    residuals: Tensor
    prediction: Tensor


class LinearPredictor(nn.Module):
    """What a WaveNet gets of linear prediction. No parameters.

    A column holds the coefficients and, with pitch taps, the pitch period in samples, 0 where
    unvoiced. `analyse` makes the n = `interpolation` columns of each frame; they follow the frames'
    own channels wherever a decoder's features go.
    """

    def __init__(self, analysis: SpectralPredictor, sample_rate: int, pitch_taps: int) -> None:
        super().__init__()
        self.analysis, self.sample_rate, self.pitch_taps = analysis, sample_rate, pitch_taps
        self.order = analysis.order
        self.shortest = max(math.ceil(sample_rate / HIGHEST_F0), pitch_taps // 2 + 1)
        self.longest = max(math.ceil(sample_rate / LOWEST_F0), self.shortest)

    @property
    def channels(self) -> int:
        """Of a column."""
        return self.order + bool(self.pitch_taps)

    @property
    def frame_channels(self) -> int:
        """Of what `analyse` makes of a frame."""
        return self.channels * self.analysis.interpolation

    @property
    def input_channels(self) -> int:
        """What the network's input has in addition to the last sample: residual, pitch taps,
        prediction.
        """
        return 2 + self.pitch_taps

    @property
    def memory(self) -> int:
        """Residuals that the pitch taps reach back to."""
        return self.longest + self.pitch_taps // 2 if self.pitch_taps else 0

    def analyse(self, log_mel: Tensor, pitch: Tensor | None = None) -> Tensor:
        """log_mel (B, M, F), pitch (B, 2, F) of v ln(F0 / 100 Hz) and v (voiced from 0.5 on) -> (B,
        frame_channels, F).

        Raises UserInputError where there are pitch taps and no pitch.
        """
        coefficients = self.analysis(log_mel)
        if not self.pitch_taps:
            return self._packed(coefficients)
        if pitch is None:
            raise UserInputError(
                "pitch_taps: the decoder's frames carry no pitch, expected features of kind pitch"
                " or pitch codes"
            )
        log_f0, voicing = pitch.double().unbind(1)
        period = (self.sample_rate / (100.0 * (log_f0 / voicing.clamp_min(0.5)).exp())).round()
        period = torch.where(voicing >= 0.5, period.clamp(self.shortest, self.longest), 0.0)
        period = repeated(period, self.analysis.interpolation)
        return self._packed(torch.cat([coefficients, period[:, None].to(coefficients.dtype)], 1))

    def _packed(self, columns: Tensor) -> Tensor:
        """(B, C, F n) -> (B, C n, F)."""
        n = self.analysis.interpolation
        return columns.unflatten(-1, (-1, n)).transpose(2, 3).flatten(1, 2)

    def columns(self, packed: Tensor) -> Tensor:
        """What `analyse` made (B, frame_channels, F) -> (B, channels, F n)."""
        return packed.unflatten(1, (self.channels, -1)).transpose(2, 3).flatten(2)

    def voiced(self, columns: Tensor) -> Tensor | None:
        """columns (B, channels, n) -> which are of voiced frames, (B, n); None: without pitch taps
        it is not known.
        """
        return columns[:, self.order] > 0 if self.pitch_taps else None

    def silent(self, like: Tensor) -> PredictorState:
        """Before the first sample, for like (B, ...)."""
        B = len(like)
        return PredictorState(
            like.new_zeros(B, self.order), like.new_zeros(B, self.memory), like.new_zeros(B, 1)
        )

    def forward(
        self, last: Tensor, columns: Tensor, state: PredictorState | None = None
    ) -> Predicted:
        """last (B, n): the samples *before* those that are predicted; columns (B or 1, channels,
        n): held at these samples.

        A state, if given, is read and moved on in place; none: `last` begins with the silence
        before the first sample.
        """
        with torch.autocast(last.device.type, enabled=False):
            state = self.silent(last) if state is None else state
            n = last.shape[1]
            now = columns.to(last.dtype)
            samples = torch.cat([state.samples, last], 1)
            windows = samples[:, 1:].unfold(1, self.order, 1)  # (B, n, P), oldest first
            location = torch.einsum(
                "bpn,bnp->bn", now[:, : self.order].flip(1).expand(len(last), -1, -1), windows
            )
            residual = last - torch.cat([state.prediction, location[:, :-1]], 1)
            residuals = torch.cat([state.residuals, residual], 1)
            taps = self._pitch_taps(residuals, now[:, self.order :], n)
            state.samples, state.prediction = samples[:, n:], location[:, -1:]
            state.residuals = residuals[:, residuals.shape[1] - self.memory :]
            return Predicted(location, torch.stack([residual, *taps], 1))

    def _pitch_taps(self, residuals: Tensor, period: Tensor, n: int) -> list[Tensor]:
        """residuals (B, memory + n), period (B, 1, n) -> for each tap the residual there, zero
        where unvoiced, (B, n).
        """
        if not self.pitch_taps:
            return []
        period = period[:, 0].long().expand(len(residuals), -1)
        # place of the residual of the sample before
        newest = self.memory + torch.arange(n, device=residuals.device)
        reach = self.pitch_taps // 2
        places = [
            (newest + 1 - period + d).clamp(0, residuals.shape[1] - 1)
            for d in range(-reach, reach + 1)
        ]
        return [torch.where(period > 0, residuals.gather(1, place), 0.0) for place in places]

    def extra_repr(self) -> str:
        return f"order={self.order}, pitch_taps={self.pitch_taps}"
