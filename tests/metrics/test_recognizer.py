"""The recognizer learns voices and words from recordings, is robust to noise, and is kept under
the hash of its training set.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vqwave.audio import to_int16
from vqwave.data import Corpus
from vqwave.distributed.threads import limited_to
from vqwave.metrics.augment import augmented, fitted
from vqwave.metrics.recognizer import DEFAULT, recognizer_of

QUICK = replace(DEFAULT, members=2, channels=24, steps=120, batch=16)
RATE = 8000


def write_corpus(folder: Path, texts: bool = True) -> Path:
    """Two speakers (low and high buzz) who say two words (rising and falling formant), 12 takes
    each, 3 of them to test.
    """
    rng, waves, rows = np.random.default_rng(0), [], []
    for speaker, pitch in (("low", 100), ("high", 190)):
        for text, (start, end) in (("up", (500, 2500)), ("down", (2500, 500))):
            for take in range(12):
                t = np.arange(round(RATE * rng.uniform(0.3, 0.5))) / RATE
                formant = np.geomspace(start, end, len(t))
                f0 = pitch * rng.uniform(0.95, 1.05)
                harmonics = [
                    np.cos(2 * np.pi * f0 * k * t) / (1 + ((f0 * k - formant) / 250) ** 2)
                    for k in range(1, int(3600 / f0))
                ]
                waves.append((0.1 * sum(harmonics)).astype(np.float32))
                rows.append(
                    {
                        "speaker": speaker,
                        "text": text if texts else f"{text} {take} {speaker}",
                        "split": "test" if take < 3 else "train",
                    }
                )
    folder.mkdir(parents=True)
    offset, lines = 0, []
    for number, (row, wave) in enumerate(zip(rows, waves, strict=True)):
        about = {
            "id": str(number),
            "shard": 0,
            "offset": offset,
            "frames": len(wave),
            "labels": {"speaker": row["speaker"]},
        }
        lines.append(json.dumps(about | row))
        offset += len(wave)
    (folder / "index.jsonl").write_text("\n".join(lines))
    (folder / "shard-00000.i16").write_bytes(to_int16(np.concatenate(waves)).tobytes())
    header = {
        "format": 1,
        "name": "buzz",
        "sample_rate": RATE,
        "labels": {"speaker": ["high", "low"]},
        "splits": {},
    }
    (folder / "corpus.json").write_text(
        json.dumps(header | {"level_db": -23.0, "source": "made up"})
    )
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.open(write_corpus(tmp_path_factory.mktemp("judge") / "corpus"))


def test_it_recognises_words_and_speakers_in_noise_and_is_kept(
    corpus: Corpus, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    before, steps = torch.get_rng_state(), []
    recognizer = recognizer_of(corpus, QUICK, keep=tmp_path / "judges", progress=steps.append)
    assert steps == list(range(1, 2 * 120 + 1))
    assert torch.equal(torch.get_rng_state(), before)
    rows = corpus.of("test")
    waves = [corpus.read(row) for row in rows]
    noise = np.random.default_rng(0)
    noisy = [
        0.3 * (wave + noise.normal(0, 0.1 * wave.std(), len(wave))).astype(np.float32)
        for wave in waves
    ]
    for predicted in (recognizer.named(waves), recognizer.named(noisy)):
        for name, places in predicted.items():
            reference = [corpus.label_ids(row)[name] for row in rows]
            # all, for each of six seeds; half by chance
            assert np.mean(places == np.array(reference)) >= 0.75, name
    again = recognizer_of(corpus, QUICK, keep=tmp_path / "judges", progress=steps.append)
    assert len(steps) == 2 * 120  # read, not trained
    assert np.array_equal(
        again.log_probabilities(waves)["text"], recognizer.log_probabilities(waves)["text"]
    )
    assert len(list((tmp_path / "judges").iterdir())) == 1


def test_its_name_follows_the_recordings_and_the_settings(corpus: Corpus, tmp_path: Path) -> None:
    keep, tiny = tmp_path / "judges", replace(QUICK, steps=2)
    for spec in (tiny, tiny, replace(tiny, seed=1)):
        recognizer_of(corpus, spec, keep=keep)
    assert len(list(keep.iterdir())) == 2
    shard = corpus.folder / "shard-00000.i16"
    content = shard.read_bytes()
    try:
        shard.write_bytes(content[:-2] + b"\1\0")
        recognizer_of(corpus, tiny, keep=keep)
    finally:
        shard.write_bytes(content)
    assert len(list(keep.iterdir())) == 3


def test_a_damaged_one_is_trained_again(corpus: Corpus, tmp_path: Path) -> None:
    tiny = replace(QUICK, steps=2)
    recognizer_of(corpus, tiny, keep=tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:100])
    recognizer_of(corpus, tiny, keep=tmp_path)
    assert path.read_bytes() == content


def test_a_corpus_without_repeated_texts_has_a_recognizer_of_speakers_alone(tmp_path: Path) -> None:
    corpus = Corpus.open(write_corpus(tmp_path / "corpus", texts=False))
    recognizer = recognizer_of(corpus, replace(QUICK, steps=2))
    long = np.concatenate([corpus.read(row) for row in corpus.of("train")])
    result = recognizer.log_probabilities([long, long[:50]])
    assert list(result) == ["speaker"]
    # averaged log-probabilities of windows
    assert np.exp(result["speaker"]).sum(1).max() <= 1 + 1e-5
    assert result["speaker"].shape == (2, 2)


def test_it_does_not_depend_on_level(corpus: Corpus) -> None:
    recognizer, wave = recognizer_of(corpus, replace(QUICK, steps=2)), corpus.read(0)
    loud, soft = (
        recognizer.log_probabilities([wave])["text"],
        recognizer.log_probabilities([(0.01 * wave).astype(np.float32)])["text"],
    )
    assert np.allclose(loud, soft, atol=1e-3)


def test_placing_cuts_and_fills() -> None:
    power = torch.arange(1.0, 13.0).view(2, 6)
    for frames in (3, 6, 10):
        assert fitted(power, frames, tempo=0.3).shape == (2, frames)
    kept = fitted(power, 10)
    assert kept.sum() == power.sum()
    assert (kept[0] == 0).sum() == 4


def test_disturbing_keeps_shape_and_sign_and_changes() -> None:
    torch.manual_seed(0)
    power = torch.rand(16, 40, 60)
    found = augmented(power)
    assert found.shape == power.shape
    assert (found >= 0).all()
    assert not torch.allclose(found, power)
    assert (found.amax((1, 2)) > 0).all()


def test_it_does_not_depend_on_the_number_of_threads(corpus: Corpus) -> None:
    result = []
    for threads in (1, 2):
        with limited_to(threads):
            recognizer = recognizer_of(corpus, replace(QUICK, steps=20))
            assert torch.get_num_threads() == threads
        result.append(recognizer.members.state_dict())
    assert all(torch.equal(result[0][name], result[1][name]) for name in result[0])


def test_its_members_differ_and_their_mean_is_given(corpus: Corpus) -> None:
    spec = replace(QUICK, steps=20)
    both = recognizer_of(corpus, spec)
    alone = [recognizer_of(corpus, replace(spec, members=1, seed=seed)) for seed in (0, 1)]
    waves = [corpus.read(row) for row in corpus.of("test")]
    one, two = (recognizer.log_probabilities(waves)["text"] for recognizer in alone)
    assert np.abs(one - two).max() > 1e-3
    assert np.allclose(both.log_probabilities(waves)["text"], (one + two) / 2, atol=1e-6)
