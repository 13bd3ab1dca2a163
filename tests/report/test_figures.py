"""Charts: lines and texts stay in the picture, and no two texts overlap."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import numpy as np
import pytest

from vqwave.report.figures import BOTTOM, HEIGHT, WIDTH, Line, chart

pytest.importorskip("matplotlib")
WIDE, HIGH = 5.9, 10.0  # of a character at 11 px: at most, and of its body
TEXT = re.compile(r'<text class="(\w+) ?(?:run-\d)?" x="([\d.]+)" y="([\d.]+)">([^<]*)</text>')


@dataclass(frozen=True)
class Box:
    text: str
    left: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        return across > 0 and abs(self.bottom - other.bottom) < HIGH


def boxes(picture: str) -> list[Box]:
    found = []
    for anchor, x, y, text in TEXT.findall(picture):
        width = WIDE * len(text)
        left = float(x) - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        found.append(Box(text, left, left + width, float(y)))
    return found


LEVELS = {
    "near one another": (9.0, 9.01, 9.02, 9.03, 16.0),
    "at the bottom": (1.0, 1.001, 1.002, 1.003, 100.0),
    "at the top": (1.0, 99.9, 99.95, 100.0, 100.0),
    "one level": (5.0, 5.0, 5.0, 5.0, 5.0),
}
NAMES = ("shuffled codes", "shuffled speakers", "linear predictor", "x" * 60, "recordings")


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("steps", [2, 900, 15_000, 98_765_432])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e7])
def test_texts_are_apart_and_inside(levels: tuple[float, ...], steps: int, scale: float) -> None:
    x = np.array([1.0, steps])
    lines = [
        Line(x, np.array([20.0 * scale, level * scale]), "run-0 reference", name)
        for level, name in zip(levels, NAMES, strict=True)
    ]
    found = boxes(str(chart("loss", lines, "training steps", "bits")))
    assert len(found) >= 10
    for one, other in itertools.combinations(found, 2):
        assert not one.overlaps(other), (one, other)
    for box in found:
        assert box.left >= -8, box  # the page leaves as much around a picture
        assert box.right <= WIDTH + 8, box
        assert 0 < box.bottom <= HEIGHT


def test_lines_end_where_names_begin() -> None:
    x = np.array([0.0, 1.0])
    picture = str(chart("loss", [Line(x, x, "run-0", "recordings")], "steps", ""))
    ends = [float(a) for a, _ in re.findall(r"([\d.]+),([\d.]+)", picture.split("points=")[1])]
    (name,) = (box for box in boxes(picture) if box.text == "recordings")
    assert max(ends) < name.left
    assert name.bottom <= HEIGHT - BOTTOM


@pytest.mark.parametrize(
    "values", [[1.0], [2.0, 2.0], [0.0, 0.0], [5.0, 3.0, 1e-9], list(range(1000))]
)
def test_charts_of_any_numbers_stay_inside(values: list[float]) -> None:
    y = np.array(values, np.float64)
    picture = chart(
        "loss", [Line(np.arange(len(y), dtype=np.float64), y, "run-0")], "steps", "bits"
    )
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", re.search(r'points="([^"]*)"', picture)[1])
    assert 1 <= len(points) <= 240
    assert all(0 <= float(x) <= 360 and 0 <= float(y) <= 214 for x, y in points)


def test_names_of_lines_do_not_overlap() -> None:
    x = np.array([0.0, 1.0])
    lines = [
        Line(x, np.full(2, level), "run-0", f"line {level}") for level in (1.0, 1.01, 1.02, 5.0)
    ]
    names = re.findall(r'y="([\d.]+)">line ([\d.]+)<', chart("loss", lines, "steps", ""))
    # from the top of the picture
    assert [name for _, name in names] == ["5.0", "1.02", "1.01", "1.0"]
    places = [float(y) for y, _ in names]
    assert min(np.diff(places)) >= 12
