"""Which recordings are held out: sentences apart, own splits kept, something of every speaker in
each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqwave.data import Corpus, prepare
from vqwave.data.manifest import Recording
from vqwave.data.splits import assign_splits, sentence, share_out

ALL = {"train", "valid", "test"}
HELD = [13, 23, 101, 104, 110, 116, 125, 126, 134, 153, 157, 168, 182, 195, 236, 238, 240, 241]
HELD += [265, 318, 331, 332, 368]


def recordings(texts: Sequence[str], speakers: int = 3, split: str = "") -> list[Recording]:
    spoken = [(k, text, s) for k, text in enumerate(texts) for s in range(speakers)]
    return [Recording(Path("x"), f"s{s}", f"{k}-{s}", text, split) for k, text, s in spoken]


def test_splits_by_hash_hold_sentences_apart() -> None:
    texts = [f"sentence {k}" for k in range(400)]
    found = assign_splits(recordings(texts))
    by_split = {
        split: {row.text for row in found if row.split == split}
        for split in ("train", "valid", "test")
    }
    assert sum(map(len, by_split.values())) == len(texts)
    assert all(5 <= len(by_split[split]) <= 45 for split in ("valid", "test"))
    fewer = assign_splits(recordings(texts[:300]))
    assert [row.split for row in fewer] == [row.split for row in found[: len(fewer)]]


def test_splits_that_a_corpus_defines_stay() -> None:
    mixed = recordings(["a", "b", "c"], split="test") + recordings([f"t{k}" for k in range(9)], 1)
    found = assign_splits(mixed)
    assert [row.split for row in found[:9]] == ["test"] * 9
    assert {row.split for row in found[9:]} == {"train", "valid"}
    whole = [
        row for split in ("train", "valid", "test") for row in recordings(["a", "b"], split=split)
    ]
    assert assign_splits(whole) == whole


def test_small_corpora_still_get_held_out_sentences() -> None:
    assert sorted({row.split for row in assign_splits(recordings(["a", "b", "c"]))}) == [
        "test",
        "train",
        "valid",
    ]
    assert {row.split for row in assign_splits(recordings(["a"]))} == {"train"}


def splits_by_speaker(rows: Sequence[Recording]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row.speaker, set()).add(row.split)
    return found


@pytest.mark.parametrize("count", [3, 4, 10, 30])
def test_every_speaker_of_three_recordings_has_one_in_each_split(count: int) -> None:
    """Of their own sentences, or of texts that nobody else says."""
    for text in ("", "{}, {}"):
        rows = [
            Recording(Path("x"), f"s{s}", f"s{s}/{k}", text.format(s, k))
            for s in range(12)
            for k in range(count)
        ]
        assert set(map(frozenset, splits_by_speaker(assign_splits(rows)).values())) == {
            frozenset(ALL)
        }


def test_speakers_who_share_sentences_have_some_in_each_split_and_none_is_on_both_sides() -> None:
    """Each says 6 to 20 of 40 sentences."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = [
            Recording(Path("x"), f"s{s}", f"s{s}/{k}", f"sentence {k}")
            for s in range(10)
            for k in rng.permutation(40)[: rng.integers(6, 21)]
        ]
        found = assign_splits(rows)
        places: dict[str, set[str]] = {}
        for row in found:
            places.setdefault(sentence(row), set()).add(row.split)
        assert all(len(place) == 1 for place in places.values())
        assert all(splits == ALL for splits in splits_by_speaker(found).values())


def test_speakers_of_fewer_recordings_are_trained_on() -> None:
    """Nobody who is not to be held out loses their last recording of train to another's needs."""
    rows = [
        Recording(Path("x"), f"s{s}", f"s{s}/{k}", "hello" if k == 0 else "")
        for s in range(6)
        for k in range(s + 1)
    ]
    found = splits_by_speaker(assign_splits(rows))
    assert all("train" in splits for splits in found.values())
    assert all(found[f"s{s}"] == ALL for s in range(2, 6))


def test_a_sentence_that_somebody_needs_stays() -> None:
    """ann's sentence said least often is all that bob says: another one of hers is held out."""
    said = {"ann": "abcd", "bob": "a", "eve": "bcdxyz", "dan": "bcdxyz"}
    rows = [
        Recording(Path("x"), who, f"{who}/{key}", key) for who, keys in said.items() for key in keys
    ]
    found = share_out(
        rows, dict.fromkeys("abcd", "train") | {"x": "train", "y": "valid", "z": "test"}
    )
    assert found["a"] == "train"
    assert all({found[key] for key in said[who]} == ALL for who in ("ann", "eve", "dan"))


def test_large_corpora_are_split_by_hash_alone() -> None:
    """Where the hash gives every speaker all splits, nothing moves."""
    found = assign_splits(recordings([f"sentence {k}" for k in range(400)]))
    held = sorted(
        int(row.text.split()[1]) for row in found if row.split == "valid" and row.speaker == "s0"
    )
    assert held == HELD  # as they were before speakers were looked at


def test_splits_are_made_of_what_is_kept(tmp_path: Path) -> None:
    """ann has three good recordings among bad ones: rejections cost no split."""
    (tmp_path / "in" / "ann").mkdir(parents=True)
    for k in range(12):
        gain = 0.1 if k in (1, 5, 9) else 0.0
        wave = np.random.default_rng(k).normal(0, gain, 4000)
        soundfile.write(tmp_path / "in" / "ann" / f"{k}.wav", wave, 8000)
    prepare("folder", tmp_path / "in", tmp_path / "out", quiet=True)
    assert Corpus.open(tmp_path / "out").splits == {"train": 1, "valid": 1, "test": 1}
