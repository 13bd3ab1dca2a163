"""metrics.jsonl, wandb and tensorboard show the same numbers, sounds and settings; a resumed run
goes on in the same board.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vqwave import audio
from vqwave.errors import UserInputError
from vqwave.training.tracking import SampleSheet, Tracker, own_folder
from vqwave.training.tracking.tracker import spectrogram

CONFIG = {
    "run": "runs/x",
    "optim": {"lr": 3e-4, "betas": (0.9, 0.999)},
    "train": {"tracker": "none"},
    "model": None,
}
MAIN = SimpleNamespace(is_main_process=True)
ROWS = [
    (10, {"train/total": 2.5, "train/gradient_norm": 1e-9, "optim/lr": 3e-4}),
    (20, {"train/total": 1.0 / 3.0, "train/gradient_norm": 12345678.9, "optim/lr": 1.5e-4}),
    (20, {"valid/bits": 7.123456789, "valid/codes_used": 12.0}),
]
COUNTS = [[3, 0, 5, 1], [0, 0, 9, 0]]
Numbers = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-settings"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))


def tracker(run: Path, kind: str, step: int = -1) -> Tracker:
    """A tracker that has been opened at a step."""
    run.mkdir(exist_ok=True)
    opened = Tracker(MAIN, run, kind, CONFIG)
    opened.rewind(step)
    return opened


def logged(run: Path) -> Numbers:
    """metrics.jsonl by name."""
    found: Numbers = defaultdict(list)
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in row.items():
            if name != "step":
                found[name].append((row["step"], value))
    return found


def records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file, which is a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if not kind:
            break
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_files(run: Path) -> list[Path]:
    """All that runs have written: on a busy machine wandb's own process ends its file a little
    after `finish` returns.
    """
    files, patience = sorted((run / "wandb").glob("offline-run-*/*.wandb")), time.monotonic() + 20
    while (
        not all(any(r.HasField("exit") for r in records(file)) for file in files)
        and time.monotonic() < patience
    ):
        time.sleep(0.05)
    return files


def of_wandb(file: Path) -> tuple[Numbers, dict[str, list[dict[str, Any]]], dict[str, Any], str]:
    """Numbers, media, settings and the run's id."""
    numbers: Numbers = defaultdict(list)
    media: dict[str, list[dict[str, Any]]] = defaultdict(list)
    config: dict[str, Any] = {}
    identity = ""
    for record in records(file):
        if record.HasField("run"):
            identity = record.run.run_id
            config |= {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.run.config.update
            }
        row: dict[str, Any] = {}
        for item in record.history.item:
            name, *inside = [item.key] if item.key else item.nested_key
            if inside:
                row.setdefault(name, {})[inside[0]] = json.loads(item.value_json)
            else:
                row[name] = json.loads(item.value_json)
        for name, value in row.items():
            if isinstance(value, dict):
                media[name].append(value)
            elif name != "step" and not name.startswith("_"):
                numbers[name].append((row["step"], value))
    return numbers, media, config, identity


def of_tensorboard(run: Path) -> Any:  # noqa: ANN401 - tensorboard's own reader
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0, "audio": 0, "images": 0}
    ).Reload()


def scalars(board: Any) -> Numbers:  # noqa: ANN401
    return {
        name: [(event.step, event.value) for event in board.Scalars(name)]
        for name in board.Tags()["scalars"]
    }


def test_all_show_the_same_numbers(tmp_path: Path) -> None:
    for kind in ("none", "wandb", "tensorboard"):
        opened = tracker(tmp_path / kind, kind)
        for step, values in ROWS:
            opened.log(step, 1.25 * step, values)
        opened.finish()
    plain = logged(tmp_path / "none")
    assert plain["valid/bits"] == [(20, 7.123456789)]
    assert logged(tmp_path / "wandb") == logged(tmp_path / "tensorboard") == plain
    (file,) = wandb_files(tmp_path / "wandb")
    numbers, _, config, _ = of_wandb(file)
    assert numbers == plain
    assert (config["optim.lr"], config["optim.betas"], config["run"]) == (
        3e-4,
        "(0.9, 0.999)",
        "runs/x",
    )
    shown = scalars(of_tensorboard(tmp_path / "tensorboard"))
    assert shown.keys() == plain.keys()
    for name, series in plain.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in series]
        # float32 there
        assert [value for _, value in shown[name]] == pytest.approx(
            [value for _, value in series], rel=1e-6
        )


def test_wandb_disabled_writes_its_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    opened = tracker(tmp_path / "run", "wandb")
    for step, values in ROWS:
        opened.log(step, 1.25 * step, values)
    opened.codes(20, {"codes": {"counts": COUNTS}})
    opened.finish()
    assert not list((tmp_path / "run").rglob("*.wandb"))
    assert logged(tmp_path / "run")["train/total"] == [(10, 2.5), (20, 1.0 / 3.0)]


def test_a_resumed_run_goes_on_in_the_same_board(tmp_path: Path) -> None:
    """Killed at step 30 with a checkpoint at 20: row 30 is said again, then 40."""
    for kind in ("wandb", "tensorboard"):
        run = tmp_path / kind
        opened = tracker(run, kind)
        for step in (10, 20, 30):
            opened.log(step, 0.0, {"x": step / 10})
        opened.finish()
        opened = tracker(run, kind, step=20)
        for step in (30, 40):
            opened.log(step, 0.0, {"x": step / 10})
        opened.finish()
        assert logged(run)["x"] == [(10, 1.0), (20, 2.0), (30, 3.0), (40, 4.0)]
    assert scalars(of_tensorboard(tmp_path / "tensorboard"))["x"] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.0),
        (40, 4.0),
    ]
    assert (
        len(
            [
                t
                for t in of_tensorboard(tmp_path / "tensorboard").Tags()["tensors"]
                if t.startswith("config")
            ]
        )
        == 1
    )
    first, second = (of_wandb(file) for file in wandb_files(tmp_path / "wandb"))
    assert first[3] == second[3] == (tmp_path / "wandb" / "tracker_id").read_text()
    assert first[0]["x"] + second[0]["x"] == [(10, 1.0), (20, 2.0), (30, 3.0), (30, 3.0), (40, 4.0)]


def test_the_run_of_wandbs_agent_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "given123")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    tracker(tmp_path / "run", "wandb").finish()
    monkeypatch.delenv("WANDB_RUN_ID")
    tracker(tmp_path / "run", "wandb").finish()
    assert (tmp_path / "run" / "tracker_id").read_text() == "given123"


def sheet(run: Path) -> SampleSheet:
    time = np.arange(4000) / 8000
    made = SampleSheet(run / "samples", 8000, 20)
    made.add(
        "a/1",
        "original",
        torch.tensor(0.2 * np.sin(2 * np.pi * 440 * time)),
        speaker="ann",
        text="hello",
    )
    made.add(
        "a/1",
        "conversion",
        torch.tensor(0.1 * np.sin(2 * np.pi * 880 * time)),
        speaker="ann",
        text="hello",
        target="bob",
    )
    made.close()
    return made


def test_sounds_spectrograms_and_codes_are_shown(tmp_path: Path) -> None:
    for kind in ("none", "wandb", "tensorboard"):
        opened = tracker(tmp_path / kind, kind)
        opened.codes(20, {"codes": {"counts": COUNTS}, "nll": {}})
        opened.codes(20, {"nll": {}})
        opened.samples(sheet(tmp_path / kind))
        opened.finish()
    names = {"a_1/original": "a_1.original.wav", "a_1/conversion/bob": "a_1.conversion.bob.wav"}
    (file,) = wandb_files(tmp_path / "wandb")
    _, media, _, _ = of_wandb(file)
    board = of_tensorboard(tmp_path / "tensorboard")
    assert set(board.Tags()["audio"]) == {f"samples/{name}" for name in names}
    assert set(board.Tags()["images"]) == {f"spectrograms/{name}" for name in names}
    assert set(media) == {
        f"{room}/{name}" for room in ("samples", "spectrograms") for name in names
    } | {
        "codes/book0",
        "codes/book1",
    }
    for name, path in names.items():
        wave, _ = audio.read(tmp_path / "none" / "samples" / path)
        kept, rate = audio.read(file.parent / "files" / media[f"samples/{name}"][0]["path"])
        assert rate == 8000
        assert np.abs(kept - wave).max() < 1e-4
        (event,) = board.Audio(f"samples/{name}")
        (tmp_path / "heard.wav").write_bytes(event.encoded_audio_string)
        read_back, rate = audio.read(tmp_path / "heard.wav")
        assert (event.step, rate) == (20, 8000)
        assert np.abs(read_back - wave).max() < 1e-4
    assert media["samples/a_1/conversion/bob"][0]["caption"] == "conversion, ann as bob: hello"
    for book, counts in enumerate(COUNTS):
        assert media[f"codes/book{book}"][0]["values"] == counts
        (event,) = board.Histograms(f"codes/book{book}")
        edges, bars = event.histogram_value.bucket_limit, event.histogram_value.bucket
        assert {round(e) - 1: b for e, b in zip(edges, bars, strict=True) if b} == {
            k: n for k, n in enumerate(counts) if n
        }


def test_large_books_are_joined_for_wandb(tmp_path: Path) -> None:
    opened = tracker(tmp_path / "run", "wandb")
    opened.codes(5, {"codes": {"counts": [list(range(2000))]}})
    opened.finish()
    (file,) = wandb_files(tmp_path / "run")
    (shown,) = of_wandb(file)[1]["codes/book0"]
    assert sum(shown["values"]) == sum(range(2000))
    assert len(shown["values"]) <= 512


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    opened = Tracker(SimpleNamespace(is_main_process=False), tmp_path, "tensorboard", CONFIG)
    opened.rewind(-1)
    opened.log(1, 0.0, {"x": 1.0})
    opened.codes(1, {"codes": {"counts": COUNTS}})
    opened.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensorboard_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(
        UserInputError, match=r"train\.tracker: tensorboard is not installed; pip install"
    ):
        tracker(tmp_path / "run", "tensorboard")


@pytest.mark.parametrize("coloured", [True, False])
def test_a_spectrogram_shows_a_tone_where_it_is(
    coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not coloured:
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    wave = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    image = spectrogram(wave, 8000)
    assert image.dtype == np.uint8
    assert image.shape == (129, 101, 3)
    # 1000 Hz is bin 32 of 256, counted from below
    assert int(image[:, 50].astype(int).sum(1).argmax()) == 128 - 32
    assert spectrogram(wave[:50], 8000).shape[0] == 129


def test_each_setting_has_a_folder_of_its_own() -> None:
    def place(run: str = "runs/s/{settings}", **changes: object) -> Path:
        return own_folder(Path(run), {**CONFIG, "run": run, **changes}, {"train.tracker"})

    assert place() == place(train={"tracker": "wandb"})
    assert place() != place(optim={"lr": 1e-3})
    assert place() != place(seed=1)
    assert place().parent == Path("runs/s")
    assert place("runs/plain", seed=1) == Path("runs/plain")
