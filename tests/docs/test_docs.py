"""docs/method.md: every setting parses, every law test and every source file exists.

docs/architecture.md: its levels are those of the architecture test. mkdocs.yml: it has every page.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
import yaml

from vqwave import cli
from vqwave.config import parse

ROOT = Path(__file__).parents[2]
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


def levels_of_the_test() -> list[tuple[str, ...]]:
    """`LEVELS` of tests/test_architecture.py."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "LEVELS":
            assert node.value is not None
            return ast.literal_eval(node.value)
    raise AssertionError("tests/test_architecture.py has no LEVELS")


def test_the_architecture_page_has_the_levels_that_are_enforced() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| (\d+) \| `(\w+)` \|", page, flags=re.MULTILINE)
    levels = levels_of_the_test()
    assert table == [(str(i), name) for i, names in enumerate(levels) for name in names]


def test_the_drawing_has_every_package_at_its_level() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawing = page.partition("```\n")[2].partition("```")[0]
    lines = dict(re.findall(r"^(.*?) (\d)(?: .*)?$", drawing, flags=re.MULTILINE))
    drawn = {int(level): set(names.split()) for names, level in lines.items()}
    for depth, names in enumerate(levels_of_the_test()):
        shown = {name for name in names if not name.startswith("__")}
        assert drawn[depth] == shown, depth


def pages_of(nav: object) -> set[str]:
    """The files that a part of mkdocs.yml's `nav` names."""
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return set().union(*map(pages_of, parts))


def test_the_site_has_every_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    docs = ROOT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    root = {"index.md", *(path.name for path in ROOT.glob("*.md"))} - {"README.md"}
    assert pages_of(site["nav"]) == pages | root


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda p: p.stem)
def test_the_api_pages_name_what_is_there(page: Path) -> None:
    names = re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)
    assert names
    for name in names:
        resolve_name(name)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "api" / "inference" / "index.html").is_file()
