"""The listening page of the documentation: what it links to is there, small, and at one level."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import soundfile

from vqwave.audio import level_db
from vqwave.inference.model_files import SHIPPED

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "listening.md").read_text("utf-8")
LINKS = re.findall(r"\]\((sounds/[^)]+)\)", PAGE)
LARGEST_BYTES = 600_000


def module(path: Path) -> ModuleType:
    found = spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    result = module_from_spec(found)
    found.loader.exec_module(result)
    return result


def test_every_shipped_model_is_there() -> None:
    for path in SHIPPED.glob("*/config.json"):
        assert f"`{path.parent.name}`" in PAGE, "python benchmarks/listening.py"


def test_sounds_are_those_of_the_page_small_and_at_one_level() -> None:
    sounds = ROOT / "docs" / "sounds"
    assert sorted(LINKS) == sorted(f"sounds/{path.name}" for path in sounds.iterdir())
    assert sum(path.stat().st_size for path in sounds.iterdir()) <= LARGEST_BYTES
    for link in LINKS:
        wave, _ = soundfile.read(ROOT / "docs" / link, dtype="float32")
        # Vorbis is lossy; a peak may keep a sound below the level
        assert -30 < level_db(wave) < -22, link


def test_the_first_lines_of_the_readme_link_to_it() -> None:
    first = (ROOT / "README.md").read_text("utf-8").partition("## Install")[0]
    assert "(docs/listening.md)" in first


def test_links_to_sounds_are_players_on_the_site() -> None:
    pytest.importorskip("mkdocs")
    hooks = module(ROOT / "docs" / "site" / "hooks.py")
    html = hooks.on_page_content('<td><a href="../sounds/a.ogg">0.6 s, ann</a></td>')
    assert '<audio controls preload="none" src="../sounds/a.ogg" aria-label="0.6 s, ann"' in html
    assert "0.6 s, ann<br>" in html
    assert hooks.on_page_content('<a href="x.md">x</a>') == '<a href="x.md">x</a>'
