"""What is installed: exact versions, from wherever pip is set to, and no package that others' old
versions come with.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# they do not import next to torch's CPU build, or pin what does not fit it
BANNED = {"torchaudio", "torchcodec", "torchcrepe", "penn", "pyworld", "pymcd"}


PEERS = {"vector-quantize-pytorch"}  # compared with in a benchmark, where it is installed


def named(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0].lower()


def test_versions_are_exact_and_banned_packages_left_out() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {named(each) for requirements in lists for each in requirements}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    fixed = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in line for line in fixed)
    assert "torch==2.13.0" in fixed
    assert asked - {"vqwave"} - PEERS <= {named(line) for line in fixed}
    assert not (asked | {named(line) for line in fixed}) & BANNED


def test_no_place_to_install_from_is_named() -> None:
    """Where packages come from is the user's setting; another index may have another build."""
    files = ["Makefile", "constraints.txt", "pyproject.toml", ".ci/run", "README.md"]
    files += [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    for name in files:
        text = (ROOT / name).read_text()
        found = re.search(r"(index-url|find-links|trusted-host|\buv (pip|sync)|/simple\b)", text)
        assert found is None, f"{name}: {found}"
