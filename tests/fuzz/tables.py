"""Hostile data sets of the library `datasets`, as `save_to_disk` writes them."""

from __future__ import annotations

import importlib.util
import json
import random
from functools import cache
from pathlib import Path

from fuzz.mutations import any_bytes, json_text
from vqwave.data.huggingface import hf_datasets
from vqwave.data.manifest import Rejected

HAS_DATASETS = importlib.util.find_spec("datasets") is not None
TEXTS = ("ann", "", "../../x", "/etc/passwd", "a\0b", "a\nb", "\x1b[2J", "x" * 300, "\u202e", None)
PLACES = (None, "", "a.wav", "../../x", "/dev/zero", "a\0b", "x" * 300)


def write_table(folder: Path, sounds: list[dict[str, object]], **columns: list) -> None:
    """As a data set with an audio column; its paths need not be those of files."""
    import datasets

    datasets.disable_progress_bars()
    struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    data = datasets.Dataset.from_dict({"audio": sounds, **columns})
    data.cast_column("audio", struct).save_to_disk(str(folder))
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"]["audio"] = {"_type": "Audio"}
    if "speaker_id" in columns:
        info["features"]["speaker_id"] = {"names": ["ann", "bob"], "_type": "ClassLabel"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


@cache
def saved_table(folder: Path) -> dict[str, bytes]:
    """Two rows with sounds, their texts and speakers as classes."""
    sounds = [{"bytes": b"RIFF", "path": "a.wav"}, {"bytes": None, "path": "b.wav"}]
    write_table(folder, sounds, text=["hm", ""], speaker_id=[0, 1])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def saved_data_set(folder: Path, rng: random.Random, *, home: Path) -> None:
    """Its descriptions or its bytes altered, or hostile values in its rows."""
    if rng.random() < 0.2:
        _write_rows(folder, rng)
    else:
        files = dict(saved_table(home))
        name = rng.choice(sorted(files))
        tree = json.loads(files[name]) if name.endswith(".json") else None
        files[name] = any_bytes(files[name], rng) if tree is None else json_text(tree, rng)
        for each, data in files.items():
            (folder / each).write_bytes(data)
    for row in hf_datasets(folder):
        if not isinstance(row, Rejected):
            texts = (row.id, row.speaker, row.text, row.split, *row.labels.values())
            assert {type(text) for text in texts} == {str}
            if row.load is not None:
                assert isinstance(row.load(), bytes)


def _write_rows(folder: Path, rng: random.Random) -> None:
    """Hostile values."""
    sounds = [{"bytes": rng.choice((None, b"x")), "path": rng.choice(PLACES)} for _ in range(2)]
    texts = {name: [rng.choice(TEXTS) for _ in range(2)] for name in ("id", "speaker", "text")}
    numbers = [rng.choice((1.5, None, float("nan"))) for _ in range(2)]
    write_table(folder, sounds, gender=numbers, **texts)
