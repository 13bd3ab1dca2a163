"""In which settings trials differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vqwave.report import write_report
from vqwave.report.differences import differences, different_keys, sentence
from vqwave.report.run import Run, read_run

pytest.importorskip("matplotlib")


def trial(folder: Path, changes: dict[str, Any], experiment: str = "vqvae") -> Run:
    folder.mkdir()
    tree = {
        "experiment": experiment,
        "run": str(folder),
        "seed": 0,
        "optim": {"lr": 0.001, "betas": [0.9, 0.999]},
        "model": {"quantizer": {"kind": "ema", "codebook_size": 256}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(tree | changes))
    return read_run(folder)


def test_what_differs_is_in_a_column_each(tmp_path: Path) -> None:
    first = trial(tmp_path / "a", {})
    second = trial(tmp_path / "b", {"seed": 1, "optim": {"lr": 0.004, "betas": [0.9, 0.99]}})
    (table,) = differences([first, second])
    assert table.columns == ["a", "b"]
    assert dict(table.rows) == {
        "optim.betas": ["[0.9, 0.999]", "[0.9, 0.99]"],
        "optim.lr": ["0.001", "0.004"],
        "seed": ["0", "1"],
    }
    text = sentence(table)
    assert text.startswith("a, b: the settings differ in ")
    assert "optim.lr (0.001, 0.004)" in text
    assert "run" not in text.split()


def test_a_third_trial_adds_its_keys(tmp_path: Path) -> None:
    runs = [trial(tmp_path / "a", {}), trial(tmp_path / "b", {"seed": 1})]
    runs.append(trial(tmp_path / "c", {"optim": None}))
    (table,) = differences(runs)
    assert dict(table.rows) == {
        "seed": ["0", "1", "0"],
        "optim": ["{betas: [0.9, 0.999], lr: 0.001}"] * 2 + ["null"],
    }


def test_a_part_that_one_has_not_stands_for_its_keys() -> None:
    trees = [{"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "c": 2}}, {"a": None}]
    assert different_keys(trees) == ["a"]


def test_the_same_settings_are_said_to_be(tmp_path: Path) -> None:
    (table,) = differences([trial(tmp_path / "a", {}), trial(tmp_path / "b", {})])
    assert table.rows == []
    assert sentence(table) == "a, b: the same settings."


def test_many_differences_are_counted(tmp_path: Path) -> None:
    other = {"seed": 5, "model": {"x": 1}, "optim": {"lr": 2, "betas": [0.5, 0.9]}}
    (table,) = differences([trial(tmp_path / "a", {}), trial(tmp_path / "b", other)])
    assert sentence(table) == f"a, b: {len(table.rows)} settings differ."


def test_experiments_are_not_compared(tmp_path: Path) -> None:
    runs = [trial(tmp_path / "a", {}), trial(tmp_path / "b", {}, experiment="distill")]
    assert differences(runs) == []


def test_the_page_begins_with_them(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 7)):
        trial(tmp_path / name, {"seed": seed})
    html = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html").read_text()
    assert "the settings differ in seed (0, 7)." in html
    assert html.index("seed (0, 7)") < html.index('id="settings"')
