"""The table of a benchmark, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vqwave import cli
from vqwave.bench import table
from vqwave.bench.table import Row
from vqwave.errors import UserInputError

ROWS = [
    Row("decode", "P", "numba float32", 1, 2, 31000.4, "samples/s", 1.94, 0.86, 30.2),
    Row("decode", "reading", "machine", None, 1, 95.31, "GB/s"),
]
KEYS = [
    "suite",
    "name",
    "backend",
    "batch",
    "threads",
    "value",
    "unit",
    "times_real_time",
    "floor_share",
    "reference_ratio",
]


def test_rows_are_written_with_all_keys_and_nulls(tmp_path: Path) -> None:
    table.write(tmp_path / "out.json", ROWS)
    read = json.loads((tmp_path / "out.json").read_text())
    assert [list(row) for row in read] == [KEYS, KEYS]
    assert read[0]["value"] == 31000.4
    assert read[1]["batch"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out.json").mkdir()
    with pytest.raises(UserInputError, match=r"out\.json"):
        table.write(tmp_path / "out.json", ROWS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_the_columns_stand_below_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    assert table.show(iter(ROWS)) == ROWS
    _, heading, first, second = capsys.readouterr().out.splitlines()
    assert first.index("31,000") + len("31,000") == heading.index("value") + len("value")
    assert "None" not in second


def test_medians() -> None:
    counts = {"a": 0, "b": 0}

    def work(name: str) -> None:
        counts[name] += 1

    medians = table.taking_turns({"a": lambda: work("a"), "b": lambda: work("b")}, 0.0, least=3)
    assert counts == {"a": 4, "b": 4}
    assert set(medians) == {"a", "b"}
    assert all(value >= 0 for value in medians.values())


@pytest.mark.parametrize(
    "words",
    [
        ["bench", "nothing"],
        ["bench", "quantizer", "--nothing"],
        ["bench", "decode", "--peer", "/nowhere"],
        ["bench", "decode", "--networks", "S", "--precisions", "foo"],
        ["bench", "decode", "--networks", "S", "--precisions", "auto"],
    ],
)
def test_bad_words_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_quantizers_agree_and_are_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    cli.main(["bench", "quantizer", "--vectors", "300", "--seconds", "0.01", "--json", str(out)])
    rows = json.loads(out.read_text())
    assert {row["suite"] for row in rows} == {"quantizer"}
    same = [row["value"] for row in rows if row["name"] == "same codes"]
    assert same
    assert min(same) > 99.5
    assert max(row["value"] for row in rows if row["name"] == "codebooks apart") < 1e-4
    assert "vqwave" in capsys.readouterr().out
