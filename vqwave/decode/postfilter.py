r"""A spectral post-filter: short-time gains that move a waveform towards the log-mel frames that
its decoder was conditioned on.

A decoder's waveform is a draw: its own frames deviate from those that condition it. Where these are
predicted from codes, they have lost detail already, and each further deviation costs words.
With :math:`S_{kf}` the short-time spectrum of the waveform, :math:`M_{mf}` its magnitudes in mel
bands, :math:`c_{mf}` the log-mel frames that condition the decoder and :math:`w_{mk}` the share
of band m in bin k,

.. math:: S_{kf} \leftarrow S_{kf} \exp \sum_m w_{mk}
    \max(-L, \min(L, \alpha (c_{mf} - \ln M_{mf}))),

and the waveform nearest to that spectrum is taken (Griffin and Lim, 1984, eq. 6). Phases, harmonics
and noise stay as they were drawn. The strength :math:`\alpha` lies between 0, which leaves the
waveform as it is, and 1. Filters that sharpen what a codec made have long been a part of speech
codecs: Chen and Gersho, 1995, "Adaptive postfiltering for quality enhancement of coded speech".

Frames are filtered in blocks of one size that begin at fixed places, on one thread, so that a
stream has the bits of the whole, however it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.sampling import checked_strength
from vqwave.distributed.threads import limited_to
from vqwave.distributed.torch_defaults import ordinary
from vqwave.errors import UserInputError
from vqwave.features import LogMel
from vqwave.models.vqvae import VQVAE

STRENGTH = 0.75  # that a training puts into its model's card
BLOCK = 16  # frames
LIMIT = 1.5  # nats: 13 dB
LEAST = 1e-4  # sum of squared windows below which a sample stays: between windows that just touch

Floats = NDArray[np.float32]


def conditioning_spectrum(model: VQVAE | None) -> LogMel | None:
    """The log-mel features, predicted from codes, that condition the decoder; None for others."""
    if model is None or model.decoder_input == "latents" or model.spectral_decoder is None:
        return None
    return model.spectral_decoder.spectrum


def strength_of(about: Mapping[str, object], model: VQVAE | None) -> float:
    """The default: what a model's card has, else 0, as where there are no such frames.

    Raises UserInputError for another form.
    """
    given = about.get("postfilter", 0.0)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise UserInputError(f"the model's card: postfilter {given}: expected a number")
    strength = checked_strength(given)
    return 0.0 if conditioning_spectrum(model) is None else strength


def postfilter_of(model: VQVAE | None, strength: float | None) -> Postfilter | None:
    """Of an utterance that `model` decodes; None for strength 0, or without such frames."""
    features = conditioning_spectrum(model)
    return Postfilter(features, strength) if strength and features is not None else None


def postfiltered(
    model: VQVAE | None, wave: Tensor, spectrum: Tensor | None, strength: float | None
) -> Tensor:
    """A waveform (T,) on the CPU, decoded by `model` from the log-mel frames (1, M, F) -> (T,), a
    copy that may take part in a training.

    Raises UserInputError for one with NaN or infinities, as a high temperature makes them.
    """
    if not wave.isfinite().all():
        wanted = "expected a lower temperature, or other weights"
        raise UserInputError(f"the decoder's waveform has NaN or infinite samples, {wanted}")
    postfilter = postfilter_of(model, strength)
    if postfilter is None or spectrum is None:
        return ordinary(wave)
    filtered = postfilter.whole(wave.numpy(), spectrum[0].float().cpu().numpy())
    return ordinary(torch.from_numpy(filtered))


@dataclass
class PostfilterState:
    """Where a stream is: frame `frame` is the next to be filtered, and its window begins at the
    first sample that is kept.
    """

    wave: Floats  # (n,) samples that came
    frames: Floats  # (M, m) log-mel frames that came
    summed: Floats  # (fft - hop,) of windows before, from that first sample on
    weights: Floats  # sum of their squared windows
    frame: int = 0


FILTERED = ("wave", "frames", "summed", "weights")  # arrays of a state


class Postfilter:
    """One utterance: `push` samples and log-mel frames as they come, `flush` at the end.

    >>> postfilter = Postfilter(features, 0.5)              # doctest: +SKIP
    >>> filtered = postfilter.whole(wave, log_mel)          # doctest: +SKIP
    """

    def __init__(self, features: LogMel, strength: float, *, limit: float = LIMIT) -> None:
        """limit: of a gain, in nats. Raises UserInputError for a strength outside 0 to 1."""
        self.strength, self.limit, mel = checked_strength(strength), limit, features.mel
        self.hop, self.fft, self.before, self.floor = mel.hop, mel.fft, mel.before, features.floor
        filters = mel.filters.float().cpu()
        self.filters = filters.T.contiguous()  # (K, M)
        self.shares = filters / filters.sum(0).clamp_min(1e-12)  # (M, K)
        around = (self.fft - mel.window.numel()) // 2
        self.window = torch.zeros(self.fft)
        self.window[around : around + mel.window.numel()] = mel.window.float().cpu()
        overlap = np.zeros(self.fft - self.hop, np.float32)
        self.state = PostfilterState(
            np.zeros(self.before, np.float32),
            np.zeros((mel.bands, 0), np.float32),
            overlap,
            overlap.copy(),
        )

    @property
    def latency(self) -> int:
        """Samples that wait at the most."""
        return (BLOCK - 1) * self.hop + self.fft

    @property
    def sent(self) -> int:
        """Samples that came out."""
        return max(0, self.state.frame * self.hop - self.before)

    def whole(self, wave: Floats, frames: Floats) -> Floats:
        """wave (T,), frames (M, F) of all of it -> (T,)."""
        return np.concatenate([self.push(wave, frames), self.flush(len(wave))])

    @limited_to(1)
    def push(self, wave: Floats, frames: Floats) -> Floats:
        """Further samples (n,) and frames (M, m) -> the samples that they determine."""
        self._keep(wave, frames)
        state, step = self.state, BLOCK * self.hop
        blocks = min(
            state.frames.shape[1] // BLOCK, (len(state.wave) - self.fft + self.hop) // step
        )
        return self._filtered(max(0, blocks), BLOCK)

    @limited_to(1)
    def flush(self, samples: int) -> Floats:
        """The last of `samples` in all."""
        state, sent = self.state, self.sent
        left = state.frames.shape[1]
        blocks = -(-left // BLOCK)
        padding = max(0, (blocks * BLOCK - 1) * self.hop + self.fft - len(state.wave))
        self._keep(
            np.zeros(padding, np.float32), np.zeros((len(state.frames), -left % BLOCK), np.float32)
        )
        first, last = max(0, blocks - 1), left - BLOCK * max(0, blocks - 1)
        parts = [self._filtered(first, BLOCK), self._filtered(blocks - first, last)]
        rest = _nearest(state.summed, state.weights, state.wave)
        done = np.concatenate([*parts, rest[max(0, self.before - state.frame * self.hop) :]])
        return done[: samples - sent]

    def check(self, samples: int, frames: int) -> None:
        """Whether the state is one after so many samples and frames. Raises UserInputError."""
        state = self.state
        kept = {
            "samples": (len(state.wave), samples + self.before - state.frame * self.hop),
            "frames": (state.frames.shape[1], frames - state.frame),
        }
        for name, (given, expected) in kept.items():
            if given != expected:
                reason = f"the post-filter keeps {given} {name}, expected {expected}"
                raise UserInputError(f"this stream's state: {reason}")

    def _keep(self, wave: Floats, frames: Floats) -> None:
        state = self.state
        state.wave = np.concatenate([state.wave, wave])
        state.frames = np.concatenate([state.frames, frames], 1)

    def _filtered(self, blocks: int, real: int) -> Floats:
        """So many blocks, of each of which `real` frames are ones -> the samples that are done."""
        parts, state = [np.zeros(0, np.float32)], self.state
        step = BLOCK * self.hop
        for block in range(blocks):
            wave = state.wave[block * step :]
            frames = state.frames[:, block * BLOCK : (block + 1) * BLOCK]
            done = self._block(wave, np.ascontiguousarray(frames.T), real)
            parts.append(done[max(0, self.before - state.frame * self.hop) :])
            state.frame += BLOCK
        state.wave = state.wave[blocks * step :].copy()
        state.frames = state.frames[:, blocks * BLOCK :].copy()
        return np.concatenate(parts)

    def _block(self, wave: Floats, frames: Floats, real: int) -> Floats:
        """wave of a block's windows, frames (BLOCK, M) -> BLOCK hop samples."""
        windowed = torch.from_numpy(wave).unfold(0, self.fft, self.hop)[:BLOCK] * self.window
        spectrum = torch.fft.rfft(windowed)
        magnitude = torch.view_as_real(spectrum).square().sum(-1).sqrt()
        bands = (magnitude @ self.filters).clamp_min(self.floor).log()
        moved = (self.strength * (torch.from_numpy(frames) - bands)).clamp(-self.limit, self.limit)
        pieces = torch.fft.irfft(spectrum * (moved @ self.shares).exp(), self.fft) * self.window
        state, step = self.state, BLOCK * self.hop
        summed = self._added(state.summed, pieces[:real])
        weights = self._added(state.weights, self.window.square().expand(real, -1))
        state.summed, state.weights = summed[step:], weights[step:]
        return _nearest(summed[:step], weights[:step], wave)

    def _added(self, overlap: Floats, pieces: Tensor) -> Floats:
        """What earlier windows have left, and pieces (n, fft), each `hop` samples after the last ->
        their sum, BLOCK hop samples and what they leave.
        """
        parts = -(-self.fft // self.hop)
        padded = torch.nn.functional.pad(pieces, (0, parts * self.hop - self.fft))
        summed = np.zeros((BLOCK + parts, self.hop), np.float32)
        for part, each in enumerate(padded.unflatten(1, (parts, self.hop)).unbind(1)):
            summed[part : part + len(each)] += each.numpy()
        total = summed.reshape(-1)[: BLOCK * self.hop + len(overlap)]
        total[: len(overlap)] += overlap
        return total


def _nearest(summed: Floats, weights: Floats, wave: Floats) -> Floats:
    """Windows, summed, and the samples that they were of -> samples in [-1, 1]."""
    nearest = summed / np.maximum(weights, LEAST)
    return np.clip(np.where(weights >= LEAST, nearest, wave[: len(nearest)]), -1, 1)
