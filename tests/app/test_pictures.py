"""Sounds as HTML: every contour of F0, and codes of every length."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import soundfile
import torch

from vqwave.app import pictures
from vqwave.app.session import Sound, Take
from vqwave.codes import CodeSequence, from_bytes

WAVE = np.sin(np.arange(800) / 5).astype(np.float32) / 4


@pytest.mark.parametrize(
    ("f0", "lines"),
    [
        ([], 0),
        ([0, 0, 0], 0),
        ([0, 150, 0], 1),  # a voiced frame alone
        ([150, 160, 0, 140], 2),
        ([20, 5000], 1),  # beyond the picture
    ],
)
def test_each_voiced_stretch_is_a_line(
    f0: list[float], lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "track", lambda *_: np.array(f0, np.float32))
    html = pictures.cards([Sound("a", WAVE, 8000)], "x")
    contour = re.findall(r'<path d="([^"]*)"/></svg></div>', html)[0]
    assert contour.count("M") == lines
    heights = [float(number) for number in re.findall(r" ([\d.-]+)", contour)]
    assert all(0 <= height <= 40 for height in heights)


@pytest.mark.parametrize(
    ("seconds", "longest", "marks"),
    [
        (0.73, 0.73, ["0", "0.2", "0.4", "0.6 s"]),
        (1.0, 4.5, ["0", "1 s"]),
        (30.0, 30.0, ["0", "10", "20", "30 s"]),
        (0.05, 0.05, ["0 s"]),
    ],
)
def test_marks_of_time(seconds: float, longest: float, marks: list[str]) -> None:
    found = re.findall(r"left:([\d.]+)%\">([^<]*)<", pictures._times(seconds, longest))
    assert [text for _, text in found] == marks
    for left, text in found:
        assert float(left) == pytest.approx(100 * float(text.removesuffix(" s")) / seconds, abs=0.1)


def test_frequencies_are_beside_the_pictures() -> None:
    html = pictures.cards([Sound("a", WAVE, 8000)], "x")
    axis, lanes = re.findall(
        r'<div class="vq-axis"[^>]*>(.*?)</div>(<div class="vq-lanes".*)', html
    )[0]
    labels = re.findall(r">([^<]+)</span>", axis)
    assert labels == ["4 kHz", "2", "0", "75", "150", "300 Hz"]
    assert "Hz</span>" not in lanes


def test_the_files_have_the_sound_and_the_codes() -> None:
    coded = CodeSequence(torch.arange(5)[None], 8000, 160, 800, 8, "0" * 16)
    strip = pictures.strip(Take("x/y", WAVE, 8000, coded), (1, 3))
    data = re.findall(r'download="x_y.vqw" href="data:[^,]*,([^"]*)"', strip)[0]
    assert torch.equal(from_bytes(base64.b64decode(data), "x").codes, coded.codes)
    assert "left:20.000%;width:40.000%" in strip
    html = pictures.cards([Sound("a", WAVE, 8000)], "x/y")
    data = re.findall(r'download="x_y.a.wav" href="data:[^,]*,([^"]*)"', html)[0]
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate == 8000
    assert np.allclose(wave, WAVE, atol=1e-4)
