"""Which recordings are held out where a corpus has no splits: by a hash of the sentence.

So no sentence is on both sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vqwave.data.manifest import Recording
from vqwave.data.sampler import counter_key

HELD_OUT = 0.05  # share of the sentences that each of valid and test gets
ALL = ("train", "valid", "test")


def assign_splits(rows: Iterable[Recording]) -> list[Recording]:
    """Fill in empty splits, and hold out a valid split where a corpus brings none.

    A sentence (the text, else the id) goes to valid or test by its hash, so the choice depends on
    nothing else. A split that the corpus defines stays as it is. A corpus too small for the hash to
    choose any gives the sentence of lowest hash. Where it defines no split at all, every speaker of
    three sentences or more has one in each, if need be by moving one of them: see `share_out`.
    """
    rows = list(rows)
    has = {row.split for row in rows}
    wanted = [split for split in ("valid", "test") if split not in has]
    open_to = "" if "" in has else "train"
    places = {sentence(row): _place(sentence(row)) for row in rows if row.split == open_to}
    chosen: dict[str, str] = {}
    for k, split in enumerate(wanted if len(places) > len(wanted) else []):
        left = {key: place for key, place in places.items() if key not in chosen}
        inside = [key for key, place in left.items() if k * HELD_OUT <= place < (k + 1) * HELD_OUT]
        chosen |= dict.fromkeys(inside or [min(left, key=lambda key: (left[key], key))], split)
    if has == {""}:
        chosen = share_out(rows, {key: chosen.get(key, "train") for key in places})
    return [
        replace(row, split=chosen.get(sentence(row), "train")) if row.split == open_to else row
        for row in rows
    ]


def sentence(row: Recording) -> str:
    """What is said, without regard to case and spaces; the id where that is not known."""
    return " ".join(row.text.lower().split()) or row.id


def _place(key: str) -> float:
    """A number in [0, 1), fixed for each sentence."""
    return counter_key("split", key) / 2**63


def share_out(rows: Sequence[Recording], split_of: Mapping[str, str]) -> dict[str, str]:
    """split_of: sentence -> split; the same, changed where a speaker of three lacks a split.

    The sentence that moves there takes all its speakers along. It is one that leaves nobody without
    the split that it leaves; of these, one of train before others, said seldom, of the lowest hash.
    If there is none (speakers who share few sentences), the speaker goes without.
    """
    sentences: defaultdict[str, set[str]] = defaultdict(set)
    speakers: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows:
        sentences[row.speaker].add(sentence(row))
        speakers[sentence(row)].add(row.speaker)
    result = dict(split_of)

    def leaves_somebody_without(key: str) -> bool:
        left = result[key]
        owed = (who for who in speakers[key] if left == "train" or len(sentences[who]) >= len(ALL))
        return any(sum(result[other] == left for other in sentences[who]) < 2 for who in owed)

    for speaker in sorted(sentences):
        for split in ALL if len(sentences[speaker]) >= len(ALL) else ():
            if any(result[key] == split for key in sentences[speaker]):
                continue
            free = [key for key in sentences[speaker] if not leaves_somebody_without(key)]
            if free:
                order = {
                    key: (result[key] != "train", len(speakers[key]), _place(key)) for key in free
                }
                result[min(free, key=lambda key: (order[key], key))] = split
    return result
