"""A recording as a model is trained on it: mono, no DC, the model's rate and level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vqwave import inputs
from vqwave.audio import Wave, downmix, normalise_level, remove_dc, resample, silence_in
from vqwave.errors import SilenceError, UserInputError


def prepare(wave: Tensor | NDArray, source: int, target: int, level: float) -> Wave:
    """A recording (see `inputs`) at `source` Hz -> (T,) at `target` Hz: mono, no DC, `level` dBFS.

    Raises UserInputError, for silence `SilenceError`.
    """
    samples, source = inputs.waveform(wave), inputs.sample_rate(source)
    samples = downmix(samples.T) if samples.ndim == 2 else samples
    if not len(samples) or not np.isfinite(samples).all():
        raise UserInputError("the recording is empty or not finite, expected audio")
    samples = _refuse_silence(remove_dc(samples))
    return normalise_level(_refuse_silence(resample(samples, source, target)), level)


def _refuse_silence(wave: Wave) -> Wave:
    """(T,) without DC, as it is.

    Raises SilenceError where it is silent, by the rule of `audio`.
    """
    if (silence := silence_in(wave)) is not None:
        raise SilenceError(f"the recording is {silence}, expected audio")
    return wave
