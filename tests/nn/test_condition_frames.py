"""Frames beside the waveform: aligned phones, files, several at once; where the frames of a crop
come from.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vqwave.data import Corpus, Segments
from vqwave.data.frame_tracks import SLACK, FrameFile, PhoneTrack
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.nn.frontend import ConcatSpec, FilesSpec, PhonesSpec, build_frontend

RATE, HOP = 8000, 80
PHONES = [[0, "_"], [100, "z"], [700, "o"], [1500, "_"]]
LENGTHS = (2000, 1610)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Two utterances of noise, aligned, with frames whose value is 100 x row + frame, and a vector
    each.
    """
    folder, rng = tmp_path / "corpus", np.random.default_rng(0)
    (folder / "frames" / "mel").mkdir(parents=True)
    (folder / "vectors").mkdir()
    rows, offset = [], 0
    for i, length in enumerate(LENGTHS):
        row = {
            "id": f"u{i}",
            "shard": 0,
            "offset": offset,
            "frames": length,
            "speaker": "a",
            "text": "",
            "split": "train",
        }
        rows.append(row | {"labels": {"speaker": "a"}, "phones": PHONES})
        np.save(
            folder / "frames" / "mel" / f"u{i}.npy",
            np.tile(100.0 * i + np.arange(-(-length // HOP) - i), (3, 1)),
        )
        offset += length
    np.save(folder / "vectors" / "voice.npy", np.arange(8.0).reshape(2, 4))
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    header = {
        "format": 1,
        "name": "toy",
        "sample_rate": RATE,
        "labels": {"speaker": ["a"]},
        "level_db": -23.0,
        "source": "noise",
    }
    (folder / "corpus.json").write_text(json.dumps(header | {"splits": {"train": 2}}))
    rng.integers(-3000, 3000, offset).astype("<i2").tofile(folder / "shard-00000.i16")
    return Corpus.open(folder)


TRACKS = (FrameFile("mel", HOP, 3), PhoneTrack(HOP, 1))


def test_a_crop_starts_on_a_frame_and_brings_its_own(corpus: Corpus) -> None:
    """The frame values name row and place, so that a shift by one frame would show."""
    segments, seen = Segments(corpus, "train", 400, tracks=TRACKS), set()
    for position in range(60):
        crop = segments[position, position % len(segments)]
        whole = corpus.read(crop.index)
        start = int(crop.labels["mel"][0, 0]) % 100 * HOP
        assert np.array_equal(whole[start : start + 400], crop.wave.numpy())
        assert crop.labels["mel"].shape == (3, 5)
        assert crop.labels["mel"][0].tolist() == [
            100 * crop.index + start // HOP + f for f in range(5)
        ]
        seen.add(start)
    assert len(seen) > 8


def test_crops_without_tracks_start_anywhere(corpus: Corpus) -> None:
    segments = Segments(corpus, "train", 400)
    starts = [
        np.flatnonzero(corpus.read(c.index) == float(c.wave[0]))
        for c in (segments[p, 0] for p in range(20))
    ]
    assert any(len(found) == 1 and found[0] % HOP for found in starts)


def test_vectors_come_with_their_utterance(corpus: Corpus) -> None:
    crops = [Segments(corpus, "train", 400)[p, p % 2 * 5] for p in range(6)]
    assert {crop.index for crop in crops} == {0, 1}
    assert all(
        crop.labels["voice"].tolist() == [4.0 * crop.index + k for k in range(4)] for crop in crops
    )


def test_a_frame_names_the_phone_at_its_centre(corpus: Corpus) -> None:
    known = corpus.vocabulary["phones"]
    assert known == ["_", "o", "z"]
    frames = PhoneTrack(HOP, 1).read(corpus, 0, 160, 20)
    bounds = [*(first for first, _ in PHONES), LENGTHS[0]]
    for f in range(20):
        centre = 160 + f * HOP + HOP // 2
        at = max(i for i, (first, _) in enumerate(PHONES) if first <= centre)
        labels = [None, *(label for _, label in PHONES), None][at : at + 3]
        assert frames[:3, f].tolist() == [
            -1 if label is None else known.index(label) for label in labels
        ]
        length = bounds[at + 1] - bounds[at]
        np.testing.assert_allclose(
            frames[3:, f], [(centre - bounds[at]) / length, np.log(length / RATE)], rtol=1e-5
        )


def test_phones_are_one_hot_with_nothing_beyond_the_ends(corpus: Corpus) -> None:
    frontend = build_frontend(PhonesSpec(hop_ms=10), RATE, corpus.vocabulary)
    given = torch.from_numpy(PhoneTrack(HOP, 1).read(corpus, 0, 0, 25))[None]
    out = frontend(None, {"phones": given})
    hot = out[0, :9].unflatten(0, (3, 3))  # before, here, after x three phones
    assert out.shape == (1, frontend.channels, 25)
    assert torch.equal(hot[1].sum(0), torch.ones(25))
    assert torch.equal(hot[0].sum(0), (given[0, 0] >= 0).float())
    assert int((hot[0].sum(0) == 0).sum()) > 0
    assert torch.equal(hot[1].argmax(0), given[0, 1].long())


def test_somebodys_own_phones_read_as_the_corpus_reads_them(corpus: Corpus) -> None:
    track = PhoneTrack(HOP, 1)
    mine = track.given(PHONES, LENGTHS[0], RATE, corpus.vocabulary)
    assert np.array_equal(mine, track.read(corpus, 0, 0, 25))
    with pytest.raises(UserInputError, match="phone 'x'"):
        track.given([[0, "x"]], 100, RATE, corpus.vocabulary)


def test_a_file_may_be_a_frame_short_but_not_ten(corpus: Corpus) -> None:
    track = FrameFile("mel", HOP, 3)
    # 20 stored for 21: the last one holds
    assert track.read(corpus, 1, 0, 21)[0, -2:].tolist() == [119.0, 119.0]
    np.save(corpus.folder / "frames" / "mel" / "u1.npy", np.zeros((3, 11)))
    with pytest.raises(UserInputError, match=r"u1\.npy: 11 frames 'mel', expected 21"):
        track.read(corpus, 1, 0, 5)
    np.save(corpus.folder / "frames" / "mel" / "u1.npy", np.zeros((4, 21)))
    with pytest.raises(UserInputError, match=r"\(4, 21\), expected \(3, F\)"):
        track.read(corpus, 1, 0, 5)


@pytest.mark.parametrize("times", [2, 10])
def test_frames_at_another_rate_are_refused(corpus: Corpus, times: int) -> None:
    """A file with more frames than its recording has would be cut, and each frame would lie beside
    other speech.
    """
    track, path = FrameFile("mel", HOP, 3), corpus.folder / "frames" / "mel" / "u0.npy"
    np.save(path, np.zeros((3, 25 * times)))
    with pytest.raises(
        UserInputError,
        match=rf"u0\.npy: {25 * times} frames 'mel', expected 25: one each 80 samples",
    ):
        Segments(corpus, "train", 400, tracks=(track,))[0, 0]
    with pytest.raises(UserInputError, match=f"{25 * times} frames 'mel', expected 25"):
        track.given(np.zeros((3, 25 * times)), LENGTHS[0], RATE, {})
    assert track.given(np.zeros((3, 25 + SLACK)), LENGTHS[0], RATE, {}).shape == (3, 25)
    with pytest.raises(UserInputError, match="frames 'mel', expected 25"):
        track.given(np.zeros((3, 25 + SLACK + 1)), LENGTHS[0], RATE, {})


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e39])
def test_frames_and_vectors_that_are_not_finite_are_refused_by_file(
    corpus: Corpus, wrong: float
) -> None:
    """1e39 is beyond float32."""
    track, frames, vectors = FrameFile("mel", HOP, 3), np.zeros((3, 25)), np.zeros((2, 4))
    frames[1, 20] = vectors[1, 2] = wrong
    np.save(corpus.folder / "frames" / "mel" / "u0.npy", frames)
    with pytest.raises(UserInputError, match=r"frames/mel/u0\.npy: 1 of 75 numbers are not finite"):
        track.read(corpus, 0, 0, 5)  # wherever in the file it is
    with pytest.raises(UserInputError, match="frames 'mel': holds NaN or infinity"):
        track.given(frames, LENGTHS[0], RATE, {})
    np.save(corpus.folder / "vectors" / "voice.npy", vectors)
    with pytest.raises(UserInputError, match=r"vectors/voice\.npy: 1 of 8 numbers are not finite"):
        Corpus.open(corpus.folder)


def test_parts_stand_side_by_side_each_standardised_alone(corpus: Corpus) -> None:
    parts = (
        LogMelSpec(bands=8, fmax=4000),
        FilesSpec(channels=3, hop_ms=10),
        PhonesSpec(hop_ms=10),
    )
    frontend = build_frontend(ConcatSpec(parts=parts), RATE, corpus.vocabulary)
    wave = torch.from_numpy(corpus.read(0))[None]
    read = {track.name: torch.from_numpy(track.read(corpus, 0, 0, 25)) for track in frontend.tracks}
    frontend.fit([wave[0]], [read])
    out = frontend(wave, {name: frames[None] for name, frames in read.items()})
    assert out.shape == (1, 8 + 3 + 11, 25)
    alone = [
        part(wave, {name: frames[None] for name, frames in read.items()}) for part in frontend.parts
    ]
    assert torch.equal(out, torch.cat(alone, 1))
    torch.testing.assert_close(out[0, :11].mean(1), torch.zeros(11), atol=1e-4, rtol=0)
    with pytest.raises(UserInputError, match="expected parts of one hop"):
        build_frontend(ConcatSpec(parts=(LogMelSpec(), PhonesSpec())), RATE, corpus.vocabulary)


@pytest.mark.parametrize("kind", [FilesSpec(hop_ms=10), PhonesSpec(hop_ms=10)])
def test_frames_that_are_not_given_are_named(corpus: Corpus, kind: FilesSpec | PhonesSpec) -> None:
    with pytest.raises(UserInputError, match="not given"):
        build_frontend(kind, RATE, corpus.vocabulary)(torch.zeros(1, 800), {})
