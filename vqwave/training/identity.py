"""What lies behind the paths of a run's settings, so that a run is resumed on what it was trained
on and on nothing else.

An identity names, by setting (`data.corpus`, `teacher`), the path and its parts: counts and
digests, the same for the same content wherever it lies and whenever it was prepared.
`identity.json` in the run folder keeps the first one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqwave import parsing
from vqwave.atomic_files import file_digest, write_text
from vqwave.data import Corpus
from vqwave.data.frame_tracks import Track
from vqwave.errors import UserInputError
from vqwave.inference.model_files import find_model

FILE = "identity.json"
EXCERPTS, EXCERPT = 256, 512  # utterances whose content is looked at, and samples of each
HASHED = "samples"  # a part that corpora lack which an older release, or another program, prepared


Part = tuple[str, str]
"""What is shown of a part, such as a count, and the digest of its content."""


@dataclass(frozen=True)
class Source:
    """A path of the settings and, by name, the parts of what it leads to."""

    path: Path
    parts: Mapping[str, Part]


Identity = Mapping[str, Source]


def of_corpus(corpus: Corpus, tracks: Sequence[Track] = ()) -> Source:
    """The rate, labels, index, vectors and samples of a corpus, and the frames of `tracks` that it
    stores.

    Not all samples and frames are read: the digests of the shards are those that `prepare` wrote,
    and of at most `EXCERPTS` utterances, evenly spread, an excerpt and the frames are looked at.
    Raises UserInputError for frames that cannot be used.
    """
    rows, shown = corpus.utterances, _excerpts(corpus)
    parts = {
        "sample rate": _part(f"{corpus.sample_rate} Hz"),
        "level": _part(f"{corpus.level_db:g} dBFS"),
        "recordings": _part(f"{len(rows)}", [(u.id, u.frames) for u in rows]),
        "splits": _part(
            ", ".join(f"{n} {name}" for name, n in Counter(u.split for u in rows).items()),
            [u.split for u in rows],
        ),
        "texts": _part(f"{len({u.text for u in rows})}", [u.text for u in rows]),
        "phones": _part(f"{sum(len(u.phones) for u in rows)}", [u.phones for u in rows]),
        "excerpts": _part(
            f"{len(shown)}", [_bytes(corpus.read(row, start, EXCERPT)) for row, start in shown]
        ),
    }
    for name, values in corpus.labels.items():
        parts[f"{name} labels"] = _part(
            f"{len(values)}", [values, [u.labels.get(name) for u in rows]]
        )
    for name, vectors in corpus.vectors.items():
        parts[f"vectors {name}"] = _part(" x ".join(map(str, vectors.shape)), _bytes(vectors))
    for track in tracks:
        if not track.in_index:
            used = [row for row, _ in shown if rows[row].split != "test"]
            parts[f"frames {track.name}"] = _part(
                f"{len(used)}", [_bytes(np.asarray(track.stored(corpus, row))) for row in used]
            )
    if corpus.shard_hashes:
        parts[HASHED] = _part(f"{len(corpus.shard_hashes)}", corpus.shard_hashes)
    return Source(corpus.folder, parts)


def of_model(path: Path) -> Source:
    """The weights of a trained model, and what they were saved with: its settings, rate and labels.

    Raises UserInputError.
    """
    folder = find_model(path)
    card = parsing.read_json(folder / "config.json", "the settings of a model", dict[str, Any])
    card.pop("about", None)
    return Source(
        path,
        {
            "weights": _part("", file_digest(folder / "model.safetensors")),
            "settings": _part("", card),
        },
    )


def begun_with(run: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """The parts that a run began with, by setting: none for a run of an older release.

    Raises UserInputError where they cannot be read.
    """
    if not (run / FILE).exists():
        return {}
    try:
        return parsing.read_json(
            run / FILE, "what the run was begun with", dict[str, dict[str, tuple[str, str]]]
        )
    except UserInputError as error:
        raise UserInputError(
            f"{run / FILE}: damaged ({error}); expected what the run was begun with, choose another"
            " run=..."
        ) from None


def check(run: Path, now: Identity) -> str | None:
    """Compare what a run began with -> a line to print where the run has none, since an older
    release began it.

    Raises UserInputError that names the setting, its path, and what about it is another. Parts that
    the run does not know are not compared: a vector that is new to the corpus is one that the run
    was not trained on.
    """
    kept = begun_with(run)
    if not kept:
        names = ", ".join(f"{setting} {source.path}" for setting, source in now.items())
        return (
            f"{run}: begun by an older release, without {FILE}; whether {names} changed is checked"
            " from now on"
        )
    changes = {
        setting: list(_changes(kept[setting], now[setting].parts))
        for setting in sorted(kept.keys() & now.keys())
    }
    for setting, changed in changes.items():
        if changed:
            raise UserInputError(
                f"{run}: {setting} {now[setting].path} is not what this run was begun with:"
                f" {'; '.join(changed)}; bring that back, choose another run=..., or --restart"
            )
    return None


def write(run: Path, identity: Identity) -> None:
    """Keep an identity in a run folder that has none yet."""
    if not (run / FILE).exists():
        write_text(
            run / FILE,
            json.dumps(
                {setting: dict(source.parts) for setting, source in identity.items()}, indent=1
            ),
        )


def _changes(kept: Mapping[str, Sequence[str]], now: Mapping[str, Part]) -> Iterator[str]:
    for name, before in kept.items():
        current = now.get(name, ("none", ""))
        if tuple(before) != current and (name in now or name != HASHED):
            yield (
                f"other {name}"
                if before[0] == current[0]
                else f"{name} {current[0]}, expected {before[0]}"
            )


def _excerpts(corpus: Corpus) -> list[tuple[int, int]]:
    """(row, first sample) of a stretch from the middle of evenly spread utterances."""
    count = len(corpus.utterances)
    rows = range(count) if count <= EXCERPTS else [k * count // EXCERPTS for k in range(EXCERPTS)]
    return [(row, max(0, corpus.utterances[row].frames - EXCERPT) // 2) for row in rows]


def _bytes(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes()).hexdigest()


def _part(shown: str, content: object = None) -> Part:
    return (
        shown,
        hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest(),
    )
