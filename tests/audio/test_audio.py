"""Files, rates, levels and mu-law."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqwave import audio
from vqwave.errors import Note, UserInputError


def tone(hertz: float, rate: int, seconds: float = 0.5, amplitude: float = 0.5) -> audio.Wave:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(
        np.float32
    )


@pytest.mark.parametrize("classes", [2, 16, 255, 256, 1024, 65536])
def test_every_mu_law_code_comes_back(classes: int) -> None:
    codes = torch.arange(classes)
    x = audio.mu_law_decode(codes, classes)
    assert torch.equal(audio.mu_law_encode(x, classes), codes)
    assert bool((x[1:] > x[:-1]).all())
    assert -1.0 <= x[0].item() < -1.0 + 1e-6
    assert 1.0 - 1e-6 < x[-1].item() <= 1.0


def test_mu_law_is_convention_a() -> None:
    """REFERENCE: silence is code 128 and decodes to +8.6e-5; mu is 255, not 256."""
    assert audio.mu_law_encode(torch.zeros(1)).item() == 128
    assert audio.mu_law_decode(torch.tensor([128])).item() == pytest.approx(8.6e-5, rel=0.01)
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64)
    f = x.sign() * torch.log(1 + 255 * x.abs()) / math.log(256)
    assert torch.equal(audio.mu_law_encode(x), torch.floor((f + 1) / 2 * 255 + 0.5).long())


def test_mu_law_takes_what_is_out_of_range() -> None:
    assert audio.mu_law_encode(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


def test_what_is_clipped_is_noted(tmp_path: Path) -> None:
    """A waveform in the numbers of int16, say."""
    with pytest.warns(Note, match=r"x\.wav: 2 of 3 samples lie beyond \[-1, 1\] and are clipped"):
        audio.write(tmp_path / "x.wav", np.array([300.0, 0.5, -1.5], np.float32), 8000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audio.write(tmp_path / "x.wav", np.array([1.0, 0.5, -1.0], np.float32), 8000)
        audio.write(tmp_path / "x.wav", np.array([-32768, 5, 32767], np.int16), 8000)


def test_int16_rounds_to_nearest_and_clips() -> None:
    x = np.array([-2.0, -1.0, -0.6 / 32768, 0.4 / 32768, 0.6 / 32768, 1.0], np.float32)
    assert audio.to_int16(x).tolist() == [-32768, -32768, -1, 0, 1, 32767]
    codes = np.arange(-32768, 32768).astype(np.int16)
    assert np.array_equal(audio.to_int16(audio.from_int16(codes)), codes)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_is_read_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "new" / f"x{suffix}"
    wave = audio.from_int16(np.array([0, 1, -1, 32767, -32768, 12345] * 50, np.int16))
    audio.write(path, torch.from_numpy(wave), 8000)
    back, rate = audio.read(path)
    assert rate == 8000
    assert np.array_equal(back, wave)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    stretch, _ = audio.read(path, start=3, frames=2)
    assert np.array_equal(stretch, wave[3:5])


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path) -> None:
    wrong = (
        (tmp_path / "x.mp3", tone(100, 8000)),
        (tmp_path / "x.wav", np.zeros((2, 5), np.float32)),
    )
    for path, wave in (*wrong, (tmp_path / "y.wav", np.full(5, np.nan, np.float32))):
        with pytest.raises(UserInputError, match=path.name):
            audio.write(path, wave, 8000)
    assert list(tmp_path.iterdir()) == []


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = tone(100, 8000, amplitude=0.5), tone(230, 8000, amplitude=0.3)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], axis=1), 8000, subtype="FLOAT")
    wave, _ = audio.read(tmp_path / "x.wav")
    assert wave.shape == left.shape
    np.testing.assert_allclose(wave, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize(
    ("source", "target"), [(44100, 16000), (8000, 16000), (48000, 24000), (22050, 8000)]
)
def test_resampling_keeps_a_tone(source: int, target: int) -> None:
    out = audio.resample(tone(1000, source), source, target)
    expected = tone(1000, target)
    assert out.dtype == np.float32
    assert len(out) == len(expected)
    inner = slice(target // 20, -target // 20)
    np.testing.assert_allclose(out[inner], expected[inner], atol=2e-3)


def test_resampling_removes_what_would_alias() -> None:
    out = audio.resample(tone(6000, 16000), 16000, 8000)
    assert audio.level_db(out[400:-400]) < -60


@pytest.mark.parametrize(("source", "target"), [(16000, 8000), (44100, 16000), (8000, 16000)])
def test_resampling_is_flat_in_its_band_and_silent_above_it(source: int, target: int) -> None:
    """0.05 dB of droop at most, aliases and images 80 dB down."""
    band, inner = min(source, target) / 2, slice(target // 20, -target // 20)
    for hz in (0.1 * band, 0.5 * band, 0.9 * band):
        out = audio.resample(tone(hz, source), source, target)[inner]
        phase = 2 * np.pi * hz * np.arange(target // 2)[inner] / target
        basis = np.stack([np.cos(phase), np.sin(phase)], 1)
        fit = np.linalg.lstsq(basis, out.astype(np.float64), rcond=None)[0]
        assert abs(20 * math.log10(np.hypot(*fit) / 0.5)) < 0.05
        assert audio.level_db(out - (basis @ fit).astype(np.float32)) < audio.level_db(out) - 80
    if target < source:
        out = audio.resample(tone(1.05 * band, source), source, target)[inner]
        assert audio.level_db(out) < -80


def test_level_of_known_waves() -> None:
    assert audio.level_db(np.ones(100, np.float32)) == pytest.approx(0.0)
    assert audio.level_db(tone(100, 8000, amplitude=1.0)) == pytest.approx(-3.01, abs=0.01)
    assert audio.level_db(np.zeros(100, np.float32)) == -math.inf
    assert audio.level_db(np.zeros(0, np.float32)) == -math.inf


def test_dc_goes_and_level_comes() -> None:
    quiet = tone(200, 8000, amplitude=0.004) + np.float32(0.3)
    wave = audio.normalise_level(audio.remove_dc(quiet))
    assert abs(float(wave.mean())) < 1e-6
    assert audio.level_db(wave) == pytest.approx(-23.0, abs=1e-3)


def test_the_peak_is_held_under_its_limit() -> None:
    click = np.zeros(8000, np.float32)
    click[100] = 0.2
    wave = audio.normalise_level(click)
    assert 20 * math.log10(float(np.abs(wave).max())) == pytest.approx(-0.5, abs=1e-3)
    assert audio.level_db(wave) < -23.0
    assert np.array_equal(audio.normalise_level(np.zeros(5, np.float32)), np.zeros(5, np.float32))
