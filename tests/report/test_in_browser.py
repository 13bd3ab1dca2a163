"""The page in a browser: keys switch at one position, and a live page follows its run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsers
import numpy as np
import pytest

from vqwave.atomic_files import write_text
from vqwave.audio import write
from vqwave.report.page import Live, page
from vqwave.report.run import read_run

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow  # starts a browser
RATE, SECONDS = 8000, 90.0  # longer than a slow machine takes for a test
Visits = Callable[[Path], browsers.Visit]
KINDS = ("original", "reconstruction", "student")


def make_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.yaml").write_text("experiment: vqvae\ntrain:\n  steps: 100\n")
    time = np.arange(round(RATE * SECONDS)) / RATE
    rows = []
    for number, kind in enumerate(KINDS):
        wave = (0.05 * (number + 1) * np.sin(500 * np.pi * time)).astype(np.float32)
        write(folder / "samples" / f"{kind}.flac", wave, RATE)  # a small file
        rows.append({"utterance": "u", "kind": kind, "path": f"{kind}.flac", "speaker": "a"})
    (folder / "samples" / "index.json").write_text(json.dumps({"rows": rows}))
    return folder


def log(run: Path, *steps: int) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "train/nll": 1 / step, "time/forward": 5}) + "\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsers.browser() as chromium:
        yield chromium


@pytest.fixture
def visit(browser: Any) -> Iterator[Visits]:  # noqa: ANN401 - playwright may be missing
    """Opens a file; errors on its console, and requests, fail the test."""
    visits = []

    def visit(path: Path) -> browsers.Visit:
        page = browser.new_page(viewport={"width": 1000, "height": 500})
        visits.append(browsers.Visit(page, path.as_uri()))
        return visits[-1]

    yield visit
    for each in visits:
        each.check()
        each.page.close()


def playing(opened: Any) -> tuple[str | None, float]:  # noqa: ANN401 - playwright may be missing
    """The place of the sound that plays, and its position in seconds."""
    return tuple(opened.evaluate("[now.source && now.clip.dataset.place, position()]"))


def test_keys_switch_at_one_position(tmp_path: Path, visit: Visits) -> None:
    run = make_run(tmp_path / "run")
    write_text(tmp_path / "page.html", page([read_run(run)]))
    opened = visit(tmp_path / "page.html").page
    assert opened.locator("audio[controls]").count() == 0
    opened.keyboard.press("1")
    opened.wait_for_function("position() > 0.3")
    before = playing(opened)
    opened.keyboard.press("3")
    opened.wait_for_function("now.clip.dataset.place === '2'")
    after = playing(opened)
    assert (before[0], after[0]) == ("0", "2")
    assert after[1] >= before[1]
    opened.keyboard.press("ArrowRight")
    opened.wait_for_function("now.clip.dataset.place === '0'")
    assert playing(opened)[1] >= after[1]
    opened.keyboard.press(" ")
    held = playing(opened)
    assert held[0] is None
    opened.wait_for_timeout(200)
    assert playing(opened) == held
    opened.keyboard.press(" ")
    opened.wait_for_function("now.source !== null")
    assert playing(opened)[1] >= held[1]
    gains = opened.evaluate("[...document.querySelectorAll('.clip')].map(c => c.dataset.gain)")
    assert len(set(gains)) > 1  # the recordings have levels of their own


def test_a_live_page_keeps_sound_and_place(tmp_path: Path, visit: Visits) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "page.html"
    log(run, 1, 2, 3)
    write_text(out, page([read_run(run)], Live(1.0, "step 3")))
    opened = visit(out).page
    opened.keyboard.press("2")
    opened.wait_for_function("now.source !== null")
    opened.evaluate("window.kept = now.source; now.source.loop = true")
    opened.evaluate("document.querySelector('.speed').open = true")
    opened.evaluate("document.querySelector('#training').scrollIntoView({behavior: 'instant'})")
    opened.wait_for_timeout(600)
    place = "document.querySelector('#training').getBoundingClientRect().top"
    top, clips = opened.evaluate(place), opened.locator(".clip").count()
    drawn = opened.locator("#training polyline").first.get_attribute("points")

    log(run, 50, 80)
    more = "evaluation of the codes " * 40  # the header grows, above what is in sight
    write_text(out, page([read_run(run)], Live(1.0, f"step 80 {more}")))
    opened.get_by_text("step 80").wait_for(state="attached")
    assert opened.evaluate("now.source === window.kept")
    assert playing(opened)[0] == "1"
    assert abs(opened.evaluate(place) - top) < 3
    assert opened.locator(".clip").count() == clips
    assert opened.locator("#training polyline").first.get_attribute("points") != drawn
    assert opened.evaluate("document.querySelector('.speed').open")
    assert opened.locator("iframe").count() <= 1

    write_text(out, page([read_run(run)], Live(0.0, "all 100 steps")))
    opened.get_by_text("all 100 steps").wait_for(state="attached")
    assert opened.evaluate("document.body.hasAttribute('data-refresh')") is False


def test_an_open_page_follows_a_run_that_is_watched(tmp_path: Path, visit: Visits) -> None:
    run = make_run(tmp_path / "run")
    log(run, 1, 2, 3)
    command = [sys.executable, "-m", "vqwave", "report", str(run), "--watch", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        assert watch.stdout.readline() == f"{run / 'report.html'}\n"
        watched = visit(run / "report.html")
        watched.page.get_by_text("step 3 of 100").wait_for()
        log(run, 40)
        watched.page.get_by_text("step 40 of 100").wait_for()
        for width in browsers.WIDTHS:
            watched.page.set_viewport_size({"width": width, "height": 844})
            watched.picture("live")
        log(run, 100)
        (run / "evaluation.json").write_text('{"split": "valid", "step": 100}')
        watched.page.get_by_text("all 100 steps").wait_for()
        assert watch.wait(browsers.PATIENCE / 1000) == 0
    watched.page.wait_for_function("!document.body.hasAttribute('data-refresh')")


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_a_report_of_shipped_models_fits_its_width(
    width: int, tmp_path: Path, visit: Visits
) -> None:
    write_text(tmp_path / "page.html", page([read_run("speech"), read_run("speech-student")]))
    opened = visit(tmp_path / "page.html")
    opened.page.set_viewport_size({"width": width, "height": 844})
    opened.picture("report")
