"""A sound as HTML: waveform, spectrogram and F0 above a player; codes as a strip of colours.

Everything is part of the text: pictures and sound are data URIs, so that no other file is
requested.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile
from markupsafe import Markup
from numpy.typing import NDArray

from vqwave.app.editing import Span
from vqwave.app.session import Sound, Take
from vqwave.audio import Wave, level_db, to_int16
from vqwave.codes import to_bytes
from vqwave.names import file_name
from vqwave.pitch_tracking import ten_milliseconds, track
from vqwave.report.figures import data_uri, spectrogram, spectrum_db

COLUMNS = 400  # of a waveform
LOWEST_F0, HIGHEST_F0 = 60.0, 450.0  # Hz, of the picture
GRID_F0 = (75, 150, 300)  # Hz
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between marks of time
MOST_TIMES = 5
WAVE_REM, SPECTRUM_REM, F0_REM = 2.5, 6.0, 3.0  # heights of the pictures, as in `page.css`
GOLDEN = 137.508  # degrees: neighbouring codes differ in hue


def cards(sounds: Sequence[Sound], name: str) -> Markup:
    """Players with their pictures, next to each other; one scale of time and of power.

    name: of the recording; the files that are saved begin with it.
    """
    if not sounds:
        return Markup("")
    spectra = [spectrum_db(sound.wave, sound.rate) for sound in sounds]
    loudest = max(float(power.max()) for power in spectra)
    longest = max(sound.seconds for sound in sounds)
    inner = Markup("").join(
        _card(sound, name, power, loudest, longest)
        for sound, power in zip(sounds, spectra, strict=True)
    )
    return Markup('<div class="vq-cards">{}</div>').format(inner)


def _card(
    sound: Sound, name: str, power: NDArray[np.float64], loudest: float, longest: float
) -> Markup:
    level = f"{level_db(sound.wave):.0f} dBFS".replace("-", "−")
    picture = data_uri(spectrogram(power, loudest), "image/jpeg")
    parts = Markup(
        '<figure class="vq-card"><figcaption><b>{title}</b>'
        "<span>{seconds:.2f} s, {level}</span></figcaption>"
        '<div class="vq-plot"><div class="vq-axis" aria-hidden="true">{axis}</div>'
        '<div class="vq-lanes" style="width:{width:.1f}%">{waveform}'
        '<img class="vq-spectrum" src="{picture}" alt="spectrogram, 0 to {top:g} kHz">{f0}'
        '<i class="vq-head"></i></div>'
        '<div class="vq-time" aria-hidden="true" style="width:{width:.1f}%">{time}</div></div>'
        '<audio controls controlslist="nodownload noplaybackrate" preload="metadata"'
        ' aria-label="{title}" src="{audio}"></audio>'
        '<a class="vq-save" download="{file}" href="{audio}">save .wav</a></figure>'
    )
    return parts.format(
        title=sound.title,
        seconds=sound.seconds,
        level=level,
        axis=_frequencies(sound.rate),
        time=_times(sound.seconds, longest),
        width=100 * sound.seconds / longest,
        waveform=_waveform(sound.wave),
        picture=picture,
        top=sound.rate / 2000,
        f0=_pitch(sound.wave, sound.rate),
        audio=data_uri(wav(sound), "audio/wav"),
        file=file_name((name, sound.title), ".wav"),
    )


def wav(sound: Sound) -> bytes:
    """The bytes of a WAV of 16 bits."""
    file = io.BytesIO()
    soundfile.write(file, to_int16(sound.wave), sound.rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _waveform(wave: Wave) -> Markup:
    """Lowest and highest sample of each column."""
    pieces = np.array_split(wave, min(COLUMNS, max(1, len(wave))))
    peak = max(float(np.abs(wave).max(initial=0.0)), 1e-9)
    strokes = (
        f"M{x + 0.5:g} {20 - 19 * piece.max() / peak:.1f}V{20.4 - 19 * piece.min() / peak:.1f}"
        for x, piece in enumerate(pieces)
    )
    return Markup(
        '<svg class="vq-wave" viewBox="0 0 {} 40" preserveAspectRatio="none" role="img"'
        ' aria-label="waveform"><path d="{}"/></svg>'
    ).format(len(pieces), Markup("".join(strokes)))


def _pitch(wave: Wave, rate: int) -> Markup:
    """F0 over a logarithmic scale, a line for each voiced stretch."""
    hop = ten_milliseconds(rate)
    f0 = track(wave, rate, hop)
    places = _height(np.where(f0 > 0, f0, LOWEST_F0))
    voiced = np.flatnonzero(f0 > 0)
    runs = np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1) if len(voiced) else []
    lines = "".join(
        "M" + "L".join(f"{frame} {places[frame]:.1f}" for frame in run) + "h0.9" for run in runs
    )
    grid = "".join(f"M0 {_height(np.array(hz)):.1f}H{max(1, len(f0))}" for hz in GRID_F0)
    return Markup(
        '<div class="vq-f0"><svg viewBox="0 0 {} 40" preserveAspectRatio="none" role="img"'
        ' aria-label="F0, {:g} to {:g} Hz"><path class="vq-grid" d="{}"/><path d="{}"/></svg>'
        "</div>"
    ).format(max(1, len(f0)), LOWEST_F0, HIGHEST_F0, Markup(grid), Markup(lines))


def _frequencies(rate: int) -> Markup:
    """What the heights of spectrogram and F0 stand for, to their left."""
    top = rate / 2000
    marks = [(WAVE_REM + SPECTRUM_REM * (1 - share), f"{top * share:g}") for share in (1, 0.5, 0)]
    marks[0] = (marks[0][0], f"{marks[0][1]} kHz")
    below = WAVE_REM + SPECTRUM_REM
    marks += [(below + F0_REM * float(_height(np.array(hz))) / 40, f"{hz}") for hz in GRID_F0]
    marks[-1] = (marks[-1][0], f"{marks[-1][1]} Hz")
    return Markup("").join(
        Markup('<span style="top:{:.2f}rem">{}</span>').format(*mark) for mark in marks
    )


def _times(seconds: float, longest: float) -> Markup:
    """Marks of time below a picture, at most `MOST_TIMES` of the longest one's."""
    step = next((step for step in STEPS if longest <= step * MOST_TIMES), STEPS[-1])
    count = int(seconds / step + 1e-6)
    return Markup("").join(
        Markup('<span style="left:{:.2f}%">{:g}{}</span>').format(
            100 * place * step / seconds, place * step, " s" if place == count else ""
        )
        for place in range(count + 1)
    )


def _height(hz: NDArray[np.floating]) -> NDArray[np.floating]:
    """Where a frequency lies in a picture 40 units high."""
    share = np.log(hz / LOWEST_F0) / np.log(HIGHEST_F0 / LOWEST_F0)
    return 38 - 36 * np.clip(share, 0, 1)


def strip(take: Take, span: Span | None = None) -> Markup:
    """The codes of a recording, a row a book and one of pitch codes, frame after frame; the frames
    of `span` are marked.
    """
    coded = take.coded
    frames = coded.codes.shape[1]
    rows = [(f"code of book {book}", row, 1) for book, row in enumerate(coded.codes.tolist())]
    if coded.pitch is not None:
        pitch = enumerate(coded.pitch.codes.tolist())
        rows += [(f"pitch code of book {book}", row, coded.ratio) for book, row in pitch]
    cells = [
        f'<rect x="{frame * width}" y="{y}" width="{width}" height="1" fill="{_colour(code)}">'
        f"<title>frame {frame * width}: {kind} {code}</title></rect>"
        for y, (kind, row, width) in enumerate(rows)
        for frame, code in enumerate(row)
    ]
    mark = Markup("")
    if span is not None:
        left, width = 100 * span[0] / frames, 100 * (span[1] - span[0]) / frames
        mark = Markup(f'<i class="vq-mark" style="left:{left:.3f}%;width:{width:.3f}%"></i>')
    facts = (
        f"{frames} frames, {len({tuple(column) for column in coded.codes.T.tolist()})} different"
        f" codes, {coded.seconds:.2f} s at {coded.bit_rate:.0f} bit/s"
    )
    return Markup(
        '<figure class="vq-strip" data-frames="{}" data-ratio="{}"><figcaption>'
        "<b>codes of “{}”{}</b><span>{}</span>"
        '<a class="vq-save" download="{}" href="{}">save .vqw</a></figcaption>'
        '<div class="vq-codes" style="--rows:{}">'
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" shape-rendering="crispEdges"'
        ' role="img" aria-label="{}">{}</svg>{}</div></figure>'
    ).format(
        frames,
        coded.ratio,
        take.name,
        ", edited" if take.edits else "",
        facts,
        file_name(take.name, ".vqw"),
        data_uri(to_bytes(coded), "application/octet-stream"),
        len(rows),
        frames,
        len(rows),
        f"codes of {take.name}",
        Markup("".join(cells)),
        mark,
    )


def _colour(code: int) -> str:
    """A hue and lightness that are a code's own."""
    return f"hsl({code * GOLDEN % 360:.0f} 62% {38 + 8 * (code % 4)}%)"
