"""The page in a real browser: recorded, converted, edited, saved; nothing on the console, no
foreign request.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsers
import pytest
import soundfile
import soxr
from browsers import COMPUTING, PATIENCE

from vqwave.app.samples import sample
from vqwave.audio import read
from vqwave.codes import load_codes
from vqwave.inference.speech_model import SpeechModel

pytest.importorskip("gradio", reason="gradio (extra app) is not installed")

pytestmark = pytest.mark.slow  # server, browser and kernels take seconds each to start

STUDENT = "fsdd-student"
SECONDS = 3.0  # of what is recorded, more on a busy machine
LONGEST = 60


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Of a browser with a sentence at 48 kHz as its microphone; all pages share what was loaded."""
    microphone = tmp_path_factory.mktemp("microphone") / "sentence.wav"
    wave, rate = read(sample("a sentence, a woman"))
    soundfile.write(microphone, soxr.resample(wave, rate, 48000), 48000, subtype="PCM_16")
    with browsers.browser(microphone) as chromium:
        yield chromium.new_context(permissions=["microphone"], accept_downloads=True)


@pytest.fixture(scope="module")
def address(context: Any) -> Iterator[str]:  # noqa: ANN401 - playwright may be missing
    """`vqwave app` of the small shipped models, as a process of its own."""
    models = [STUDENT, "fsdd", "fsdd-prior"]
    command = [sys.executable, "-m", "vqwave", "app", *models, "--max-seconds", str(LONGEST)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("http://127.0.0.1:")
        yield line.split()[0]
        server.terminate()
        assert server.wait(PATIENCE / 1000) == 143


class Visit(browsers.Visit):
    """The page of `vqwave app`."""

    def choose(self, place: str, option: str) -> None:
        """An entry of a list that has this text."""
        self.page.click(f"{place} input")
        self.page.get_by_role("option").filter(has_text=option).click()

    def cards(self, count: int) -> None:
        """Until so many players are there, or an error is."""
        script = """count => document.querySelectorAll('.vq-card').length === count
          || document.querySelector('.toast-body.error')"""
        self.page.wait_for_function(script, arg=count, timeout=COMPUTING)
        assert self.page.locator(".toast-body.error").all_inner_texts() == []

    def convert(self) -> None:
        self.page.click("#convert")
        self.cards(3)

    def drop(self, place: str, path: Path) -> None:
        """A file that is dragged over a recorder, and dropped on what appears there."""
        script = """([name, text]) => { const data = new DataTransfer();
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          data.items.add(new File([bytes], name, {type: "audio/x"})); return data; }"""
        text = base64.b64encode(path.read_bytes()).decode()
        dragged = {"dataTransfer": self.page.evaluate_handle(script, [path.name, text])}
        self.page.dispatch_event(f"{place} button >> nth=0", "dragenter", dragged)
        self.page.dispatch_event(f"{place} .upload-container", "drop", dragged)

    def complains(self, text: str) -> None:
        """Until the page shows this line."""
        self.page.get_by_text(text).first.wait_for()

    def seen(self, place: str) -> None:
        """Until all of it is within the window."""
        script = """place => { const box = document.querySelector(place).getBoundingClientRect();
          return box.top >= 0 && box.bottom <= innerHeight; }"""
        self.page.wait_for_function(script, arg=place)

    def draw(self, first: float, last: float, strip: str = "#strip", below: float = 0.0) -> None:
        """Over a strip of codes, from one share of its width to another, and so many pixels down
        from there.
        """
        codes, mouse = self.page.locator(f"{strip} .vq-codes"), self.page.mouse
        codes.scroll_into_view_if_needed()
        box = codes.bounding_box()
        y = box["y"] + box["height"] / 2
        mouse.move(box["x"] + first * box["width"], y)
        mouse.down()
        mouse.move(box["x"] + last * box["width"] - 1, y, steps=4)
        if below:
            mouse.move(box["x"] + last * box["width"] - 1, y + below, steps=2)
        mouse.up()

    def chosen(self, first: int, last: int, strip: str = "#strip") -> None:
        """Until the sliders of a strip have these frames; then the box on it has them, too."""
        name = "Its" if strip == "#other-strip" else "First frame|End,"
        script = """([name, first, last]) => {
          const sliders = [...document.querySelectorAll("input[type=range]")];
          const found = sliders.filter((each) => each.ariaLabel.match(name));
          return found.length === 2 && Number(found[0].value) === first
            && Number(found[1].value) === last; }"""
        self.page.wait_for_function(script, arg=[name, first, last])
        box = f"""() => {{ const strip = document.querySelector("{strip} .vq-strip"),
          style = strip.querySelector(".vq-mark").style, frames = strip.dataset.frames / 100,
          left = parseFloat(style.left), right = left + parseFloat(style.width);
          return [left * frames, right * frames].map(Math.round); }}"""
        assert self.page.evaluate(box) == [first, last]


@pytest.fixture
def visit(request: pytest.FixtureRequest, context: Any, address: str) -> Iterator[Visit]:  # noqa: ANN401
    """A page of the width that a test is parametrized with."""
    page = context.new_page()
    page.set_viewport_size({"width": request.param, "height": 844})
    visit = Visit(page, address)
    page.wait_for_selector("#convert")
    yield visit
    visit.check()
    page.close()


@pytest.mark.parametrize("visit", browsers.WIDTHS, indirect=True)
def test_record_convert_edit_save(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1000 * SECONDS)
    page.get_by_role("button", name="Stop", exact=True).click()
    visit.cards(1)
    shown = float(re.findall(r"([\d.]+) s at", page.inner_text("#strip"))[0])
    assert 0.7 * SECONDS < shown < LONGEST
    assert "codes of “microphone”" in page.inner_text("#strip")
    visit.picture("recorded")
    visit.choose("#speaker", "lucas")
    visit.convert()
    assert "conversion to lucas" in page.inner_text("#sounds")
    visit.seen(".vq-card:last-child")  # on a phone, too, where the button is far above
    visit.picture("converted")

    codes = load_codes(visit.save("#strip a.vq-save", tmp_path))
    wave, rate = read(visit.save(".vq-card:nth-child(3) a.vq-save", tmp_path))
    model = SpeechModel.load(STUDENT)
    model.check(codes)
    assert (rate, len(wave)) == (model.sample_rate, codes.samples)

    frames = codes.codes.shape[1]
    page.get_by_role("button", name="Edit the codes").click()
    visit.draw(0.25, 0.5)
    placed = """frames => Math.abs(frames / 4
      - document.querySelector("input[type=range][aria-label*='First frame']").value) < 3"""
    page.wait_for_function(placed, arg=frames)
    page.get_by_role("radio", name="cut").check()
    page.click("#apply")
    visit.cards(1)
    edited = load_codes(visit.save("#strip a.vq-save", tmp_path))
    assert edited.codes.shape[1] == pytest.approx(0.75 * frames, abs=8)  # whole pitch codes
    visit.convert()
    assert "edited codes" in page.inner_text("#sounds")
    visit.picture("edited")


@pytest.mark.parametrize("visit", [1280], indirect=True)
def test_a_file_is_dropped_played_and_converted_by_the_teacher(visit: Visit) -> None:
    page = visit.page
    visit.drop("#recording", sample("“seven”"))
    visit.cards(1)
    visit.choose("#decoder", "fsdd, 8 kHz")
    visit.convert()
    assert "reconstruction as theo" in page.inner_text("#sounds")
    page.click(".vq-card:nth-child(2) .vq-lanes", position={"x": 20, "y": 20})
    page.wait_for_function("document.querySelectorAll('.vq-card audio')[1].currentTime > 0.1")


@pytest.mark.parametrize("visit", [1280], indirect=True)
def test_what_is_drawn_is_what_is_edited(visit: Visit, tmp_path: Path) -> None:
    """Also released outside the strip, again after an edit, and on that of a second recording."""
    page = visit.page
    visit.choose("#sample", "a sentence, a woman")
    visit.cards(1)
    codes = load_codes(visit.save("#strip a.vq-save", tmp_path)).codes
    frames = codes.shape[1]
    assert frames == 189  # the last pitch code is of one frame
    mark = page.locator("#strip .vq-mark")
    assert not mark.is_visible()  # nothing is to be edited yet
    visit.draw(0.7, 1.05)
    visit.chosen(132, frames)
    mark.wait_for()
    page.locator("#editor").get_by_role("radio", name="cut").wait_for()  # which drawing opens
    visit.draw(0.3, 0.6, below=150)
    visit.chosen(56, 116)
    visit.draw(0.4, -0.05, below=-150)
    visit.chosen(0, 76)
    visit.draw(0.5, 0.5)
    visit.chosen(92, 96)
    page.mouse.move(600, page.locator("#strip .vq-codes").bounding_box()["y"] + 20)
    page.mouse.down()
    page.dispatch_event("#strip .vq-codes", "pointercancel")  # as where a finger scrolls the page
    page.mouse.up()
    visit.chosen(92, 96)
    page.locator("#editor").get_by_role("radio", name="cut").check()
    for rest in (frames - 4, frames - 8):
        page.click("#apply")
        page.get_by_text(f"{rest} frames").wait_for()
        visit.chosen(92, 96)
    edited = load_codes(visit.save("#strip a.vq-save", tmp_path)).codes
    assert edited.tolist() == [codes[0, :92].tolist() + codes[0, 100:].tolist()]
    page.get_by_role("button", name="Undo").click()
    page.get_by_text(f"{frames - 4} frames").wait_for()
    visit.chosen(92, 96)
    first = page.get_by_role("spinbutton").and_(page.get_by_label("First frame"))
    first.fill("90")  # within a pitch code
    first.blur()
    visit.chosen(88, 96)
    page.get_by_role("radio", name="replace").check()
    visit.choose("#other-sample", "“three”")
    page.locator("#other-strip .vq-codes").wait_for()
    visit.draw(0.5, 1.5, "#other-strip")
    visit.chosen(12, 27, "#other-strip")


@pytest.mark.parametrize("visit", [390], indirect=True)
def test_a_list_that_is_left_without_a_choice_is_nothing(visit: Visit) -> None:
    page = visit.page
    page.click("#sample input")
    option = page.get_by_role("option").filter(has_text="a woman")
    option.wait_for()
    page.locator(".vq-title h1").click()
    option.wait_for(state="detached")
    visit.choose("#sample", "“three”")
    visit.cards(1)
    visit.seen(".vq-strip")
    assert "codes of “three”" in page.inner_text("#strip")
    page.get_by_role("button", name="Edit the codes").click()
    ends = """() => [...document.querySelectorAll("#editor .max_value")].filter((end) => {
      const [box, block] = [end, end.closest(".block")].map((each) => each.getBoundingClientRect());
      return box.width > 0 && box.right < block.right; }).map((end) => end.innerText)"""
    page.locator("#editor").get_by_role("radio", name="cut").wait_for()
    assert page.evaluate(ends) == ["27", "27"]  # of sliders, where a phone has little room


@pytest.mark.parametrize("visit", [390], indirect=True)
def test_a_word_is_generated_and_converted(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("button", name="Generate a word").click()
    page.click("#generate-fsdd-prior")
    visit.cards(1)
    visit.choose("#speaker", "george")
    visit.convert()
    visit.picture("generated")


@pytest.mark.parametrize("visit", [390], indirect=True)
def test_what_is_wrong_is_a_line_on_the_page(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.click("#convert")
    visit.complains("no recording yet")
    assert not page.locator("#sounds .error").first.is_visible()  # once is enough
    path = tmp_path / "notes.wav"
    path.write_text("no sound")
    visit.drop("#recording", path)
    visit.complains("notes.wav: not readable as sound")
    soundfile.write(tmp_path / "long.wav", [0.1, -0.1] * 4000 * (LONGEST + 10), 8000)
    page.reload()
    page.wait_for_selector("#convert")
    page.get_by_role("button", name="Upload file").first.click()
    page.set_input_files("#recording input[type=file]", tmp_path / "long.wav")
    visit.complains("long.wav: 70.0 s, expected at most 60 s")
    visit.picture("error")
    unplayable = "Waveform load error"  # gradio's line on the console for `notes.wav`
    visit.complaints = [each for each in visit.complaints if not each.startswith(unplayable)]
    assert str(tmp_path) not in page.content()


def test_visitors_queue(context: Any, address: str) -> None:  # noqa: ANN401
    """Three at once: each gets the voice that it asked for."""
    voices = ("george", "theo", "lucas")
    visits = [Visit(context.new_page(), address) for _ in voices]
    for visit, voice in zip(visits, voices, strict=True):
        visit.page.wait_for_selector("#convert")
        visit.choose("#sample", "“three”")
        visit.cards(1)
        visit.choose("#speaker", voice)
    for visit in visits:
        visit.page.click("#convert")
    for visit, voice in zip(visits, voices, strict=True):
        visit.cards(3)
        assert f"conversion to {voice}" in visit.page.inner_text("#sounds")
        visit.check()
        visit.page.close()
