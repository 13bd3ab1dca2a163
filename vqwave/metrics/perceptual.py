"""PESQ and STOI by their usual packages."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from vqwave.audio import Wave
from vqwave.errors import UnavailableError

SHORTEST = 0.4  # seconds; PESQ needs a quarter of a second, STOI 30 frames of speech
Measure = Callable[[Wave, Wave], float]


def pesq_measure(sample_rate: int) -> Measure:
    """PESQ (MOS-LQO, 1 to 4.6), narrow band at 8 kHz and wide band at 16 kHz.

    ITU-T P.862 and P.862.2. A recording in which PESQ detects no speech raises ValueError. Raises
    UnavailableError at other rates, and without the package.
    """
    if sample_rate not in (8000, 16000):
        raise UnavailableError(f"PESQ is defined at 8 and 16 kHz, not at {sample_rate:,} Hz")
    try:
        import pesq
    except ImportError:
        raise UnavailableError(
            "the package pesq is not installed: pip install 'vqwave[pesq]' (it needs a C compiler)"
        ) from None
    mode = "nb" if sample_rate == 8000 else "wb"

    def measure(recording: Wave, copy: Wave) -> float:
        try:
            return float(pesq.pesq(sample_rate, recording, copy, mode))
        except pesq.PesqError as error:
            raise ValueError(type(error).__name__) from None

    return measure


def stoi_measure(sample_rate: int) -> Measure:
    """STOI (0 to 1).

    A recording with less than 30 frames of speech raises ValueError. Raises UnavailableError
    without the package.

    Reference: Taal et al., 2011, "An algorithm for intelligibility prediction of time-frequency
    weighted noisy speech".
    """
    try:
        import pystoi
    except ImportError:
        raise UnavailableError(
            "the package pystoi is not installed: pip install 'vqwave[metrics]'"
        ) from None

    def measure(recording: Wave, copy: Wave) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                return float(pystoi.stoi(recording, copy, sample_rate))
            except RuntimeWarning:
                raise ValueError("less than 30 frames of speech") from None

    return measure


def defined(
    measure: Measure,
    worst: float,
    sample_rate: int,
    recordings: Sequence[Wave],
    copies: Sequence[Wave],
) -> np.ndarray:
    """The measure of each pair, (N,), NaN where it is not defined for the recording: shorter than
    `SHORTEST`, or no speech detected. A copy in which none is detected, such as silence, has
    `worst`, so that which utterances count depends on the recordings alone.
    """
    values = np.full(len(recordings), np.nan)
    for i, (recording, copy) in enumerate(zip(recordings, copies, strict=True)):
        if len(recording) < SHORTEST * sample_rate or not np.any(recording):
            continue
        value = _value(measure, recording, copy) if np.any(copy) else None
        if value is None and _value(measure, recording, recording) is not None:
            value = worst
        values[i] = np.nan if value is None else value
    return values


def _value(measure: Measure, recording: Wave, copy: Wave) -> float | None:
    try:
        return measure(recording, copy)
    except ValueError:
        return None
