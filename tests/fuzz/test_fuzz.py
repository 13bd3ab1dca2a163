"""Hostile inputs of every surface: each is refused in one line that names its file, or taken.

`make fuzz N=20000` takes many more, with limits of memory and time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.outcome import outcome_of
from fuzz.surfaces import surfaces

NAMES = [surface.name for surface in surfaces(Path())]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_inputs_are_refused_or_taken(name: str, tmp_path: Path) -> None:
    surface = next(each for each in surfaces(tmp_path) if each.name == name)
    for number in range(surface.tests):
        kind, text = outcome_of(surface, 0, number)
        assert kind in ("refused", "accepted"), f"input {number}: {text}"
