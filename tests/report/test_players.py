"""Players: one level for the sounds of an utterance, and the matrix of conversions."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from vqwave.audio import Wave, level_db, write
from vqwave.evaluation.result import Matrix
from vqwave.report.conversions import conversions, voices_of
from vqwave.report.listen import LEVEL_DB, PEAK_DB, listening
from vqwave.report.measured import findings
from vqwave.report.page import page
from vqwave.report.run import Run, read_run

pytest.importorskip("matplotlib")
RATE = 8000


def noise(level: float, crest: float | None = None, seed: int = 0) -> Wave:
    """Noise at an RMS level in dBFS; with `crest`, one peak so far above it."""
    rng = np.random.default_rng(seed)
    wave = rng.normal(0, 1, 4000)
    if crest is not None:
        wave[100] = 10 ** (crest / 20)
    return (wave * 10 ** ((level - level_db(wave)) / 20)).astype(np.float32)


def make_run(
    folder: Path, clips: list[tuple[dict[str, Any], Wave]], matrices: list[dict[str, Any]] = ()
) -> Run:
    folder.mkdir()
    (folder / "config.yaml").write_text("experiment: vqvae\n")
    rows = []
    for number, (about, wave) in enumerate(clips):
        write(folder / "samples" / f"{number}.wav", wave, RATE)
        rows.append({"path": f"{number}.wav", "utterance": "u", **about})
    if rows:
        (folder / "samples" / "index.json").write_text(json.dumps({"rows": rows}))
    if matrices:
        report = {"corpus": "c", "split": "test", "utterances": 2, "rows": [], "student": "little"}
        (folder / "metrics.json").write_text(json.dumps(report | {"matrices": matrices}))
    return read_run(folder)


LOUD_AND_QUIET = [
    ({"kind": "original", "speaker": "a"}, noise(-23.0)),
    ({"kind": "reconstruction", "speaker": "a"}, noise(-41.5, seed=1)),
    ({"kind": "conversion", "speaker": "a", "target": "b"}, noise(-9.0, seed=2)),
]


def test_all_players_of_an_utterance_have_one_level(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LOUD_AND_QUIET)
    section = listening([run])
    assert section is not None
    (group,) = section.utterances
    assert group.matched_level == "−23.0 dBFS"
    assert len(group.tiles) == 3
    for tile in group.tiles:
        sound = io.BytesIO(base64.b64decode(tile.sound.partition(",")[2]))
        wave, _ = soundfile.read(sound, dtype="float32")
        played = wave * float(tile.gain)
        assert level_db(played) == pytest.approx(LEVEL_DB, abs=0.05)
        assert np.abs(played).max() <= 1.0


def test_the_level_falls_where_a_peak_would_be_clipped(tmp_path: Path) -> None:
    clips = [
        ({"kind": "original"}, noise(-30.0)),
        ({"kind": "reconstruction"}, noise(-40.0, crest=32.0)),
    ]
    section = listening([make_run(tmp_path / "run", clips)])
    assert section is not None
    (group,) = section.utterances
    level = float(group.matched_level.split()[0].replace("−", "-"))
    peaked = clips[1][1]
    crest = 20 * np.log10(np.abs(peaked).max()) - level_db(peaked)
    assert level == pytest.approx(PEAK_DB - crest, abs=0.06)
    assert level < LEVEL_DB
    gains = [float(tile.gain) for tile in group.tiles]
    levels = [level_db(wave * gain) for (_, wave), gain in zip(clips, gains, strict=True)]
    assert levels[0] == pytest.approx(levels[1], abs=0.05)


def test_silence_is_left_alone(tmp_path: Path) -> None:
    clips = [
        ({"kind": "original"}, noise(-23.0)),
        ({"kind": "reconstruction"}, np.zeros(4000, np.float32)),
    ]
    section = listening([make_run(tmp_path / "run", clips)])
    assert section is not None
    assert [tile.gain for tile in section.utterances[0].tiles] == ["1.0000", "1"]


def test_the_page_states_the_level_and_the_keys(tmp_path: Path) -> None:
    html = page([make_run(tmp_path / "run", LOUD_AND_QUIET)])
    assert "at −23.0 dBFS" in html
    assert re.findall(r"<kbd>(\d)</kbd> (\w+)", html)[-3:] == [
        ("1", "Original"),
        ("2", "Reconstruction"),
        ("3", "Converted"),
    ]
    assert html.count("<audio") == 3  # buttons of the matrix play the same ones


def matrix(key: str, values: list[list[float | None]], unit: str = "%") -> dict[str, Any]:
    names = ["a", "b"]
    about = {"key": key, "title": key, "row_label": "from", "column_label": "to", "unit": unit}
    return about | {"rows": names, "columns": names, "values": values}


def test_conversions_have_players_and_figures(tmp_path: Path) -> None:
    measured = [
        matrix("conversion.content.model", [[None, 95.0], [90.0, None]]),
        matrix("converted.similarity.model", [[None, 0.8321], [0.7, None]], ""),
        matrix("conversion.target.student", [[None, 50.0], [25.0, None]]),
        matrix("conversion.gender.model", [[100.0, 1.0], [1.0, 1.0]]),
    ]
    run = make_run(tmp_path / "run", LOUD_AND_QUIET, measured)
    model, student = conversions([run], listening([run]))
    assert (model.title, student.title) == ("run", "little")
    assert model.measures == ["similarity to the target", "words kept, %"]
    cells = {
        (source, target): cell
        for source, row in model.rows
        for target, cell in zip(model.columns, row, strict=True)
    }
    assert cells["a", "b"].figures == ["0.83", "95"]
    assert cells["a", "b"].share == "0.83"
    assert cells["a", "b"].players == [2]  # the third sound on the page
    assert cells["a", "a"].players == [1]  # the reconstruction
    assert cells["a", "a"].same
    assert cells["b", "a"].players == []
    assert student.rows[0][1][1].figures == ["50"]
    assert not any(cell.players for _, row in student.rows for cell in row)
    section = findings([run])
    assert section is not None
    assert [heat.title for heat in section.matrices] == ["run: conversion.gender.model"]
    html = page([run])
    assert 'data-plays="2"' in html
    assert 'aria-label="Play a as b"' in html


def test_an_unknown_speaker_is_named_by_the_utterance(tmp_path: Path) -> None:
    clips = [({"kind": "conversion", "target": "b"}, noise(-23.0))]
    run = make_run(tmp_path / "run", clips)
    (matrix,) = conversions([run], listening([run]))
    assert [(source, [cell.players for cell in row]) for source, row in matrix.rows] == [
        ("u", [[0]])
    ]


def test_a_run_without_conversions_has_no_matrix(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LOUD_AND_QUIET[:2])
    assert conversions([run], listening([run])) == []
    assert 'id="conversion"' not in page([run])


def test_other_matrices_are_no_conversions() -> None:
    words = Matrix("words.model", "t", "r", "c", [], [], [])
    assert voices_of(words) is None
