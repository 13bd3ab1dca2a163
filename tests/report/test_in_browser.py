"""The page in a browser: keys switch at one position, and a live page follows its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqwave.atomic_files import write_text
from vqwave.audio import write
from vqwave.report.page import Live, page
from vqwave.report.run import read_run

pytest.importorskip("matplotlib")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,  # starts a browser
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]
RATE, SECONDS = 8000, 90.0  # longer than a slow machine takes for a test
PATIENCE = 120_000  # milliseconds, where other work takes the processor
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


@pytest.fixture
def browser_page() -> Iterator[Any]:
    """A page of the browser; errors on its console fail the test."""
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        opened = browser.new_page(viewport={"width": 1000, "height": 500})
        opened.set_default_timeout(PATIENCE)
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.on(
            "console", lambda line: errors.append(line.text) if line.type == "error" else None
        )
        yield opened
        browser.close()
        assert errors == []


def playing(opened: Any) -> tuple[str | None, float]:  # noqa: ANN401 - playwright may be missing
    """The place of the sound that plays, and its position in seconds."""
    return tuple(opened.evaluate("[now.source && now.clip.dataset.place, position()]"))


def test_keys_switch_at_one_position(tmp_path: Path, browser_page: Any) -> None:  # noqa: ANN401
    run = make_run(tmp_path / "run")
    write_text(tmp_path / "page.html", page([read_run(run)]))
    browser_page.goto((tmp_path / "page.html").as_uri())
    assert browser_page.locator("audio[controls]").count() == 0
    browser_page.keyboard.press("1")
    browser_page.wait_for_function("position() > 0.3")
    before = playing(browser_page)
    browser_page.keyboard.press("3")
    browser_page.wait_for_function("now.clip.dataset.place === '2'")
    after = playing(browser_page)
    assert (before[0], after[0]) == ("0", "2")
    assert after[1] >= before[1]
    browser_page.keyboard.press("ArrowRight")
    browser_page.wait_for_function("now.clip.dataset.place === '0'")
    assert playing(browser_page)[1] >= after[1]
    browser_page.keyboard.press(" ")
    held = playing(browser_page)
    assert held[0] is None
    browser_page.wait_for_timeout(200)
    assert playing(browser_page) == held
    browser_page.keyboard.press(" ")
    browser_page.wait_for_function("now.source !== null")
    assert playing(browser_page)[1] >= held[1]
    gains = browser_page.evaluate(
        "[...document.querySelectorAll('.clip')].map(c => c.dataset.gain)"
    )
    assert len(set(gains)) > 1  # the recordings have levels of their own


def test_a_live_page_keeps_sound_and_place(tmp_path: Path, browser_page: Any) -> None:  # noqa: ANN401
    run, out = make_run(tmp_path / "run"), tmp_path / "page.html"
    log(run, 1, 2, 3)
    write_text(out, page([read_run(run)], Live(1.0, "step 3")))
    browser_page.goto(out.as_uri())
    browser_page.keyboard.press("2")
    browser_page.wait_for_function("now.source !== null")
    browser_page.evaluate("window.kept = now.source; now.source.loop = true")
    browser_page.evaluate("document.querySelector('.speed').open = true")
    browser_page.evaluate(
        "document.querySelector('#training').scrollIntoView({behavior: 'instant'})"
    )
    browser_page.wait_for_timeout(600)
    place = "document.querySelector('#training').getBoundingClientRect().top"
    top, clips = browser_page.evaluate(place), browser_page.locator(".clip").count()
    drawn = browser_page.locator("#training polyline").first.get_attribute("points")

    log(run, 50, 80)
    more = "evaluation of the codes " * 40  # the header grows, above what is in sight
    write_text(out, page([read_run(run)], Live(1.0, f"step 80 {more}")))
    browser_page.get_by_text("step 80").wait_for(state="attached")
    assert browser_page.evaluate("now.source === window.kept")
    assert playing(browser_page)[0] == "1"
    assert abs(browser_page.evaluate(place) - top) < 3
    assert browser_page.locator(".clip").count() == clips
    assert browser_page.locator("#training polyline").first.get_attribute("points") != drawn
    assert browser_page.evaluate("document.querySelector('.speed').open")
    assert browser_page.locator("iframe").count() <= 1

    write_text(out, page([read_run(run)], Live(0.0, "all 100 steps")))
    browser_page.get_by_text("all 100 steps").wait_for(state="attached")
    assert browser_page.evaluate("document.body.hasAttribute('data-refresh')") is False
