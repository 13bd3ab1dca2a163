"""The page in a real browser: a wav as the microphone; nothing on the console, no foreign request.

VQWAVE_BROWSER names the browser's program where it is not called chromium. VQWAVE_SCREENSHOTS names
a folder for pictures of the page.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import soundfile
import soxr

from vqwave.app.samples import sample
from vqwave.audio import read
from vqwave.codes import load_codes
from vqwave.inference.speech_model import SpeechModel

pytest.importorskip("gradio", reason="gradio (extra app) is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = pytest.mark.slow  # server, browser and kernels take seconds each to start

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 600_000  # ms: kernels may be compiled
SECONDS = 3.0  # of what is recorded


@pytest.fixture(scope="module")
def program() -> str:
    found = os.environ.get("VQWAVE_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}, and no VQWAVE_BROWSER")
    return found


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """`vqwave app` of the small shipped models, as a process of its own."""
    command = [sys.executable, "-m", "vqwave", "app", "fsdd", "fsdd-student", "fsdd-prior"]
    with subprocess.Popen(
        [*command, "--max-seconds", "20"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[0]
        server.terminate()
        assert server.wait(60) == 143


@pytest.fixture(scope="module")
def browser(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[playwright.Browser]:
    """With a sentence at 48 kHz as the microphone."""
    microphone = tmp_path_factory.mktemp("microphone") / "sentence.wav"
    wave, rate = read(sample("a sentence, a woman"))
    soundfile.write(microphone, soxr.resample(wave, rate, 48000), 48000, subtype="PCM_16")
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
    ]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """A page that is open, and all that it should not have done."""

    page: playwright.Page
    folder: Path
    address: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        page = self.page
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._request)
        page.goto(self.address)
        page.wait_for_selector("#convert")

    def _console(self, line: playwright.ConsoleMessage) -> None:
        if line.type == "error":
            self.complaints.append(line.text)

    def _request(self, request: playwright.Request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.complaints.append(f"a request of {request.url}")

    def choose(self, place: str, option: str) -> None:
        self.page.click(f"{place} input")
        self.page.get_by_role("option", name=option, exact=True).click()

    def cards(self, count: int) -> None:
        """Until so many players are there, or an error is."""
        script = """count => document.querySelectorAll('.vq-card').length === count
          || document.querySelector('.toast-body.error')"""
        self.page.wait_for_function(script, arg=count)
        assert self.page.locator(".toast-body.error").all_inner_texts() == []

    def convert(self) -> None:
        self.page.click("#convert")
        self.cards(3)

    def save(self, place: str) -> Path:
        """What a link saves."""
        with self.page.expect_download() as download:
            self.page.click(place)
        path = self.folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def picture(self, name: str) -> None:
        if folder := os.environ.get("VQWAVE_SCREENSHOTS"):
            self.page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.fixture(params=[1280, 390], ids=["wide", "phone"])
def visit(
    request: pytest.FixtureRequest, browser: playwright.Browser, address: str, tmp_path: Path
) -> Iterator[Visit]:
    size = {"width": request.param, "height": 844}
    with browser.new_context(
        viewport=size, permissions=["microphone"], accept_downloads=True
    ) as context:
        visit = Visit(context.new_page(), tmp_path, address)
        yield visit
        assert visit.complaints == []
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= request.param  # nothing sticks out


def test_record_convert_edit_save(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1000 * SECONDS)
    page.get_by_role("button", name="Stop", exact=True).click()
    visit.cards(1)
    assert 0.7 * SECONDS < shown_seconds(visit) < 20
    visit.choose("#speaker", "lucas")
    visit.convert()
    assert "conversion to lucas" in page.inner_text("#sounds")
    visit.picture(f"converted-{page.viewport_size['width']}")

    codes = load_codes(visit.save("#strip a.vq-save"))
    saved, rate = read(visit.save(".vq-card:nth-child(3) a.vq-save"))
    student = SpeechModel.load("fsdd")
    student.check(codes)
    assert (rate, len(saved)) == (student.sample_rate, codes.samples)

    frames = codes.codes.shape[1]
    page.get_by_role("button", name="Edit the codes").click()
    draw(visit, 0.25, 0.5)
    page.get_by_role("radio", name="cut").check()
    page.click("#apply")
    visit.cards(1)
    edited = load_codes(visit.save("#strip a.vq-save"))
    assert edited.codes.shape[1] == pytest.approx(0.75 * frames, abs=2)
    visit.convert()
    assert "edited codes" in page.inner_text("#sounds")
    visit.picture(f"edited-{page.viewport_size['width']}")


def test_a_file_is_dropped_played_and_converted_by_the_student(visit: Visit) -> None:
    page = visit.page
    page.set_input_files("#recording input[type=file]", sample("“seven”"))
    visit.cards(1)
    page.get_by_role("radio", name=re.compile("fsdd-student")).check()
    visit.convert()
    assert "nearest voice theo" in page.inner_text("#sounds")
    page.click(".vq-card:nth-child(2) .vq-lanes", position={"x": 20, "y": 20})
    page.wait_for_function("document.querySelectorAll('.vq-card audio')[1].currentTime > 0.1")


def test_a_word_is_said_and_converted(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Say a word").click()
    page.click("#say-fsdd-prior")
    visit.cards(1)
    visit.choose("#speaker", "george")
    visit.convert()


def test_what_is_wrong_is_said_on_the_page(visit: Visit) -> None:
    page = visit.page
    page.click("#convert")
    expect(visit, "no recording yet")
    path = visit.folder / "notes.wav"
    path.write_text("no sound")
    page.set_input_files("#recording input[type=file]", path)
    expect(visit, "notes.wav: not readable as sound")
    soundfile.write(visit.folder / "long.wav", [0.1, -0.1] * 80000 * 2, 8000)
    page.reload()
    page.wait_for_selector("#convert")
    page.set_input_files("#recording input[type=file]", visit.folder / "long.wav")
    expect(visit, "long.wav: 40.0 s, expected at most 20 s")
    visit.picture(f"error-{page.viewport_size['width']}")
    assert str(visit.folder) not in page.content()


def test_visitors_queue(browser: playwright.Browser, address: str, tmp_path: Path) -> None:
    """Three at once: each gets the voice that it asked for."""
    voices = ("george", "theo", "lucas")
    contexts = [browser.new_context() for _ in voices]
    visits = [Visit(context.new_page(), tmp_path, address) for context in contexts]
    for visit, voice in zip(visits, voices, strict=True):
        visit.choose("#sample", "“three”")
        visit.cards(1)
        visit.choose("#speaker", voice)
    for visit in visits:
        visit.page.click("#convert")
    for visit, voice in zip(visits, voices, strict=True):
        visit.cards(3)
        assert f"conversion to {voice}" in visit.page.inner_text("#sounds")
        assert visit.complaints == []
    for context in contexts:
        context.close()


def shown_seconds(visit: Visit) -> float:
    return float(re.findall(r"([\d.]+) s at", visit.page.inner_text("#strip"))[0])


def draw(visit: Visit, first: float, last: float) -> None:
    """From one share of the strip's width to another."""
    visit.page.locator("#strip .vq-codes").scroll_into_view_if_needed()
    box = visit.page.locator("#strip .vq-codes").bounding_box()
    mouse, y = visit.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + first * box["width"], y)
    mouse.down()
    mouse.move(box["x"] + last * box["width"] - 1, y, steps=4)
    mouse.up()
    visit.page.wait_for_timeout(500)


def expect(visit: Visit, text: str) -> None:
    """A line that the page shows."""
    visit.page.get_by_text(text).first.wait_for()
