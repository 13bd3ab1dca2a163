"""A real browser for the tests of pages: Debian's chromium, driven by playwright, with a WAV as its
microphone.

VQWAVE_BROWSER names the browser's program where it is not called chromium; VQWAVE_SCREENSHOTS names
a folder for pictures of the pages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# ms, of two cores that ten processes share: what a page may take to react, and to compute something
# whose kernels may have to be compiled first
PATIENCE, COMPUTING = 120_000, 600_000
WIDTHS = (1280, 390)  # pixels: a desk and a phone
NAMES = ("chromium", "chromium-browser", "google-chrome")


def program() -> str:
    """The browser; skips where there is none."""
    named = os.environ.get("VQWAVE_BROWSER")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)}, and no VQWAVE_BROWSER")
    return found


@contextmanager
def browser(microphone: Path | None = None) -> Iterator[Any]:
    """A browser that takes a WAV for what its microphone records; skips where there is none."""
    sync_api = pytest.importorskip(
        "playwright.sync_api",
        reason="playwright is not installed, expected to drive a browser: extra browser",
    )
    flags = [
        "--no-sandbox",  # of a container
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
    ]
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}")
    path = program()
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=flags, timeout=PATIENCE)
        yield opened
        opened.close()


@dataclass
class Visit:
    """A page of playwright's at an address, and what it should not have done: errors on its
    console, requests of other addresses.
    """

    page: Any
    address: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        page = self.page
        page.set_default_timeout(PATIENCE)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._request)
        page.goto(self.address)

    def _console(self, line: Any) -> None:  # noqa: ANN401 - playwright may be missing
        if line.type == "error":
            self.complaints.append(line.text)

    def _request(self, request: Any) -> None:  # noqa: ANN401
        if not request.url.startswith((self.address, f"blob:{self.address}", "data:", "blob:null")):
            self.complaints.append(f"a request of {request.url}")

    def save(self, place: str, folder: Path) -> Path:
        """What a link saves, as a file of `folder`."""
        with self.page.expect_download() as download:
            self.page.click(place)
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def picture(self, name: str) -> None:
        """`NAME-WIDTH.png`, where a folder for it is named."""
        if folder := os.environ.get("VQWAVE_SCREENSHOTS"):
            width = self.page.viewport_size["width"]
            self.page.screenshot(path=Path(folder) / f"{name}-{width}.png", full_page=True)

    def check(self) -> None:
        """That nothing is to be complained of, and nothing sticks out of the page."""
        assert not self.complaints, self.complaints
        wide = self.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= self.page.viewport_size["width"], f"{wide} pixels wide"
