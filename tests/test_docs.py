"""docs/method.md: every setting parses, every law test and every source file exists."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

from vqwave import cli
from vqwave.config import parse

ROOT = Path(__file__).parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "method.md").read_text().splitlines()
    if re.match(r"\| .*`vqwave/", line)
]


def experiment_config(name: str) -> type:
    """The settings class of experiments/NAME.py."""
    script = ROOT / "experiments" / f"{name}.py"
    place = importlib.util.spec_from_file_location(f"documented_{name}", script)
    assert place is not None
    assert place.loader is not None
    module = sys.modules[place.name] = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module.Config


def test_the_table_is_read() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_row_runs(row: str) -> None:
    part, _, setting, law, source = (cell.strip().strip("`") for cell in row.strip("|").split("|"))
    if setting.startswith("vqwave "):
        cli.parser().parse_args(shlex.split(setting)[1:])
    else:
        experiment, _, overrides = setting.partition(": ")
        parse(experiment_config(experiment), shlex.split(overrides))
    file, _, test = law.partition("::")
    tree = ast.parse((ROOT / file).read_text())
    assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, part
    assert (ROOT / source).is_file(), part
