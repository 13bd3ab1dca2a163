"""Saved states of wrong types: models, streams, checkpoints and corpora are refused in a line that
names folder and file, or an older checkpoint is taken.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzz import models, streams, surfaces
from safetensors.torch import load_file, save_file

from vqwave.data import Corpus
from vqwave.decode.streaming.saved_state import StreamState
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import load_trained, save_trained
from vqwave.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_trained(tmp_path / "model", models.model().model, models.model().card)
    return tmp_path / "model"


def change(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda card: card.update(sample_rate=4 * 10**9),
        lambda card: card.update(labels=[1]),
        lambda card: card["about"].update(level_db=float("nan")),
        lambda card: card["about"].update(level_db="loud"),
        lambda card: card["about"].update(decoder_trained="no"),
        lambda card: card["about"].update(untrained_labels=3),
        lambda card: card["spec"]["decoder"]["network"].update(layers=10**9),
        lambda card: card["spec"]["decoder"]["network"].update(layers=10**6),
        lambda card: card["spec"]["decoder"]["network"].update(residual_channels=10**6),
        lambda card: card["spec"].update({"a.b": {"c": 1}}),
    ],
)
def test_a_damaged_card_names_folder_and_file(
    folder: Path, wrong: Callable[[dict[str, Any]], object]
) -> None:
    load_trained(folder)
    change(folder / "config.json", wrong)
    with pytest.raises(UserInputError, match=str(folder)) as caught:
        load_trained(folder)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "nan", "shape", "missing"])
def test_damaged_weights_name_folder_and_file(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        changed = {"nan": weights[name] * torch.nan, "shape": torch.ones(1, 2, 3)}
        weights[name] = changed.get(damage, weights.pop(name))
        if damage == "missing":
            del weights[name]
        save_file(weights, path)
    with pytest.raises(UserInputError, match=str(path)) as caught:
        load_trained(folder)
    assert "\n" not in str(caught.value)


def saved(tmp_path: Path, wrong: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    state = streams.saved_stream()
    header, arrays = json.loads(json.dumps(state.header)), dict(state.arrays)
    wrong(header, arrays)
    path = tmp_path / "x.stream"
    StreamState(header, arrays).save(path)
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        lambda header, _: header.pop("counts"),
        lambda header, _: header["counts"].update(sent=-1),
        lambda header, _: header["counts"].update(pushed="3"),
        lambda header, _: header.update(over=None),
        lambda header, _: header.update(sampling=[]),
        lambda header, _: header["sampling"].update(loud=1),
        lambda header, _: header["sampling"].update(seed="x"),
        lambda header, _: header.update(pending={"frame": 1.5}),
        lambda _, arrays: arrays.pop("z"),
        lambda _, arrays: arrays.update(z=np.full_like(arrays["z"], np.nan)),
        lambda _, arrays: arrays.update(z=arrays["z"].astype(np.int64)),
        lambda _, arrays: arrays.update(columns=np.zeros((2, 3), np.float32)),
        lambda _, arrays: arrays.update({"engine.last": np.zeros(7, np.float32)}),
        lambda _, arrays: arrays.update({"told.speaker": np.array([9])}),
        lambda _, arrays: arrays.update({"told.speaker": np.array([[0.5]])}),
    ],
)
def test_a_stream_state_of_wrong_types_is_refused(
    tmp_path: Path, wrong: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    whole = saved(tmp_path, lambda *_: None)
    models.model().resume_stream(whole).push(torch.tensor([[3, 4]]))
    path = saved(tmp_path, wrong)
    with pytest.raises(UserInputError, match=str(path)) as caught:
        models.model().resume_stream(path)
    assert "\n" not in str(caught.value)


def shifted(name: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """One whole number of the counts or of what is pending is another."""

    def shift(header: dict[str, Any], _: dict[str, Any]) -> None:
        part, key = name.split(".")
        header[part][key] += 1

    return shift


def cut(name: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """The last frame of an array is missing."""

    def shorten(_: dict[str, Any], arrays: dict[str, Any]) -> None:
        arrays[name] = np.ascontiguousarray(arrays[name][..., :-1])

    return shorten


@pytest.mark.parametrize(
    "wrong",
    [
        *map(shifted, ("counts.pushed", "counts.sent", "counts.column")),
        *map(shifted, ("pending.first", "pending.frame")),
        *map(cut, ("z",)),
        lambda header, _: header.update(engine="a\nb"),
        lambda header, _: header.update(model="a\nb"),
    ],
)
def test_the_parts_of_a_stream_state_are_of_one_moment(
    tmp_path: Path, wrong: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    path = saved(tmp_path, wrong)
    with pytest.raises(UserInputError, match=str(path)) as caught:
        models.model().resume_stream(path)
    assert "\n" not in str(caught.value)


def other(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = np.full_like(arrays[name], value)

    return change


def longer(name: str) -> Callable[[dict[str, Any]], object]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = np.concatenate([arrays[name]] * 9 + [arrays[name][:1]] * 9)

    return change


FORGED = [
    ("classes", other("engine.heard", 1e9)),
    ("classes", other("engine.heard", 256)),
    ("classes", other("engine.heard", 0.5)),
    ("wavenet", other("engine.time", 0)),
    ("wavenet", other("engine.time", 1 << 40)),
    ("classes", other("engine.time", 7)),
    ("student", other("engine.times", 0)),
    ("student", longer("engine.0.0.pasts")),
    ("student", longer("engine.0.1.known")),
    ("student", longer("engine.0.0.last")),
    ("folded student", longer("engine.0.1.partial")),
    ("folded student", other("engine.0.0.facts", 0)),
]


@pytest.mark.skipif(not streams.HAS_KERNELS, reason="numba is not installed")
@pytest.mark.parametrize(("decoder", "wrong"), FORGED)
def test_no_forged_state_reaches_a_kernel(
    tmp_path: Path, decoder: str, wrong: Callable[[dict[str, Any]], object]
) -> None:
    """They look up memory by what a state holds, unchecked."""
    state, path = streams.saved_stream(decoder, "numba"), tmp_path / "x.stream"
    state.save(path)
    models.model(decoder).resume_stream(path).push(torch.tensor([[3, 4]]))
    arrays = dict(state.arrays)
    wrong(arrays)
    StreamState(state.header, arrays).save(path)
    with pytest.raises(UserInputError, match=str(path)):
        models.model(decoder).resume_stream(path)


def test_a_state_that_is_proven_goes_on_as_before(tmp_path: Path) -> None:
    path, codes = saved(tmp_path, lambda *_: None), torch.arange(9)[None] % 16
    from_file = models.model().resume_stream(path)
    from_memory = models.model().resume_stream(streams.saved_stream())
    assert np.array_equal(from_file.push(codes), from_memory.push(codes))
    assert np.array_equal(from_file.flush(), from_memory.flush())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda progress: progress.update(optimizer=None),
        lambda progress: progress["optimizer"].update(state=[]),
        lambda progress: progress["optimizer"].update(param_groups=None),
        lambda progress: progress.update(step="3"),
        lambda progress: progress.pop("running"),
        lambda progress: progress.update(running=7),
    ],
)
def test_a_checkpoint_of_wrong_types_falls_back(
    tmp_path: Path, wrong: Callable[[dict[str, Any]], object]
) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    state = {"w": weight.detach()}
    progress = {"step": 1, "seconds": 1.0, "running": [{"total": [1.0, 2]}]}
    checkpoint = Checkpoint(state, state, optimizer.state_dict(), progress)
    save_checkpoint(tmp_path, 1, checkpoint)
    last = save_checkpoint(tmp_path, 2, replace(checkpoint, progress={**progress, "step": 2}))
    found, notes = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.progress["step"], notes) == (2, [])
    change(last / "progress.json", wrong)
    digest = hashlib.sha256((last / "progress.json").read_bytes()).hexdigest()
    change(last / "SHA256.json", lambda digests: digests.update({"progress.json": digest}))
    found, notes = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.progress["step"] == 1
    assert len(notes) == 1
    assert str(last / "progress.json") in notes[0]
    change(last / "SHA256.json", lambda digests: digests.update({"/dev/zero": digest}))
    assert "/dev/zero" in newest_checkpoint(tmp_path)[1][0]


def made(folder: Path, header: Callable[[Any], object], row: Callable[[Any], object]) -> Path:
    folder.mkdir(exist_ok=True)
    tree, rows = json.loads(json.dumps(surfaces.HEADER)), json.loads(json.dumps(surfaces.INDEX))
    header(tree)
    row(rows[1])
    (folder / "corpus.json").write_text(json.dumps(tree))
    (folder / "index.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "shard-00000.i16").write_bytes(bytes(2 * 2400))
    (folder / "pitch.f32").write_bytes(bytes(4 * 30))
    return folder


def nothing(_: object) -> None:
    """Left as it is."""


@pytest.mark.parametrize(
    ("header", "row", "file"),
    [
        (lambda tree: tree.update(level_db=float("nan")), nothing, "corpus.json"),
        (lambda tree: tree.update(sample_rate="8000"), nothing, "corpus.json"),
        (lambda tree: tree.update(labels={"speaker": "ann"}), nothing, "corpus.json"),
        (lambda tree: tree.update(pitch={"hop": 0, "range": [1.0, 2.0]}), nothing, "corpus.json"),
        (lambda tree: tree.update(format=None), nothing, "corpus.json"),
        (nothing, lambda row: row.update(offset=-5), "index.jsonl, line 2"),
        (nothing, lambda row: row.update(frames=1.5), "index.jsonl, line 2"),
        (nothing, lambda row: row.update(frames=10**40), "index.jsonl, line 2"),
        (nothing, lambda row: row.update(phones=[["a", 0]]), "index.jsonl, line 2"),
        (nothing, lambda row: row.update(speaker="zoe"), "index.jsonl"),
        (nothing, lambda row: row.update(id="ann0"), "index.jsonl"),
        (nothing, lambda row: row["labels"].update(gender="x"), "index.jsonl"),
    ],
)
def test_a_corpus_of_wrong_types_is_refused(
    tmp_path: Path, header: Callable[[Any], object], row: Callable[[Any], object], file: str
) -> None:
    assert len(Corpus.open(made(tmp_path / "x", nothing, nothing)).utterances) == 3
    shutil.rmtree(tmp_path / "x")
    with pytest.raises(UserInputError, match="damaged corpus") as caught:
        Corpus.open(made(tmp_path / "x", header, row))
    assert str(tmp_path / "x" / file) in str(caught.value)
    assert "\n" not in str(caught.value)
