"""The page in a real browser: Debian's chromium, a WAV as its microphone. Codes and waveforms are
those of Python.

Slow: 33 MB from npm, exports of two models, and a browser.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import browsers
import numpy as np
import pytest
import torch
from torch import Tensor

import vqwave
from vqwave.audio import resample
from vqwave.errors import UserInputError
from vqwave.export import DecoderGraph
from vqwave.export.web import export_site, runtime
from vqwave.inference.speech_model import SpeechModel

pytestmark = pytest.mark.slow  # a browser, and exports of the shipped models
SENTENCE = Path(__file__).parents[2] / "docs" / "figures" / "original.ogg"
MODELS = ("fsdd-student", "speech-student")
ENDED = "() => /^(Done|The|This)/.test(document.getElementById('status').textContent)"


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web, fetched once, and only for a browser."""
    browsers.program()
    if shutil.which("npm") is None:
        pytest.skip("onnxruntime-web is fetched by npm, which is not installed")
    folder = tmp_path_factory.mktemp("package")
    try:
        runtime.copy_runtime(folder)
    except UserInputError as error:
        pytest.skip(str(error))
    return folder


@dataclass
class Visit(browsers.Visit):
    """The page of an exported model; all that it printed and requested."""

    model: SpeechModel = field(kw_only=True)
    recording: Path = field(kw_only=True)
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("request", lambda each: self.requests.append(each.url))
        super().__post_init__()

    @property
    def status(self) -> str:
        return self.page.inner_text("#status")

    def take(self, path: Path) -> None:
        """A file, until its result is there, or what is wrong with it."""
        self.page.evaluate("document.getElementById('status').textContent = ''")
        self.page.set_input_files("#file", str(path))
        self.page.wait_for_function(ENDED, timeout=browsers.COMPUTING)

    def choose(self, **settings: str) -> None:
        """Settings by name, until the result is there."""
        for name, value in settings.items():
            self.page.evaluate("document.getElementById('status').textContent = ''")
            self.page.evaluate(
                "([name, value]) => { const input = document.getElementById(name);"
                " input.value = value; input.dispatchEvent(new Event('change', {bubbles: true})) }",
                [name, value],
            )
            self.page.wait_for_function(ENDED, timeout=browsers.COMPUTING)
            assert self.status.startswith("Done"), self.status

    def floats(self, name: str) -> Tensor:
        """A waveform of the page's state."""
        return torch.tensor(self.page.evaluate(f"Array.from(vqwave.state.{name})"))

    def codes(self, folder: Path) -> vqwave.CodeSequence:
        """The file that the page offers, as the package reads it."""
        return vqwave.load_codes(self.save("a[download='codes.vqw']", folder))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """`python -m http.server`, without a line for each request."""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module", params=MODELS)
def visit(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, package: Path
) -> Iterator[Visit]:
    folder = tmp_path_factory.mktemp("folder")
    model, recording = vqwave.load(request.param), folder / "recording.wav"
    wave, rate = vqwave.read(SENTENCE)
    vqwave.write(recording, resample(wave, rate, model.sample_rate), model.sample_rate)
    with browsers.browser(recording) as chromium, served(folder / "site") as address:
        export_site(request.param, folder / "site", package)
        page = chromium.new_page(viewport={"width": browsers.WIDTHS[0], "height": 900})
        visit = Visit(page, address, model=model, recording=recording)
        page.wait_for_selector("#record:enabled")
        yield visit


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_file_becomes_the_codes_and_the_waveform_of_python(
    visit: Visit, tmp_path: Path, clear_frames: Callable[..., Tensor]
) -> None:
    visit.take(visit.recording)
    assert visit.status.startswith("Done"), visit.status
    model, codec = visit.model, visit.model.kind.codec
    assert codec is not None
    wave = model.prepare(*vqwave.read(visit.recording))
    torch.testing.assert_close(visit.floats("wave"), wave, rtol=0, atol=1e-4)

    coded, expected = visit.codes(tmp_path), model.encode(*vqwave.read(visit.recording))
    assert coded.samples == expected.samples
    padded = torch.nn.functional.pad(wave, (0, -len(wave) % codec.hop))
    with torch.no_grad():
        clear = clear_frames(codec.quantizer, codec.encoder(padded[None]))[0]
    assert clear.float().mean() > 0.9
    assert torch.equal(coded.codes[:, clear], expected.codes[:, clear])
    if expected.pitch is not None:
        assert coded.pitch is not None
        assert (coded.pitch.codes == expected.pitch.codes).float().mean() > 0.95
        assert coded.pitch.mean == pytest.approx(expected.pitch.mean, abs=1e-3)

    second = visit.page.evaluate("document.getElementById('speaker').options[1].value")
    for settings in ({}, {"speaker": second, "seed": "7"}, {"shift": "4"}):
        if "shift" in settings and coded.pitch is None:
            continue
        visit.choose(**settings)
        given = visit.page.evaluate("vqwave.settings()")
        if coded.pitch is not None:
            assert visit.page.inner_text("#settings output") == str(given["shift"])
        speaker = model.speakers[given["labels"]["speaker"]]
        same = model.decode(
            coded, speaker, seed=given["seed"], shift_semitones=float(given["shift"])
        )
        torch.testing.assert_close(
            visit.floats("result"), same, rtol=0, atol=DecoderGraph.tolerance
        )


def test_the_microphone_becomes_codes(
    visit: Visit, tmp_path: Path, clear_frames: Callable[..., Tensor]
) -> None:
    visit.page.click("#record")
    long = "() => /Recording [2-9]/.test(document.getElementById('status').textContent)"
    visit.page.wait_for_function(long)
    visit.page.click("#record")
    visit.page.wait_for_function(ENDED, timeout=browsers.COMPUTING)
    assert visit.status.startswith("Done"), visit.status
    wave, rate = visit.floats("wave"), visit.model.sample_rate
    assert 1.5 * rate < len(wave) < 30 * rate  # the page counts seconds a little before the sound
    assert similarity(wave.numpy(), vqwave.read(visit.recording)[0]) > 0.8

    coded, codec = visit.codes(tmp_path), visit.model.kind.codec
    assert codec is not None
    padded = torch.nn.functional.pad(wave, (0, -len(wave) % codec.hop))
    with torch.no_grad():
        clear = clear_frames(codec.quantizer, codec.encoder(padded[None]))[0]
    expected = visit.model.codes_of(wave)
    assert torch.equal(coded.codes[:, clear], expected[:, clear])


def similarity(wave: np.ndarray, recording: np.ndarray) -> float:
    """The largest correlation of the first second of a recording with a stretch of another, which
    is played again and again.
    """
    piece = wave[len(wave) // 2 :][: len(recording) // 2].astype(np.float64)
    size = 1 << (2 * len(recording) + len(piece)).bit_length()
    twice = np.concatenate([recording, recording]).astype(np.float64)
    products = np.fft.irfft(np.fft.rfft(twice, size) * np.fft.rfft(piece, size).conj(), size)
    squares = np.cumsum(np.pad(np.square(twice), (1, 0)))
    places = np.arange(len(twice) - len(piece))
    norms = np.sqrt((squares[places + len(piece)] - squares[places]) * np.square(piece).sum())
    return float((products[places] / np.maximum(norms, 1e-9)).max())


def test_what_is_no_recording_is_a_line_on_the_page(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no sound")
    visit.take(tmp_path / "text.wav")
    assert visit.status == "This file cannot be read as sound."
    rate = visit.model.sample_rate
    vqwave.write(tmp_path / "silent.wav", np.zeros(rate, np.float32), rate)
    visit.take(tmp_path / "silent.wav")
    assert visit.status == "The recording is silent."
    vqwave.write(tmp_path / "long.wav", np.zeros(31 * rate, np.float32), rate)
    visit.take(tmp_path / "long.wav")
    assert visit.status == "The recording has 31.0 s, expected at most 30 s."
    assert "wrong" in visit.page.get_attribute("#status", "class")


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_the_page_fits_its_width(visit: Visit, width: int) -> None:
    visit.page.set_viewport_size({"width": width, "height": 844})
    visit.take(visit.recording)
    visit.picture(f"web-{visit.model.sample_rate}")
    visit.check()
    small = visit.page.evaluate(
        "[...document.querySelectorAll('button, .button, select')]"
        ".map((each) => each.getBoundingClientRect().height).filter((height) => height < 44)"
    )
    assert small == []  # a finger's width


def test_the_page_says_its_size(visit: Visit) -> None:
    total = visit.page.evaluate("Object.values(vqwave.model.sizes).reduce((a, b) => a + b)")
    assert visit.page.inner_text("#sizes").startswith(f"{total / 1e6:.1f} MB in all")


def test_nothing_was_printed_and_no_request_left_the_folder(visit: Visit) -> None:
    """The last of the tests: of all that was done."""
    assert visit.console == []
    visit.check()
    assert any(each.endswith("decoder.onnx") for each in visit.requests)
