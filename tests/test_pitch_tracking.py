"""F0 by SwiftF0: its values and time stamps on synthetic voices, chunks, crops of a corpus' own F0,
real recordings.
"""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqwave import audio, pitch_tracking
from vqwave.config import build
from vqwave.data import Corpus, Segments, prepare
from vqwave.data.frame_tracks import PITCH, PitchTrack, carried
from vqwave.errors import UserInputError
from vqwave.features import Pitch, PitchSpec
from vqwave.models import WaveNetSpec
from vqwave.nn.frontend import ConcatSpec, PhonesSpec, build_frontend

RATES = (8000, 16000, 22050)


def voice(f0: np.ndarray, rate: int) -> audio.Wave:
    """Harmonics below half the rate, the fundamental weak, as in telephone speech, of an F0 in Hz
    by sample.
    """
    phase = 2 * np.pi * np.cumsum(f0) / rate
    weights = [0.2, *(1 / k for k in range(2, 11))]
    parts = (w * np.sin(k * phase + k) for k, w in enumerate(weights, 1) if k * f0.max() < rate / 2)
    return (0.1 * sum(parts)).astype(np.float32)


def tone(f0: float, seconds: float, rate: int) -> audio.Wave:
    return voice(np.full(round(seconds * rate), f0), rate)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("f0", [70.0, 101.3, 180.0, 251.7, 390.0])
def test_pitch_of_a_tone_is_its_fundamental(rate: int, f0: float) -> None:
    """To one per cent away from the ends; no octave errors."""
    hop = pitch_tracking.ten_milliseconds(rate)
    wave = torch.from_numpy(tone(f0, 0.5, rate)[: 49 * hop])
    pitch = Pitch(rate, hop, 50.0, 600.0)(wave[None])[0, :, 5:-5]
    assert torch.equal(pitch[1], torch.ones_like(pitch[1]))
    torch.testing.assert_close(
        100 * pitch[0].exp(), torch.full_like(pitch[0], f0), rtol=1e-2, atol=0
    )


def test_noise_and_silence_have_no_pitch() -> None:
    noise = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    module = PitchSpec().build(8000)
    assert float(module(noise)[:, 1].mean()) < 0.02
    assert torch.equal(module(torch.zeros(1, 800)), torch.zeros(1, 2, 20))
    quiet = torch.from_numpy(tone(100.0, 0.5, 8000)).double()[None] * 1e-3
    assert torch.equal(module(quiet), torch.zeros(1, 2, 100, dtype=torch.float64))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("hop_ms", [5.0, 10.0])
def test_frames_are_stamped_at_their_centres(rate: int, hop_ms: float) -> None:
    """Within 1 ms, by glides up and down: the network's small errors of F0 are the same in both,
    those of time are not.
    """
    hop, seconds, low, high = round(hop_ms * rate / 1000), 2.0, 100.0, 200.0
    n = round(seconds * rate)
    slope, late = (high - low) / seconds, []
    for start, sign in ((low, 1), (high, -1)):
        found = pitch_tracking.track(
            voice(start + sign * slope * np.arange(n) / rate, rate), rate, hop
        )
        centres = (np.arange(len(found)) * hop + hop // 2) / rate
        inner = (centres > 0.2) & (centres < seconds - 0.2)
        assert (found[inner] > 0).all()
        late.append(np.mean(centres[inner] - sign * (found[inner] - start) / slope))
    assert abs(sum(late) / 2) < 1e-3


def test_frames_between_are_interpolated_and_take_nothing_from_the_unvoiced() -> None:
    """F0 of an unvoiced network frame means nothing: beside it the voiced one is held."""
    hz, confidence = np.array([100.0, 400.0, 7.0, 200.0]), np.array([1.0, 1.0, 0.0, 1.0])
    place = np.array([0.0, 0.5, 1.4, 1.6, 2.4, 2.75, 3.0, 9.0])
    found = pitch_tracking.at_positions(hz, confidence, place)
    np.testing.assert_allclose(found, [100, 200, 400, 0, 0, 200, 200, 200], rtol=1e-6)
    np.testing.assert_allclose(pitch_tracking.contour(found)[:, 1], [np.log(2), 1], rtol=1e-6)
    assert pitch_tracking.contour(found)[:, 3].tolist() == [0, 0]


@pytest.mark.parametrize("rate", RATES)
def test_chunks_have_the_frames_of_the_whole(rate: int) -> None:
    """Pauses and glides, in pieces of any length: as many frames, F0 to rounding."""
    rng, hop = np.random.default_rng(0), pitch_tracking.ten_milliseconds(rate)
    f0 = 140 + 40 * np.sin(np.arange(round(1.9 * rate) + 7) / rate * 5)
    gate = (np.arange(len(f0)) / rate * 2 % 1 < 0.7).astype(np.float32)
    wave = voice(f0, rate) * gate + 1e-3 * rng.standard_normal(len(f0)).astype(np.float32)
    whole = pitch_tracking.track(wave, rate, hop)
    assert 0.2 < (whole > 0).mean() < 0.9
    for pieces in (1, 7, 150):
        stream = pitch_tracking.PitchStream(rate, hop)
        parts = [stream.push(piece) for piece in np.array_split(wave, pieces)]
        assert pieces == 1 or sum(map(len, parts)) > 0.8 * len(whole)
        np.testing.assert_allclose(np.concatenate([*parts, stream.flush()]), whole, rtol=1e-4)


@pytest.mark.parametrize("rate", RATES)
def test_windows_on_the_grid_have_the_frames_of_the_whole(rate: int) -> None:
    """Wherever they start, though of empty bands the network sees the logarithm of the resampler's
    rounding.
    """
    hop = pitch_tracking.grid(rate) // math.gcd(pitch_tracking.grid(rate), 64)
    wave = voice(150 + 40 * np.sin(np.arange(round(1.5 * rate)) / rate * 5), rate)
    whole = pitch_tracking.track(wave, rate, hop)
    context = -(-pitch_tracking.context(rate) // hop)
    for start in (1, 3):
        first = start * pitch_tracking.grid(rate) // hop
        window = pitch_tracking.track(wave[first * hop :], rate, hop)
        np.testing.assert_allclose(window[context:], whole[first + context :], rtol=1e-6)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_nothing_beyond_the_context_enters_a_frame(rate: int) -> None:
    hop = pitch_tracking.ten_milliseconds(rate)
    wave, centre = tone(150.0, 1.2, rate), 60 * hop + hop // 2
    before = pitch_tracking.track(wave, rate, hop)[60]
    assert before > 0
    reach = pitch_tracking.context(rate)
    wave[: centre - reach], wave[centre + reach :] = 0, 0
    assert pitch_tracking.track(wave, rate, hop)[60] == pytest.approx(before, rel=1e-5)


def test_the_tracker_is_imported_by_its_first_use() -> None:
    """So that `vqwave --help` and trainings without pitch do not wait for it."""
    code = (
        "import sys, vqwave.cli, vqwave.features, vqwave.data; print('swift_f0' in sys.modules,"
        " 'onnxruntime' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "False False\n"
    )


def test_a_threshold_is_a_setting_no_more() -> None:
    """Neither alone nor among several features; a misspelt key in a list has its line, too."""
    with pytest.raises(
        UserInputError, match=r"^features\.threshold: is a setting no more: the tracker is SwiftF0"
    ):
        build(WaveNetSpec, {"features": {"kind": "pitch", "threshold": 0.15}})
    parts = [{"kind": "log_mel"}, {"kind": "pitch", "threshold": 0.15}]
    with pytest.raises(
        UserInputError, match=r"^features\.parts\[1\]\.threshold: is a setting no more"
    ):
        build(WaveNetSpec, {"features": {"kind": "concat", "parts": parts}})
    parts = [{"kind": "log_mel"}, {"kind": "pitch", "hop_m": 10}]
    with pytest.raises(
        UserInputError, match=r"^features\.parts\[1\]\.hop_m: unknown key; did you mean .*hop_ms"
    ):
        build(WaveNetSpec, {"features": {"kind": "concat", "parts": parts}})
    for limits in ({"fmin": 40.0}, {"fmin": 300.0, "fmax": 200.0}, {"fmax": 4000.0}):
        with pytest.raises(UserInputError, match="expected fmin < fmax between"):
            PitchSpec(**limits).build(8000)


@dataclass(frozen=True)
class Toy:
    """A prepared corpus of two voices, and the folder that it was made of."""

    corpus: Corpus
    source: Path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("pitch")
    for speaker, f0 in (("low", 100.0), ("high", 220.0)):
        (folder / "wav" / speaker).mkdir(parents=True)
        for take in range(4):
            wave = np.concatenate(
                [np.zeros(1000), tone(f0 * (1 + take / 20), 0.6 + take / 30, 8000), np.zeros(900)]
            )
            soundfile.write(
                folder / "wav" / speaker / f"{take}.wav",
                wave + 1e-3 * np.sin(np.arange(len(wave))),
                8000,
            )
    prepare("folder", folder / "wav", folder / "corpus", quiet=True)
    return Toy(Corpus.open(folder / "corpus"), folder / "wav")


def test_prepare_stores_the_f0_of_what_it_stores(toy: Toy) -> None:
    """Bit for bit what the tracker says of each utterance as it is read."""
    assert toy.corpus.pitch.hop == 80
    for row in range(len(toy.corpus.utterances)):
        f0 = toy.corpus.f0(row)
        assert np.array_equal(f0, pitch_tracking.track(toy.corpus.read(row), 8000, 80))
        assert (f0 > 0).mean() > 0.4


def test_a_crop_brings_the_f0_of_its_own_samples(toy: Toy) -> None:
    track = PitchTrack(80, 50.0, 600.0)
    assert carried(toy.corpus, [track]) == (track,)
    segments = Segments(toy.corpus, "train", 1600, tracks=[track])
    for position in range(30):
        crop = segments[position, position % len(segments)]
        whole, wave = toy.corpus.read(crop.index), crop.wave.numpy()
        start = next(
            s
            for s in range(0, len(whole), 80)
            if np.array_equal(whole[s : s + 1600], wave[: len(whole[s:])])
        )
        expected = pitch_tracking.contour(toy.corpus.f0(crop.index))[:, start // 80 :][:, :20]
        assert np.array_equal(crop.labels[PITCH][:, : expected.shape[1]], expected)
        assert not crop.labels[PITCH][:, expected.shape[1] :].any()


def test_a_front_end_takes_the_corpus_f0_where_it_fits(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And tracks a lone recording, or frames of another hop; given frames stand alone, without a
    waveform.
    """
    frontend = build_frontend(PitchSpec(hop_ms=10.0), 8000, toy.corpus.vocabulary)
    wave = torch.from_numpy(toy.corpus.read(0))
    wave = wave[: len(wave) // 80 * 80]
    given = torch.from_numpy(frontend.tracks[0].stored(toy.corpus, 0))[None, :, : len(wave) // 80]
    frontend.fit([wave], [{PITCH: given[0]}])
    tracked = frontend(wave[None])
    monkeypatch.setattr(pitch_tracking, "_network", None)  # no more tracking
    torch.testing.assert_close(
        frontend(None, {PITCH: given})[:, :, :-4], tracked[:, :, :-4], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        frontend(wave[None], {PITCH: given}).mean((0, 2)), torch.zeros(2), rtol=0, atol=1e-4
    )
    for other in (PitchSpec(), PitchSpec(hop_ms=10.0, fmax=500.0)):
        assert carried(toy.corpus, build_frontend(other, 8000, toy.corpus.vocabulary).tracks) == ()
    several = ConcatSpec(parts=(PhonesSpec(hop_ms=10.0), PitchSpec(hop_ms=10.0)))
    assert [t.name for t in build_frontend(several, 8000, {"phones": ["a"]}).tracks] == [
        "phones",
        PITCH,
    ]


def test_a_corpus_without_f0_says_how_to_get_it(toy: Toy, tmp_path: Path) -> None:
    header = (toy.corpus.folder / "corpus.json").read_text()
    for path in toy.corpus.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pitch.f32").write_bytes(b"\0" * 8)
    with pytest.raises(
        UserInputError, match=r"pitch\.f32: 8 bytes, the index expects \d+; prepare"
    ):
        Corpus.open(tmp_path)
    (tmp_path / "corpus.json").write_text(header[: header.index(',\n "pitch"')] + "}")
    with pytest.raises(
        UserInputError,
        match=r"prepared before F0 was stored; prepare it again with `vqwave prepare",
    ):
        carried(Corpus.open(tmp_path), [PitchTrack(80, 50.0, 600.0)])


def test_it_agrees_with_praat_on_speech(speech_data: Path) -> None:
    """Voicing in nine of ten frames, F0 within a fifth of a semitone in the middle of the frames
    voiced in both.
    """
    parselmouth = pytest.importorskip("parselmouth", reason="Praat: pip install 'vqwave[metrics]'")
    files = sorted((speech_data / "librispeech_sub").rglob("*.flac"))[::60]
    if not files:
        pytest.skip(f"no librispeech_sub in {speech_data}")
    same, off = [], []
    for path in files:
        wave, rate = audio.read(path)
        ours = pitch_tracking.track(wave, rate, 160)
        theirs = parselmouth.Sound(wave.astype(np.float64), rate).to_pitch(0.01, 50.0, 600.0)
        at = np.searchsorted(theirs.xs(), (np.arange(len(ours)) + 0.5) * 0.01 - 0.005).clip(
            0, len(theirs.xs()) - 1
        )
        f0 = theirs.selected_array["frequency"][at]
        same.append((ours > 0) == (f0 > 0))
        both = (ours > 0) & (f0 > 0)
        off.append(12 * np.log2(ours[both] / f0[both]))
    assert np.concatenate(same).mean() > 0.88
    assert np.median(np.abs(np.concatenate(off))) < 0.2
    assert (np.abs(np.concatenate(off)) > 2).mean() < 0.04
