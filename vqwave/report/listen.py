"""The part to listen to: for each utterance a player with its spectrogram, from all runs side by
side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave, level_db, read
from vqwave.report.figures import RANGE_DB, data_uri, spectrogram, spectrum_db
from vqwave.report.run import Clip, Run

# characters of sound and pictures; the utterances beyond it are left out, and counted
BUDGET = 12_000_000
KINDS = {
    "original": "Original",
    "reconstruction": "Reconstruction",
    "student": "Student",
    "conversion": "Converted",
}
LEVEL_DB, PEAK_DB = -23.0, -0.5  # dBFS: RMS level at which sounds are compared; highest peak
QUIETEST_DB = -60.0  # a sound below is played as it is
MADE_UP = "Generated"  # the title under which all speech stands that no recording lies behind
COPIES = ("reconstruction", "student", "conversion")
MEDIA_TYPES = {
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".mp3": "audio/mpeg",
}


@dataclass(frozen=True)
class Tile:
    """One player: `picture` and `sound` are data URIs, `width` the percentage of the longest in its
    group, `gain` the factor that brings it to the level of its group, `place` its number on the
    page.
    """

    place: int
    gain: str
    label: str
    owner: str
    recorded: bool
    colour: int
    picture: str
    sound: str
    width: str
    seconds: str
    level: str
    top: str


@dataclass(frozen=True)
class Group:
    """An utterance and what the runs made of it; `width` is that of a tile in pixels, and
    `matched_level` that at which all are played.
    """

    matched_level: str
    identity: str
    title: str
    speaker: str | None
    width: int
    tiles: list[Tile]


@dataclass(frozen=True)
class Listening:
    """The utterances shown, of `total`; `top` is the highest frequency in the pictures; `copies`:
    the places of players by run, source and target speaker.
    """

    utterances: list[Group]
    total: int
    top: str
    copies: dict[tuple[int, str, str], list[int]]
    range_db: int = round(RANGE_DB)


@dataclass(frozen=True)
class Sound:
    """A clip that has been read."""

    clip: Clip
    run: int
    path: Path
    wave: Wave
    rate: int
    power_db: NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """Its duration."""
        return len(self.wave) / self.rate

    @property
    def level_db(self) -> float:
        """Its RMS level in dBFS."""
        return level_db(self.wave)

    @property
    def crest_db(self) -> float:
        """How far its peak lies above that level, in dB; 0 for silence."""
        peak = float(np.abs(self.wave).max(initial=0.0))
        return 20 * math.log10(peak) - self.level_db if peak > 0 else 0.0

    @property
    def voices(self) -> tuple[int, str, str] | None:
        """Run, source and target speaker of a copy; None for other sounds. The utterance stands for
        a source that is not known.
        """
        source = self.clip.speaker or self.clip.utterance
        target = self.clip.target or source
        return (self.run, source, target) if self.clip.kind in COPIES else None

    @property
    def label(self) -> str:
        """What it is, in a few words."""
        if self.clip.kind == "generation":
            return self.clip.utterance
        kind = KINDS.get(self.clip.kind, self.clip.kind.capitalize())
        return (
            f"{kind} {'to' if self.clip.kind == 'conversion' else 'as'} {self.clip.target}"
            if self.clip.target
            else kind
        )


def listening(runs: Sequence[Run]) -> Listening | None:
    """None where no run has samples. Raises `UserInputError` for a sound that cannot be read."""
    clips = _by_utterance(runs)
    shown: list[Group] = []
    copies: dict[tuple[int, str, str], list[int]] = {}
    size = rate = place = 0
    for clips_of_one in clips:
        sounds = _sounds(runs, clips_of_one)
        group = _group(runs, sounds, place)
        size += sum(len(tile.picture) + len(tile.sound) for tile in group.tiles)
        if shown and size > BUDGET:
            break
        shown.append(group)
        for number, sound in enumerate(sounds, place):
            if (voices := sound.voices) is not None:
                copies.setdefault(voices, []).append(number)
        place += len(sounds)
        rate = max(rate, *(sound.rate for sound in sounds))
    return Listening(shown, len(clips), _top(rate), copies) if shown else None


def matched_level(sounds: Sequence[Sound]) -> float:
    """The RMS level in dBFS to which all sounds can be brought without clipping, at most
    `LEVEL_DB`.
    """
    audible = [sound for sound in sounds if sound.level_db >= QUIETEST_DB]
    return min([LEVEL_DB, *(PEAK_DB - sound.crest_db for sound in audible)])


def _by_utterance(runs: Sequence[Run]) -> list[list[tuple[int, Clip]]]:
    """The clips of each utterance as (run, clip) in order of kind; what was generated comes last,
    together.
    """
    groups: dict[str, list[tuple[int, Clip]]] = {}
    made_up: list[tuple[int, Clip]] = []
    for index, run in enumerate(runs):
        for clip in run.clips:
            group = made_up if clip.kind == "generation" else groups.setdefault(clip.utterance, [])
            group.append((index, clip))
    order = list(KINDS)

    def rank(pair: tuple[int, Clip]) -> tuple[int, str]:
        """What is to be compared stands side by side: runs that converted to one voice."""
        clip = pair[1]
        place = order.index(clip.kind) if clip.kind in order else len(order)
        return place, clip.target or ""

    for clips in groups.values():
        clips.sort(key=rank)
    return [*groups.values(), made_up] if made_up else list(groups.values())


def _sounds(runs: Sequence[Run], clips: Sequence[tuple[int, Clip]]) -> list[Sound]:
    """Read the clips of one utterance; an original that several runs hold appears once."""
    sounds: list[Sound] = []
    originals: list[Wave] = []
    for run, clip in clips:
        path = runs[run].clip_path(clip)
        wave, rate = read(path)
        if clip.kind == "original":
            if any(np.array_equal(wave, other) for other in originals):
                continue
            originals.append(wave)
        sounds.append(Sound(clip, run, path, wave, rate, spectrum_db(wave, rate)))
    return sounds


def _group(runs: Sequence[Run], sounds: Sequence[Sound], first: int) -> Group:
    """`first`: the place of its first player."""
    made_up = sounds[0].clip.kind == "generation"
    identity = MADE_UP if made_up else sounds[0].clip.utterance
    text = next((sound.clip.text for sound in sounds if sound.clip.text and not made_up), None)
    longest = max(sound.seconds for sound in sounds)
    loudest = max(float(sound.power_db.max()) for sound in sounds)
    level = matched_level(sounds)
    return Group(
        matched_level=_db(level),
        identity=identity,
        title=f"“{text}”" if text else identity,
        speaker=next(
            (sound.clip.speaker for sound in sounds if sound.clip.speaker and not made_up), None
        ),
        # words share a line, sentences take one each
        width=round(min(max(110 + 110 * longest, 164), 1000)),
        tiles=[
            _tile(runs, sound, place, level=level, longest=longest, loudest=loudest)
            for place, sound in enumerate(sounds, first)
        ],
    )


def _tile(
    runs: Sequence[Run], sound: Sound, place: int, *, level: float, longest: float, loudest: float
) -> Tile:
    audible = sound.level_db >= QUIETEST_DB
    return Tile(
        place=place,
        gain=f"{10 ** ((level - sound.level_db) / 20):.4f}" if audible else "1",
        label=sound.label,
        owner=runs[sound.run].name,
        recorded=sound.clip.kind == "original",
        colour=sound.run % 4,
        picture=data_uri(spectrogram(sound.power_db, loudest), "image/jpeg"),
        sound=data_uri(
            sound.path.read_bytes(), MEDIA_TYPES.get(sound.path.suffix.lower(), "audio/wav")
        ),
        width=f"{100 * sound.seconds / longest:.1f}",
        seconds=f"{sound.seconds:.2f}",
        level=_db(sound.level_db) if np.any(sound.wave) else "silent",
        top=_top(sound.rate),
    )


def _db(level: float) -> str:
    return f"{level:.1f} dBFS".replace("-", "−")


def _top(sample_rate: int) -> str:
    return f"{sample_rate / 2000:g} kHz"
