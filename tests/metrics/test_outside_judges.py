"""Speaker similarity and naturalness: front ends by hand, real weights on real speech."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vqwave.audio import level_db, read
from vqwave.errors import UnavailableError
from vqwave.metrics import naturalness
from vqwave.metrics.naturalness import dnsmos, windows
from vqwave.metrics.recognition import error_sums, recogniser
from vqwave.speaker_encoder import (
    HOP,
    RATE,
    WINDOW,
    SpeakerEncoder,
    speaker_encoder,
    unit,
    voice_of,
    window_starts,
)


def test_windows_of_a_voice() -> None:
    assert window_starts(100) == [0]
    assert window_starts(WINDOW * HOP) == [0]
    assert window_starts(3 * RATE) == [0, 77, 154]  # the third lacks an eighth
    assert window_starts(round(2.4 * RATE)) == [0, 77]
    assert window_starts(round(2.2 * RATE)) == [0, 77]
    assert window_starts(round(1.9 * RATE)) == [0]  # a second one would be two thirds full


def test_an_embedding_is_a_unit_vector_at_any_level_and_rate() -> None:
    torch.manual_seed(0)
    encoder = SpeakerEncoder().eval()
    rng = np.random.default_rng(0)
    wave = (0.1 * rng.standard_normal(2 * RATE)).astype(np.float32)
    loud = encoder.embed(wave, RATE)
    assert np.linalg.norm(loud) == pytest.approx(1)
    assert (loud >= 0).all()
    lowest = wave * np.float32(10 ** ((-30 - level_db(wave)) / 20))
    np.testing.assert_allclose(
        encoder.embed(1e-3 * wave, RATE), encoder.embed(lowest, RATE), atol=1e-5
    )
    assert encoder.embed(wave[:8000], 8000).shape == (256,)
    assert np.isfinite(encoder.embed(np.zeros(1000, np.float32), RATE)).all()


def test_a_voice_is_the_mean_direction() -> None:
    np.testing.assert_allclose(
        voice_of([np.array([2.0, 0.0]), np.array([0.0, 2.0])]), [0.5**0.5] * 2
    )
    assert not unit(np.zeros(3)).any()


def test_windows_of_naturalness() -> None:
    size = windows(np.zeros(10, np.float32))[0].size
    assert size == 144160
    ramp = np.linspace(0, 0.5, 16000, dtype=np.float32)
    np.testing.assert_array_equal(windows(ramp)[0][16000:17000], ramp[:1000])  # repeated
    assert len(windows(np.zeros(size, np.float32))) == 1
    assert len(windows(np.zeros(size + 16000, np.float32))) == 2
    assert windows(np.full(size, 3.0, np.float32))[0].max() == 1.0
    assert len(windows(np.zeros(0, np.float32))) == 1


@pytest.mark.parametrize(("build", "extra"), [(speaker_encoder, "voices"), (dnsmos, "judges")])
def test_a_missing_package_is_named(
    build: Callable[[], object], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naturalness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=rf"is not installed: .*vqwave\[{extra}\]"):
        build()


def test_the_real_judges_on_real_speech(speech_data: Path) -> None:
    """A recording is understood, nearer to its own speaker, more natural than in noise."""
    for package in ("faster_whisper", "jiwer", "resemblyzer", "speechmos", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    folder = speech_data / "librispeech_sub"
    if not folder.is_dir():
        pytest.skip(f"no librispeech_sub in {speech_data}")
    try:
        words = recogniser()
    except UnavailableError as error:
        pytest.skip(str(error))
    wave, rate = read(folder / "26/26-495-0080.flac")
    text = "AND AT THAT JUNCTURE I HAPPENED TO STOP TURNING OVER THE BOOK"
    edits, count = error_sums([text], [words.transcribe(wave, rate)])[0, :2]
    assert count == 12
    assert edits <= 1
    encoder, score = speaker_encoder(), dnsmos()
    same = encoder.embed(read(folder / "26/26-495-0000.flac", frames=5 * rate)[0], rate)
    other = encoder.embed(read(folder / "27/27-124992-0070.flac")[0], rate)
    own = encoder.embed(wave, rate)
    assert own @ same > own @ other + 0.1
    noisy = wave + 0.05 * np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    assert score(wave, rate) > score(noisy, rate) + 0.5
