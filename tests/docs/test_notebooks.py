"""The notebooks run: their code cells in one namespace, in a folder of their own."""

from __future__ import annotations

import json
import linecache
import os
from pathlib import Path

import pytest

from vqwave.data import demo

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_notebook(path: Path) -> dict[str, object]:
    """The namespace after all cells. An error names the cell and its line."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(code_cells(path), 1):
        name = f"{path.name}, code cell {number}"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), namespace)
    return namespace


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    return tmp_path


def test_there_are_two_and_they_hold_no_output() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["encode_convert", "train_tiny"]
    for path in NOTEBOOKS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            assert not cell.get("outputs"), f"{path.name}: stored output"
            assert cell.get("execution_count") is None


def test_encode_convert(in_a_folder: Path) -> None:
    namespace = run_notebook(NOTEBOOKS[0])
    assert (in_a_folder / "voices.png").stat().st_size > 10_000
    assert len(list(in_a_folder.glob("*-seven.wav"))) == 6
    assert namespace["again"].codes.shape[1] > 10


def test_train_tiny(in_a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a third of the demo corpus: two takes of each digit."""
    pytest.importorskip("espeakng_loader")
    takes = (0, demo.TAKES - 1)
    few = [line for line in demo.lines() if line.text in demo.DIGITS and line.take in takes]
    monkeypatch.setattr(demo, "lines", lambda: few)
    namespace = run_notebook(NOTEBOOKS[1])
    curve = namespace["curve"]
    assert curve[-1][1] < curve[0][1]
    assert len(namespace["converted"]) == 2000
    assert (in_a_folder / "loss.png").is_file()
