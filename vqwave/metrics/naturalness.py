"""Predicted mean opinion scores: DNSMOS (P.835, overall), pretrained on ratings.

Of the package speechmos only the weights are read (ONNX), so that librosa is not loaded.

Reference: Reddy et al., 2022, "DNSMOS P.835: A Non-Intrusive Perceptual Objective Speech Quality
Metric". arXiv:2110.01763
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vqwave.audio import Wave, resample
from vqwave.errors import UnavailableError

RATE = 16000
SECONDS = 9.01  # of what the network takes at once
# the polynomial from its output to the scale of opinions, highest power first
OVERALL = (-0.06766283, 1.11546468, 0.04602535)
Scorer = Callable[[Wave, int], float]


def dnsmos() -> Scorer:
    """From a waveform (T,) at a rate in Hz to its overall score, about 1 to 5.

    Raises UnavailableError without the packages.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise UnavailableError(
            "the package onnxruntime is not installed: pip install 'vqwave[judges]'"
        )
    package = importlib.util.find_spec("speechmos")
    if package is None or not package.submodule_search_locations:
        raise UnavailableError(
            "the package speechmos is not installed: pip install 'vqwave[judges]'"
        )
    import onnxruntime

    path = (
        Path(next(iter(package.submodule_search_locations))) / "dnsmos_models" / "sig_bak_ovr.onnx"
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def score(wave: Wave, sample_rate: int) -> float:
        batches = (
            session.run(None, {"input_1": window[None]})[0]
            for window in windows(resample(wave, sample_rate, RATE))
        )
        return float(np.mean([np.polyval(OVERALL, float(output[0, 2])) for output in batches]))

    return score


def windows(wave: Wave) -> list[Wave]:
    """9.01 s from each second of a recording at 16 kHz; a shorter one is repeated to fill it.

    >>> [len(window) for window in windows(np.zeros(11 * RATE, np.float32))]
    [144160, 144160]
    """
    size = int(SECONDS * RATE)
    wave = np.clip(np.asarray(wave, np.float32), -1.0, 1.0)
    while len(wave) < size:
        wave = np.concatenate([wave, wave]) if len(wave) else np.zeros(size, np.float32)
    count = max(1, (len(wave) - size) // RATE + 1)
    return [wave[i * RATE : i * RATE + size] for i in range(count)]
