"""Pictures of the page: line charts as SVG that takes its colours from the page, spectrograms and
strips as images.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from markupsafe import Markup, escape
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import UserInputError

Values = NDArray[np.float64]
Place = TypeVar("Place", float, Values)

RANGE_DB = 65.0
RUN = re.compile(r"run-\d")  # of the classes of a line
WIDTH, HEIGHT = 360, 214  # of a chart, in its own units; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36  # margins, without the names of lines
CHARACTER, LINE = 5.9, 12  # of the text: width at most, and distance of lines
LONGEST_NAME = 20  # characters of a line's name
POINTS = 240  # a line with more is averaged over stretches


@dataclass(frozen=True)
class Line:
    """A line of a chart: its classes in page.css (`run-0` and so on give the colour), and the words
    at its end.
    """

    x: Values
    y: Values
    style: str
    name: str = ""


def require_matplotlib() -> None:
    """Raises `UserInputError` that names the extra to install."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserInputError(
            "matplotlib is not installed, expected for reports: pip install 'vqwave[report]'"
        ) from None


def number(value: float) -> str:
    """A number for a table or an axis: three significant digits, thousands apart, a true minus.

    >>> [number(x) for x in (12345, 9.0412, -0.00123, 1e-5, 0, float("nan"))]
    ['12,345', '9.04', '−0.00123', '1e−05', '0', 'n/a']
    """
    if not np.isfinite(value):
        return "n/a"
    if abs(value) >= 1000 or value == int(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.3g}"
    return text.replace("-", "−")


@dataclass(frozen=True)
class Frame:
    """The plane of a chart: the limits of its values, and where they lie in it; `margin` is what
    the names of lines need on its right.
    """

    left: float
    right: float
    bottom: float
    top: float
    margin: float = RIGHT

    @classmethod
    def around(cls, lines: Sequence[Line], below: float) -> Frame:
        """From the least value to the quantile `below`, or to the last value of a line where that
        is higher.
        """
        values = np.concatenate([line.y for line in lines])
        bottom = float(values.min())
        top = max(float(np.quantile(values, below)), *(float(line.y[-1]) for line in lines))
        margin = 0.06 * (top - bottom) or 0.5 * abs(top) or 1.0
        left, right = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
        longest = max(len(_shortened(line.name)) for line in lines)
        return cls(
            left,
            max(right, left + 1),
            0.0 if bottom == 0 else bottom - margin,
            top + margin,
            RIGHT + (CHARACTER * longest if longest else 0),
        )

    @property
    def edge(self) -> float:
        """Where the plane ends on the right."""
        return WIDTH - self.margin

    def across(self, x: Place) -> Place:
        """Where values lie from left to right."""
        return LEFT + (x - self.left) / (self.right - self.left) * (self.edge - LEFT)

    def down(self, y: Place) -> Place:
        """Where values lie from top to bottom."""
        return TOP + (self.top - y) / (self.top - self.bottom) * (HEIGHT - TOP - BOTTOM)


def chart(title: str, lines: Sequence[Line], x_label: str, unit: str, below: float = 1.0) -> Markup:
    """An SVG line chart.

    What lies above the quantile `below` of all values may be cut off: steep first steps would
    flatten all that follows.
    """
    lines = [_thinned(line) for line in lines]
    frame = Frame.around(lines, below)
    width, height = frame.edge - LEFT, HEIGHT - TOP - BOTTOM
    label = escape(f"{title}, {unit}, over {x_label}" if unit else f"{title} over {x_label}")
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">',
        *_axes(frame),
    ]
    parts.append(
        f'<text class="middle" x="{LEFT + width / 2:.1f}" y="{HEIGHT - 3}">{escape(x_label)}</text>'
    )
    plane = (
        f'x="{LEFT}" y="{TOP}" width="{width:.1f}" height="{height}" viewBox="{LEFT} {TOP}'
        f' {width:.1f} {height}"'
    )
    parts.append(f"<svg {plane}>")  # an inner picture cuts off what is outside
    for line in lines:
        places = zip(frame.across(line.x), frame.down(line.y), strict=True)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="{line.style}" points="{points}"/>')
    parts.append("</svg>")
    return Markup("".join([*parts, *_names(frame, lines), "</svg>"]))


def _names(frame: Frame, lines: Sequence[Line]) -> list[str]:
    """The names of the lines on the right of their ends, moved apart where they would overlap."""
    named = sorted(
        (float(frame.down(line.y[-1])), line.name, next(iter(RUN.findall(line.style)), ""))
        for line in lines
        if line.name
    )
    lowest, places = float(TOP), []
    for y, _, _ in named:
        places.append(max(y + 4, lowest))
        lowest = places[-1] + LINE
    highest = float(HEIGHT - BOTTOM)
    for place in reversed(range(len(places))):  # back up, from the end of the plane
        places[place] = min(places[place], highest)
        highest = places[place] - LINE
    x = f"{frame.edge + 6:.1f}"
    return [
        f'<text class="start {run}" x="{x}" y="{y:.1f}">{escape(_shortened(name))}</text>'
        for y, (_, name, run) in zip(places, named, strict=True)
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _axes(frame: Frame) -> list[str]:
    """Horizontal grid lines with their values, and values along the bottom, those left out that
    would overlap.
    """
    from matplotlib.ticker import MaxNLocator

    parts = []
    for tick in MaxNLocator(5).tick_values(frame.bottom, frame.top):
        if frame.bottom <= tick <= frame.top:
            y = frame.down(tick)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{frame.edge:.1f}"/>')
            parts.append(f'<text class="end" x="{LEFT - 7}" y="{y + 3.5:.1f}">{_tick(tick)}</text>')
    taken = float("-inf")
    for tick in MaxNLocator(4, integer=True).tick_values(frame.left, frame.right):
        text = _tick(tick)
        half = CHARACTER * len(text) / 2
        x = min(frame.across(tick), WIDTH - half)
        if frame.left <= tick <= frame.right and x - half > taken:
            taken = x + half + CHARACTER
            parts.append(
                f'<text class="middle" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}">{text}</text>'
            )
    return parts


def _tick(value: float) -> str:
    """A value next to a chart, in few characters.

    >>> [_tick(value) for value in (0, 0.25, -12000, 2.5e6, 1e-5)]
    ['0', '0.25', '−12,000', '2.5 M', '1e−5']
    """
    for power, letter in ((12, "T"), (9, "G"), (6, "M")):
        if abs(value) >= 10**power:
            return f"{value / 10**power:.4g} {letter}".replace("-", "−")
    text = f"{value:,.6g}"
    if 0 < abs(value) < 1e-3:
        text = np.format_float_scientific(value, precision=3, trim="-", exp_digits=1)
    return text.replace("-", "−")


def _thinned(line: Line) -> Line:
    """At most `POINTS` points, each the mean of a stretch; the ends stay."""
    if len(line.x) <= POINTS:
        return line
    pieces = np.array_split(np.arange(len(line.x)), POINTS)
    x, y = (np.array([values[piece].mean() for piece in pieces]) for values in (line.x, line.y))
    x[0], x[-1] = line.x[0], line.x[-1]
    return Line(x, y, line.style, line.name)


def spectrum_db(wave: Wave, sample_rate: int) -> NDArray[np.float64]:
    """Power in dB (bins, F) from 0 Hz to half the rate, 32 ms windows, at most about 480 frames at
    least 2 ms apart.
    """
    window = round(0.032 * sample_rate)
    hop = max(round(0.002 * sample_rate), -(-len(wave) // 480))
    fft = 1 << (window - 1).bit_length()
    hann = torch.hann_window(window, dtype=torch.float64)
    samples = torch.from_numpy(np.asarray(wave, np.float64))
    spectrum = torch.stft(samples, fft, hop, window, hann, pad_mode="constant", return_complex=True)
    return 10 * np.log10(spectrum.abs().square().numpy() + 1e-10)


def spectrogram(power_db: NDArray[np.float64], loudest_db: float) -> bytes:
    """A JPEG of a spectrum (bins, F), low frequencies below, over the 65 dB under `loudest_db`."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(
        file,
        power_db,
        vmin=loudest_db - RANGE_DB,
        vmax=loudest_db,
        cmap="magma",
        origin="lower",
        format="jpg",
        pil_kwargs={"quality": 80},
    )
    return file.getvalue()


def strip(shares: NDArray[np.float64], most: float | None = None) -> bytes:
    """A PNG, one pixel high, the more opaque the larger the share, so that it shows on light and on
    dark pages.

    `most` is the share that is fully opaque; by default the largest.
    """
    from matplotlib.image import imsave

    opacity = np.sqrt(shares / max(float(shares.max()) if most is None else most, 1e-12)).clip(0, 1)
    pixels = np.empty((1, len(shares), 4))
    pixels[..., :3] = np.array([0x12, 0x8C, 0x8C]) / 255
    pixels[0, :, 3] = opacity
    file = io.BytesIO()
    imsave(file, pixels, format="png")
    return file.getvalue()


def data_uri(content: bytes, media_type: str) -> str:
    """The content as an address that needs no other file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
