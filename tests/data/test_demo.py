"""The demo corpus: reproducible, labelled, its phones where the sound is."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from vqwave import audio
from vqwave.data import Corpus, demo, prepare
from vqwave.data.espeak import tidy_phones
from vqwave.data.manifest import Phones, read_manifest
from vqwave.errors import UserInputError

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="espeakng-loader is not installed (extra: demo)",
)
TEXTS = [demo.Line("seven", 0, "train"), demo.Line("open the door", 0, "test")]


def render(folder: Path, voices: tuple[demo.Voice, ...] = demo.VOICES[:1]) -> dict[str, bytes]:
    demo.render_demo(folder, voices, TEXTS, quiet=True)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_the_plan_holds_texts_out() -> None:
    lines = demo.lines()
    assert 300 <= len(lines) * len(demo.VOICES) <= 500
    assert len({(line.text, line.take) for line in lines}) == len(lines)
    train = {line.text for line in lines if line.split == "train"}
    for split in ("valid", "test"):
        held_out = [line for line in lines if line.split == split]
        assert any(line.text in train and line.take == demo.TAKES - 1 for line in held_out)
        assert any(line.text not in train for line in held_out)


def test_phones_are_tidied() -> None:
    raw = [(286, "s"), (2094, "'E"), (5422, "v"), (8000, "_:"), (8100, "_"), (9000, "_")]
    assert tidy_phones(raw, 9000) == [(0, "_"), (286, "s"), (2094, "E"), (5422, "v"), (8000, "_")]


@needs_espeak
def test_two_renderings_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    first = render(tmp_path / "a", demo.VOICES[3:5])
    assert len(first) == 5
    assert render(tmp_path / "b", demo.VOICES[3:5]) == first


@needs_espeak
def test_voices_differ_and_phones_mark_the_sound(tmp_path: Path) -> None:
    demo.render_demo(tmp_path / "in", texts=TEXTS, quiet=True)
    centroids = {}
    for recording in read_manifest(tmp_path / "in" / "manifest.jsonl"):
        wave, rate = audio.read(recording.path)
        assert float(np.abs(wave).max()) < 0.99, "clipped"
        power = np.abs(np.fft.rfft(wave)) ** 2
        if recording.text == "seven":
            centroids[recording.speaker] = float(
                (power * np.fft.rfftfreq(len(wave), 1 / rate)).sum() / power.sum()
            )
            vowel, hiss = (stretch(wave, recording.phones, label) for label in ("E", "s"))
            assert audio.level_db(vowel) > audio.level_db(hiss), recording.speaker
            assert zero_crossings(hiss) > 2 * zero_crossings(vowel), recording.speaker
    assert len(centroids) == len(demo.VOICES)
    ordered = sorted(centroids.values())
    assert ordered[-1] > 2 * ordered[0]


def stretch(wave: audio.Wave, phones: Phones, label: str) -> audio.Wave:
    """The samples of the first phone of that name."""
    k = [name for _, name in phones].index(label)
    return wave[phones[k][0] : phones[k + 1][0]]


def zero_crossings(wave: audio.Wave) -> float:
    return float(np.mean(np.diff(np.sign(wave)) != 0))


@needs_espeak
def test_prepare_demo_scales_phones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "VOICES", demo.VOICES[:2])
    monkeypatch.setattr(demo, "lines", lambda: [*TEXTS, demo.Line("six", 0, "valid")])
    for rate in (16000, 8000):
        prepare(
            "demo",
            None,
            tmp_path / str(rate),
            sample_rate=None if rate == 16000 else rate,
            quiet=True,
        )
    high, low = (Corpus.open(tmp_path / str(rate)) for rate in (16000, 8000))
    assert (high.sample_rate, low.sample_rate) == (16000, 8000)
    assert low.labels["gender"] == ["female", "male"]
    for one, other in zip(high.utterances, low.utterances, strict=True):
        assert [label for _, label in one.phones] == [label for _, label in other.phones]
        assert all(abs(a[0] - 2 * b[0]) <= 2 for a, b in zip(one.phones, other.phones, strict=True))
        assert all(0 <= start <= other.frames for start, _ in other.phones)


def test_a_missing_engine_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserInputError, match=r"pip install 'vqwave\[demo\]'"):
        prepare("demo", None, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


@needs_espeak
def test_an_engine_that_fails_is_reported(tmp_path: Path) -> None:
    nobody = demo.Voice("nobody", "no-such-voice", "female", 160, 50)
    with pytest.raises(UserInputError, match=r"after 0 of 2 texts.*no voice 'no-such-voice'"):
        demo.render_demo(tmp_path, (nobody,), TEXTS, quiet=True)
