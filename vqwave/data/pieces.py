"""Long recordings as pieces of a few seconds, cut where they are quietest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vqwave import audio
from vqwave.data.manifest import Recording
from vqwave.errors import UserInputError

SHORTEST, LONGEST = 4.0, 12.0  # seconds of a piece
WINDOW = 0.1  # seconds of which the energy is looked at


def pieces(recording: Recording) -> Iterator[Recording]:
    """A recording of at most `LONGEST` seconds, or one that cannot be read, as it is; else its
    pieces, in order, without its text, which is that of the complete recording.
    """
    try:
        wave, rate = audio.read(recording.path)
    except UserInputError:  # reported where it is prepared
        yield recording
        return
    if len(wave) <= LONGEST * rate:
        yield recording
        return
    first = 0
    for number, last in enumerate(cuts(wave, rate), start=1):
        yield replace(
            recording,
            id=f"{recording.id}#{number:03d}",
            text="",
            start=first,
            frames=last - first,
        )
        first = last


def cuts(wave: audio.Wave, rate: int) -> list[int]:
    """Where the pieces of a recording (T,) end, the last at T: each has between `SHORTEST` and
    `LONGEST` seconds, the last one up to their sum.

    A cut is at the middle of the window of least energy.
    """
    size = max(1, round(WINDOW * rate))
    energy = np.add.reduceat(np.square(wave, dtype=np.float64), np.arange(0, len(wave), size))
    ends, first = [], 0
    while len(wave) - first > LONGEST * rate:
        low = first + round(SHORTEST * rate)
        high = min(first + round(LONGEST * rate), len(wave) - round(SHORTEST * rate))
        places = np.arange(-(-low // size), max(high // size, -(-low // size) + 1))
        first = int(places[energy[places].argmin()]) * size + size // 2
        ends.append(first)
    return [*ends, len(wave)]
