"""PESQ and STOI: where they are defined, what they say of a copy and of noise, and why they say
nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vqwave.audio import Wave
from vqwave.data import demo, prepare
from vqwave.errors import UnavailableError
from vqwave.metrics.perceptual import defined, pesq_measure, stoi_measure

LAST = demo.TAKES - 1  # the take of a digit that is held out


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Wave:
    """A second of made-up speech at 8 kHz."""
    pytest.importorskip("espeakng_loader")
    from vqwave.data import Corpus

    folder: Path = tmp_path_factory.mktemp("perceptual") / "demo"
    few = [line for line in demo.lines() if line.text in demo.DIGITS and line.take in (0, LAST)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo, "lines", lambda: few)
        prepare("demo", None, folder, sample_rate=8000, quiet=True)
    corpus = Corpus.open(folder)
    return np.concatenate([corpus.read(row) for row in corpus.of("test")[:4]])


def test_pesq_is_for_two_rates() -> None:
    with pytest.raises(UnavailableError, match="not at 22,050 Hz"):
        pesq_measure(22050)


@pytest.mark.parametrize("name", ["pesq", "stoi"])
def test_a_copy_is_best_and_noise_is_worse(name: str, speech: Wave) -> None:
    pytest.importorskip({"pesq": "pesq", "stoi": "pystoi"}[name])
    measure = {"pesq": pesq_measure, "stoi": stoi_measure}[name](8000)
    noise = (
        np.random.default_rng(0).normal(0, 1, len(speech)).astype(np.float32)
        * np.abs(speech).mean()
    )
    best, noisy = measure(speech, speech), measure(speech, speech + noise)
    assert best > {"pesq": 4.2, "stoi": 0.999}[name]
    assert noisy < {"pesq": 3.0, "stoi": 0.95}[name]
    found = defined(
        measure,
        0.5,
        8000,
        [speech, speech[:1600], speech, np.zeros_like(speech)],
        [speech, speech[:1600], np.zeros_like(speech), speech],
    )
    # too short; a silent copy of speech; a silent recording
    assert np.isfinite(found).tolist() == [True, False, True, False]
    assert found[2] == 0.5


def test_too_little_speech_is_said(speech: Wave) -> None:
    pytest.importorskip("pystoi")
    measure = stoi_measure(8000)
    short = np.concatenate([speech[:1200], np.zeros(4000, np.float32)])
    with pytest.raises(ValueError, match="30 frames"):
        measure(short, short)
