"""README and docs: length, links, commands, words, and figures that agree with the tree."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from vqwave import cli
from vqwave.config import parse
from vqwave.errors import UserInputError
from vqwave.evaluation.readme_table import BEGIN, END

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
LONGEST_README, LONGEST_LINE = 900, 100
METAPHORS = (
    r"heard|hears?|told|tells?|untold|taught|listens?|listener|speaks?|beside|readout|adversary"
    r"|rooms?|house|door|foresee\w*|babbles?"
)


def without_results(text: str) -> str:
    """A page without the tables that `vqwave results` wrote."""
    return re.sub(r"<!-- results:.*<!-- end of results -->", "", text, flags=re.DOTALL)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """(language, text) of each block of code."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def prose(text: str) -> str:
    """A page without code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", text)


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


@cache
def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(match[1]) for match in re.finditer(r"^#+ (.*)$", text, flags=re.MULTILINE)}


def test_readme_is_short() -> None:
    assert len(README.split()) <= LONGEST_README


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name}: {link}"


@pytest.mark.parametrize("name", NAMES)
def test_lines_are_short(name: str) -> None:
    lines = without_results((ROOT / name).read_text("utf-8")).splitlines()
    free = ("|", "![")  # a table's row and a picture cannot be broken
    long = [line for line in lines if len(line) > LONGEST_LINE and not line.startswith(free)]
    assert not long, f"{name}: {long[0]}"


@pytest.mark.parametrize("name", NAMES)
def test_words_are_plain(name: str) -> None:
    text = prose(without_results((ROOT / name).read_text("utf-8")))
    words = re.findall(rf"\b(?:{METAPHORS})\b", text, flags=re.IGNORECASE)
    assert not words, f"{name}: {', '.join(words)}"


def commands(name: str) -> list[list[str]]:
    """The words of each `vqwave` command and each experiment in a page's blocks of code."""
    found = []
    for language, text in blocks((ROOT / name).read_text("utf-8")):
        if language not in ("", "sh"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            for part in line.split(" | "):
                words = shlex.split(part.replace("< in.wav", ""), comments=True)
                starts = [i for i, word in enumerate(words) if is_command(word)]
                if starts and "..." not in words:
                    found.append(words[starts[0] :])
    return found


def is_command(word: str) -> bool:
    return word == "vqwave" or re.fullmatch(r"experiments/[a-z]+\.py", word) is not None


COMMANDS = [(name, words) for name in NAMES for words in commands(name)]


def test_commands_are_read() -> None:
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(("name", "words"), COMMANDS, ids=lambda value: str(value)[:60])
def test_commands_parse(
    name: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    experiment_script: Callable[[str], ModuleType],
) -> None:
    monkeypatch.chdir(ROOT)
    program, *arguments = words
    try:
        if program == "vqwave":
            cli.parser().parse_args(arguments)
        else:
            parse(experiment_script(Path(program).stem).Config, arguments)
    except (UserInputError, SystemExit) as error:
        pytest.fail(f"{name}: {shlex.join(words)}: {error}")


def rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table's rows, without marks of code."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "---" not in line]
    return [
        [cell.strip().replace("`", "") for cell in line.strip("| ").split("|")] for line in lines
    ]


def part_of_readme(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_results_are_those_of_the_results_page() -> None:
    """Each figure stands in a row of docs/results.md, and the student's in the same one."""
    page = [
        {cell.partition(" [")[0] for cell in row}
        for row in rows((ROOT / "docs" / "results.md").read_text("utf-8"))
    ]
    shown = rows(part_of_readme("Results"))[1:]
    assert len(shown) == 6
    for measure, *figures in shown:
        assert any(set(figures) <= row for row in page), measure


def test_the_results_page_has_the_markers_of_the_command() -> None:
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert page.index(f"{BEGIN}\n") < page.index(f"{END}\n")
    assert "--readme docs/results.md" in (ROOT / "Makefile").read_text("utf-8")


def test_shipped_models_are_those_of_the_package() -> None:
    folder = ROOT / "vqwave" / "pretrained"
    shown = rows(part_of_readme("Shipped models"))[1:]
    assert {row[0] for row in shown} == {path.name for path in folder.iterdir() if path.is_dir()}
    for name, rate, bits, megabytes, *_ in shown:
        card = json.loads((folder / name / "config.json").read_text("utf-8"))
        assert rate == f"{card['sample_rate']:,}", name
        if card["kind"] != "prior":
            assert bits == f"{card['about']['bit_rate']:.0f}", name
        size = (folder / name / "model.safetensors").stat().st_size
        assert megabytes == f"{size / 1e6:.1f}", name


def test_components_are_classes_of_the_package() -> None:
    files = (ROOT / "vqwave").rglob("*.py")
    trees = [ast.parse(path.read_text("utf-8")) for path in files]
    defined = {n.name for tree in trees for n in ast.walk(tree) if isinstance(n, ast.ClassDef)}
    named = re.findall(r"`([A-Z]\w+)`", part_of_readme("Components"))
    assert len(named) >= 8
    assert set(named) <= defined, set(named) - defined


def test_the_picture_is_small() -> None:
    for path in (ROOT / "docs" / "figures").iterdir():
        assert path.stat().st_size < 150_000, path.name


def test_readme_s_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.05, 480)
    soundfile.write("seven.wav", noise, 8000)
    (source,) = (text for language, text in blocks(README) if language == "python")
    exec(compile(source, "README.md", "exec"), {})
    assert soundfile.info("george.wav").frames == 480


def test_citation_has_the_package_s_version() -> None:
    import yaml

    import vqwave

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == vqwave.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
