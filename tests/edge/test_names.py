"""Names are never paths, and nothing that they hold reaches a terminal as a command."""

from __future__ import annotations

import ast
import json
import unicodedata
from pathlib import Path

import pytest
import torch

from vqwave.names import LONGEST, file_name, file_names
from vqwave.terminal import message, output, printable
from vqwave.training.tracking import SampleSheet

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = [
    "../../../../ESCAPED",
    "/etc/passwd",
    "AC/DC",
    "..",
    ".",
    "",
    " ",
    ".hidden",
    "CON",
    "nul.txt",
    "a\0b",
    "a\nb",
    "a\x1b[2Jb",
    "a\u202eb",
    "C:\\x",
    'a"<>|?*b',
    "x" * 300,
    "é" * 300,
    "\ud800",
    "end.",
    "Ann",
    "ann",
    "ANN",
    "e\u0301",
    "\u00e9",
    "a/b",
    "a_b",
]


@pytest.mark.parametrize("suffix", ["", ".wav"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_name_stays_in_its_folder(name: str, suffix: str, tmp_path: Path) -> None:
    made = file_name(name, suffix)
    assert made.endswith(suffix)
    assert len(made.encode()) <= LONGEST
    assert not made.startswith(".")
    assert printable(made) == made
    (tmp_path / made).write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [made]


def test_names_differ_where_case_and_form_are_not_told_apart() -> None:
    made = file_names(HOSTILE, ".wav")
    folded = {unicodedata.normalize("NFC", name).casefold() for name in made.values()}
    assert len(folded) == len(set(HOSTILE))
    assert file_names(reversed(HOSTILE), ".wav") == made  # in any order
    pairs = file_names([("a.b", "c"), ("a", "b.c")])
    assert len(set(pairs.values())) == 2


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("george_0", "p225-001", "Größe", "a b", "speaker.01", "-x"):
        assert file_name(name) == name
    assert file_name("ann/0001", ".wav") == "ann_0001.wav"


def sheet_of(folder: Path, rows: list[tuple[str, str | None]]) -> SampleSheet:
    sheet = SampleSheet(folder, 8000, 1)
    for k, (utterance, target) in enumerate(rows):
        wave = torch.full((100,), k / 100)
        sheet.add(utterance, "conversion", wave, speaker="s", text="", target=target)
    sheet.close()
    return sheet


def test_samples_of_any_speakers_lie_in_their_folder(tmp_path: Path) -> None:
    rows: list[tuple[str, str | None]] = [("u", name) for name in HOSTILE if name]
    rows += [(name, "bob") for name in HOSTILE if name]
    sheet = sheet_of(tmp_path / "run" / "samples", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["samples"]
    index = json.loads((tmp_path / "run" / "samples" / "index.json").read_text())
    paths = [row["path"] for row in index["rows"]]
    written = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert written == sorted([*paths, "index.json"])
    assert len(set(paths)) == len(set(rows)) == len(sheet.rows)


def test_control_characters_are_shown_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    message("speaker \x1b]0;title\x07\u202e\x9b\ud800\udce9\r\n, grüße 你好\tx")
    shown = r"speaker \x1b]0;title\x07\u202e\x9b\ud800\xe9\x0d\x0a, grüße 你好" + "\tx\n"
    assert capsys.readouterr().err == shown
    output("a\x1b[2J\nb")
    assert capsys.readouterr().out == "a\\x1b[2J\nb\n"


def test_everything_is_printed_through_one_module() -> None:
    """No other module prints, or writes to a stream of the process."""
    found = []
    for path in sorted((ROOT / "vqwave").rglob("*.py")):
        if path.name in ("terminal.py", "espeak.py"):  # the latter is a process of its own
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "sys.stdout.write", "sys.stderr.write"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
                if called.endswith(".write") and any(k.arg == "file" for k in node.keywords):
                    text = ast.unparse(node.args[0])
                    if "printable" not in text:
                        found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []
