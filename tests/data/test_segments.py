"""Crops and batches depend on (seed, position) alone; the sampler on (seed, step) alone."""

from __future__ import annotations

import itertools
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqwave.data import (
    Batch,
    Corpus,
    Segments,
    StepSampler,
    evaluation_batches,
    evaluation_crops,
    training_batches,
)
from vqwave.errors import UserInputError

FRAMES = [50, 250, 1000, 100, 70]
CROP = 100


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Five utterances; sample t of utterance i is i * 2000 + t + 1, so that a crop says where it
    comes from.
    """
    folder = tmp_path_factory.mktemp("corpus")
    header = {
        "format": 1,
        "name": "made up",
        "sample_rate": 8000,
        "labels": {"speaker": ["ann", "bob"], "gender": ["f", "m"]},
        "splits": {"train": 4, "valid": 1},
        "level_db": -23.0,
        "source": "",
    }
    (folder / "corpus.json").write_text(json.dumps(header))
    offsets = [0, *itertools.accumulate(FRAMES)]
    rows = [
        {
            "id": str(i),
            "shard": 0,
            "offset": offsets[i],
            "frames": n,
            "speaker": ("ann", "bob")[i % 2],
            "text": "",
            "split": "valid" if i == 4 else "train",
            "labels": {"speaker": ("ann", "bob")[i % 2], "gender": ("f", "m")[i % 2]},
        }
        for i, n in enumerate(FRAMES)
    ]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    samples = np.concatenate([i * 2000 + 1 + np.arange(n) for i, n in enumerate(FRAMES)])
    (folder / "shard-00000.i16").write_bytes(samples.astype("<i2").tobytes())
    return Corpus.open(folder)


def same(a: Batch, b: Batch) -> bool:
    labels = all(torch.equal(a.labels[name], b.labels[name]) for name in a.labels)
    return labels and all(
        torch.equal(getattr(a, name), getattr(b, name)) for name in ("wave", "lengths", "index")
    )


def take(
    corpus: Corpus,
    count: int,
    batch: int = 4,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    workers: int = 0,
) -> list[Batch]:
    segments = Segments(corpus, "train", CROP, seed=3)
    batches = training_batches(
        segments, batch, rank=rank, world=world, start_step=start_step, workers=workers
    )
    return list(itertools.islice(batches, count))


def test_minutes_and_not_files_are_sampled(corpus: Corpus) -> None:
    segments = Segments(corpus, "train", CROP)
    assert segments.rows.tolist() == [0] + [1] * 3 + [2] * 10 + [3]


def test_a_crop_depends_on_seed_and_position_alone(corpus: Corpus) -> None:
    segments = Segments(corpus, "train", CROP, seed=3)
    keys = [(position, 5) for position in range(200)]
    first = [segments[key].wave[0].item() for key in keys]
    torch.manual_seed(99)
    np.random.seed(99)
    assert [segments[key].wave[0].item() for key in reversed(keys)] == first[::-1]
    starts = np.array(first) * 32768 - 4001
    assert starts.min() >= 0
    assert starts.max() <= FRAMES[2] - CROP
    assert len(np.unique(starts)) > 150, "starts must spread over the utterance"
    other = Segments(corpus, "train", CROP, seed=4)
    assert [other[key].wave[0].item() for key in keys] != first


def test_crops_lie_within_their_utterance_and_short_ones_are_padded(corpus: Corpus) -> None:
    segments = Segments(corpus, "train", CROP)
    for position, segment in itertools.product(range(40), range(len(segments))):
        crop = segments[position, segment]
        codes = (crop.wave * 32768).long()
        kept = codes[: crop.length]
        assert crop.length == min(FRAMES[crop.index], CROP)
        assert torch.equal(kept.diff(), torch.ones(crop.length - 1).long())
        assert bool((codes[crop.length :] == 0).all())
        assert int(kept[0]) > crop.index * 2000
        assert int(kept[-1]) <= crop.index * 2000 + FRAMES[crop.index]


def test_batches_have_masks_and_labels(corpus: Corpus) -> None:
    batch = take(corpus, 1, batch=14)[0]
    assert batch.wave.shape == batch.mask.shape == (14, CROP)
    assert torch.equal(batch.mask.sum(1), batch.lengths)
    assert bool((batch.wave[~batch.mask] == 0).all())
    assert torch.equal(batch.labels["speaker"], batch.index % 2)
    assert torch.equal(batch.labels["gender"], batch.index % 2)
    assert same(batch.to("cpu"), batch)
    assert len(batch) == 14


def test_two_processes_see_what_one_sees(corpus: Corpus) -> None:
    whole = take(corpus, 12)
    parts = [take(corpus, 12, rank=rank, world=2) for rank in range(2)]
    for batch, left, right in zip(whole, *parts, strict=True):
        assert torch.equal(batch.wave, torch.cat([left.wave, right.wave]))
        assert torch.equal(batch.index, torch.cat([left.index, right.index]))


def test_resuming_is_skipping(corpus: Corpus) -> None:
    whole = take(corpus, 20)
    assert all(map(same, take(corpus, 11, start_step=9), whole[9:]))
    assert not same(whole[0], whole[9])


def test_workers_change_nothing(corpus: Corpus) -> None:
    assert all(map(same, take(corpus, 10, workers=2), take(corpus, 10)))


def test_a_corpus_travels_to_a_worker_without_its_samples(corpus: Corpus) -> None:
    corpus.read(2)
    sent = pickle.dumps(corpus)
    assert len(sent) < 4000
    assert np.array_equal(pickle.loads(sent).read(2), corpus.read(2))


@pytest.mark.parametrize(("length", "batch"), [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_each_epoch_is_a_permutation(length: int, batch: int) -> None:
    pairs = list(
        itertools.chain.from_iterable(
            itertools.islice(StepSampler(length, batch, seed=1), 4 * length)
        )
    )
    assert [position for position, _ in pairs] == list(range(len(pairs)))
    epochs = [
        [segment for _, segment in pairs[k : k + length]] for k in range(0, 4 * length, length)
    ]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 5:
        assert epochs[0] != epochs[1]
        assert next(iter(StepSampler(length, batch, seed=2))) != pairs[:batch]


def test_a_late_step_costs_no_more_than_an_early_one() -> None:
    far = next(iter(StepSampler(1000, 4, seed=1, start_step=10**12)))
    assert [position for position, _ in far] == [4 * 10**12 + k for k in range(4)]


def test_bad_batches_are_refused() -> None:
    with pytest.raises(UserInputError, match="batch of 3 over 2 processes"):
        StepSampler(10, 3, world=2)
    with pytest.raises(UserInputError, match="0 segments"):
        StepSampler(0, 3)


def test_evaluation_tiles_the_split(corpus: Corpus) -> None:
    batches = list(evaluation_batches(corpus, "train", 4, CROP))
    seen = torch.cat([batch.wave[batch.mask] for batch in batches]) * 32768
    assert torch.equal(
        seen.long(), torch.cat([i * 2000 + 1 + torch.arange(n) for i, n in enumerate(FRAMES[:4])])
    )
    assert [len(batch) for batch in batches] == [4, 4, 4, 3]
    assert all(map(same, batches, evaluation_batches(corpus, "train", 4, CROP)))


def test_a_limit_spreads_over_the_split(corpus: Corpus) -> None:
    assert len(evaluation_crops(corpus, "train", CROP)) == 15
    assert evaluation_crops(corpus, "train", CROP, 3) == [(0, 0), (2, 100), (2, 600)]
    assert sum(len(batch) for batch in evaluation_batches(corpus, "train", 2, CROP, 3)) == 3
    assert len(evaluation_crops(corpus, "train", CROP, 99)) == 15


def test_chosen_speakers_alone_fill_the_splits(corpus: Corpus) -> None:
    """Labels stay those of all; a name that nobody has is refused with the nearest."""
    one = corpus.speakers[0]
    chosen = corpus.only([one])
    assert {chosen.utterances[row].speaker for row in chosen.of("train")} == {one}
    assert chosen.labels == corpus.labels
    assert len(Segments(chosen, "train", 100)) < len(Segments(corpus, "train", 100))
    assert corpus.only([]).of("train") == corpus.of("train")
    with pytest.raises(UserInputError, match="no speaker 'nobody'"):
        corpus.only(["nobody"])
    splits = {True: "train", False: "valid"}
    chosen.utterances = [replace(u, split=splits[u.speaker == one]) for u in corpus.utterances]
    with pytest.raises(UserInputError, match=rf"nothing of {one} in split 'valid', of all"):
        chosen.of("valid")
