"""The real Free Spoken Digit Dataset, where it is at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vqwave.audio import level_db
from vqwave.data import Corpus, Segments, Summary, prepare, training_batches


@pytest.fixture(scope="module")
def summary(speech_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    if not (speech_data / "fsdd").is_dir():
        pytest.skip(f"no fsdd in {speech_data}")
    return prepare(
        "fsdd", speech_data / "fsdd", tmp_path_factory.mktemp("real") / "fsdd", quiet=True
    )


def test_counts_agree_with_the_description(summary: Summary) -> None:
    assert {line.name: line.utterances for line in summary.splits} == {
        "train": 2400,
        "valid": 300,
        "test": 120,
    }
    assert summary.total.minutes == pytest.approx(20.58, abs=0.01)
    assert {line.name: line.utterances for line in summary.speakers}.keys() >= {"theo", "nicolas"}
    assert all(line.utterances == 470 for line in summary.speakers)
    assert summary.rejected == ()
    assert summary.sample_rate == 8000


def test_speakers_are_brought_to_one_level_without_dc(summary: Summary) -> None:
    """As recorded, theo is 20 dB quieter than jackson, and nicolas carries DC."""
    corpus = Corpus.open(summary.out)
    for speaker in corpus.speakers:
        rows = [i for i in corpus.of("train") if corpus.utterances[i].speaker == speaker]
        waves = [corpus.read(i) for i in rows]
        assert np.median([level_db(wave) for wave in waves]) == pytest.approx(-23.0, abs=0.05)
        assert max(abs(float(wave.mean())) for wave in waves) < 1e-4
        assert max(float(np.abs(wave).max()) for wave in waves) < 10 ** (-0.49 / 20)


def test_held_out_takes_are_not_in_train(summary: Summary) -> None:
    corpus = Corpus.open(summary.out)
    takes: dict[str, set[int]] = {split: set() for split in corpus.splits}
    for utterance in corpus.utterances:
        takes[utterance.split].add(int(utterance.id.rsplit("_", 1)[1]))
    assert takes["test"] == {3, 4}
    assert takes["valid"] == set(range(5, 10))
    assert min(takes["train"]) == 10


def test_an_epoch_draws_speakers_by_their_minutes(summary: Summary) -> None:
    corpus = Corpus.open(summary.out)
    segments = Segments(corpus, "train", 2000)
    batches = iter(training_batches(segments, 256))
    speakers = np.concatenate(
        [next(batches).labels["speaker"].numpy() for _ in range(len(segments) // 256)]
    )
    drawn = np.bincount(speakers, minlength=6) / len(speakers)
    rows = corpus.of("train")
    owners = [corpus.label_ids(i)["speaker"] for i in rows]
    frames = np.bincount(owners, weights=[corpus.utterances[i].frames for i in rows])
    np.testing.assert_allclose(drawn, frames / frames.sum(), atol=0.04)
