"""What `vqwave evaluate` wrote into a run folder, on the page: tables beside one another, matrices,
map, pitch.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from vqwave.errors import UserInputError
from vqwave.report import write_report
from vqwave.report.measured import findings
from vqwave.report.run import read_run

pytest.importorskip("matplotlib")


def figure(
    value: float | None, low: float | None = None, high: float | None = None, what: str = ""
) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "count": 120, "what": what}


def row(
    key: str, measure: str, unit: str, figures: dict[str, Any], note: str = ""
) -> dict[str, Any]:
    return {
        "key": key,
        "group": key.split(".")[0],
        "measure": measure,
        "unit": unit,
        "better": "higher",
        "figures": figures,
        "note": note,
    }


def found(student: str | None, words: float) -> dict[str, Any]:
    """metrics.json of an evaluation on fsdd."""
    figures = {
        "ceiling": figure(99.2, 97.5, 100, "recordings"),
        "model": figure(words, words - 4, words + 3),
        "floor": figure(10),
    }
    figures |= {"student": figure(90.1, 85, 94)} if student else {}
    matrix = {
        "key": "words.model",
        "title": "words: reconstructions",
        "row_label": "said",
        "column_label": "heard",
        "unit": "utterances",
    }
    matrix |= {
        "rows": ["0", "1"],
        "columns": ["0", "1", "<b>"],
        "values": [[11, 1, 0], [0, 12, None]],
    }
    codes = {
        "key": "map",
        "title": "codes and phones",
        "row_label": "phones",
        "column_label": "codes",
        "unit": "% of a code's frames",
    }
    codes |= {
        "rows": ["a", "o"],
        "columns": [str(k) for k in range(40)],
        "values": [[100 - k for k in range(40)], list(range(40))],
    }
    return {
        "format": 1,
        "model": "m",
        "student": student,
        "kind": "vqvae",
        "corpus": "fsdd",
        "split": "test",
        "utterances": 120,
        "seconds": 51.5,
        "temperature": 0.9,
        "rows": [
            row("words.reconstruction", "words recognised", "%", figures),
            row(
                "pitch.correlation",
                "F0 correlation",
                "",
                {"model": figure(None)},
                "few voiced frames",
            ),
        ],
        "matrices": [matrix, codes],
        "tracks": [
            {
                "utterance": "7_theo_3",
                "step": 0.005,
                "curves": {"recording": [0, 100, 110, 120, 0, 90, 95], "model": [0] * 7},
            }
        ],
        "skipped": {"STOI": "too short & too few"},
    }


def run(folder: Path, tree: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("experiment: vqvae\n")
    (folder / "metrics.json").write_text(json.dumps(tree))
    return folder


def test_runs_stand_side_by_side_between_ceiling_and_floor(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "first", found("little", 93.3)),
        run(tmp_path / "second", found(None, 88.0)),
    ]
    section = findings([read_run(folder) for folder in runs])
    assert section is not None
    table = section.tables[0]
    assert table.columns == ["ceiling", "first", "little", "second", "floor"]
    ((measure, unit, better, cells),) = table.rows
    assert (measure, unit, better) == ("words recognised", "%", "↑")
    assert [cell.value for cell in cells] == ["99.2", "93.3", "90.1", "88", "10"]
    assert cells[1].interval == "89.3 to 96.3"
    assert cells[-1].interval == ""
    assert section.tables[1].rows[0][3][0].value == "n/a"
    assert any("few voiced frames" in note for note in section.notes)
    assert any("STOI" in note for note in section.notes)


def test_runs_on_other_recordings_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = [
        run(tmp_path / "a", found(None, 93.3)),
        run(tmp_path / "b", found(None, 60) | {"corpus": "librispeech"}),
    ]
    section = findings([read_run(folder) for folder in runs])
    assert section is not None
    assert [table.columns for table in section.tables if "Words" in table.caption] == [
        ["ceiling", "a", "floor"],
        ["ceiling", "b", "floor"],
    ]


def test_small_matrices_are_written_and_wide_ones_drawn(tmp_path: Path) -> None:
    section = findings([read_run(run(tmp_path / "a", found(None, 93.3)))])
    assert section is not None
    words, codes = section.matrices
    assert words.rows == [
        ("0", [("11", "0.92"), ("1", "0.08"), ("0", "0.00")]),
        ("1", [("0", "0.00"), ("12", "1.00"), ("", "0.00")]),
    ]
    assert not words.strips
    assert not codes.rows
    assert [name for name, _, _ in codes.strips] == ["a", "o"]
    assert all(picture.startswith("data:image/png;base64,") for _, picture, _ in codes.strips)


def test_pitch_has_gaps_where_nobody_is_voiced(tmp_path: Path) -> None:
    section = findings([read_run(run(tmp_path / "a", found(None, 93.3)))])
    assert section is not None
    (melody,) = section.melodies
    # two voiced stretches of the recording, none of the model
    assert str(melody.picture).count("<polyline") == 2


def test_the_page_holds_it_and_stays_well_formed(tmp_path: Path) -> None:
    html = write_report(
        [run(tmp_path / "a", found("little", 93.3))], tmp_path / "report.html"
    ).read_text(encoding="utf-8")
    assert 'id="quality"' in html
    assert "&lt;b&gt;" in html
    assert "too short &amp; too few" in html
    assert "<b>heard" not in html
    stack: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "br", "link", "input"):
                stack.append(tag)

        def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            return

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag

    Checker().feed(html)
    assert stack == []
    assert re.search(r"93\.3\s*<small>89\.3 to 96\.3</small>", html)


def test_a_run_without_it_has_no_such_section(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", {})
    (folder / "metrics.json").unlink()
    assert findings([read_run(folder)]) is None


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [{"key": "x"}]}, r"metrics.json: rows.0.group"),
        (
            {
                "matrices": [
                    {
                        "key": "k",
                        "title": "t",
                        "row_label": "r",
                        "column_label": "c",
                        "rows": ["a"],
                        "columns": ["b"],
                        "values": [],
                    }
                ]
            },
            "values of 1 rows",
        ),
        ({"corpus": 3}, "metrics.json: corpus"),
    ],
)
def test_damage_is_named(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    folder = run(tmp_path / "a", found(None, 90) | change)
    with pytest.raises(UserInputError, match=complaint):
        read_run(folder)
