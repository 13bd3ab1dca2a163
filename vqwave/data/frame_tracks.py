"""Frame features that are given with the waveform: files of frames, aligned phones, the corpus'
F0.

A track has a `name`, a `hop` in samples, and yields (C, F) float32 for any segment that starts on a
frame. Frame f of a segment is centred on its sample f hop + hop // 2, as in `vqwave.features`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vqwave import inputs
from vqwave.data.arrays import read_array
from vqwave.data.corpus import Corpus
from vqwave.data.manifest import Phones
from vqwave.errors import UserInputError, nearest
from vqwave.pitch_tracking import contour

Frames = NDArray[np.float32]
# frames that a file may have less or more than its recording: front ends differ in how they treat
# the end
SLACK = 4
PHONES = "phones"
PITCH = "pitch"


@dataclass(frozen=True)
class FrameFile:
    """CORPUS/frames/NAME/UTTERANCE.npy, (channels, F): any frame features, such as a Tacotron's
    predicted mels.
    """

    name: str
    hop: int
    channels: int
    in_index: ClassVar[bool] = False
    """Whether the corpus' index has the frames, not files of their own."""

    def path(self, corpus: Corpus, row: int) -> Path:
        """The file of an utterance."""
        return corpus.folder / "frames" / self.name / f"{corpus.utterances[row].id}.npy"

    def stored(self, corpus: Corpus, row: int) -> Frames:
        """The frames of the entire utterance.

        Raises `UserInputError` that names the file where their number or kind is another, or they
        are not finite.
        """
        path = self.path(corpus, row)
        try:
            return self.fitted(read_array(path), -(-corpus.utterances[row].frames // self.hop))
        except UserInputError as error:
            raise UserInputError(
                f"{path}: {error}" if str(path) not in str(error) else str(error)
            ) from None

    def fitted(self, frames: Frames, count: int) -> Frames:
        """Exactly `count` frames: at most `SLACK` are cut off, or the last one is held for as many.

        Raises `UserInputError`.
        """
        if frames.ndim != 2 or len(frames) != self.channels:
            raise UserInputError(
                f"frames {self.name!r} of shape {frames.shape}, expected ({self.channels}, F)"
            )
        if not np.isfinite(frames).all():
            raise UserInputError(f"frames {self.name!r}: not all of their numbers are finite")
        short = count - frames.shape[1]
        if abs(short) > SLACK:
            raise UserInputError(
                f"{frames.shape[1]} frames {self.name!r}, expected {count}: one each {self.hop}"
                " samples"
            )
        return np.pad(frames, ((0, 0), (0, max(0, short))), mode="edge")[:, :count].astype(
            np.float32
        )

    def fits(self, _: Corpus) -> bool:
        """Whether the frames are read from a corpus; else the front end computes them."""
        return True

    def read(self, corpus: Corpus, row: int, start: int, count: int) -> Frames:
        """`count` frames from sample `start` on, a multiple of the hop; zero after the utterance's
        end.
        """
        first = start // self.hop
        part = self.stored(corpus, row)[:, first : first + count]
        return np.pad(part, ((0, 0), (0, count - part.shape[1])))

    def samples_of(self, value: Frames | None) -> int | None:
        """How many samples the user's own frames stand for; None without any."""
        return None if value is None else np.shape(value)[-1] * self.hop

    def given(
        self, value: Frames, samples: int, _rate: int, _vocabulary: Mapping[str, Sequence[str]]
    ) -> Frames:
        """(channels, F) of the user's own, for `samples` samples -> as `read` yields.

        Raises `UserInputError`.
        """
        frames = inputs.floats(value, f"frames {self.name!r}")
        return self.fitted(frames, -(-samples // self.hop))


@dataclass(frozen=True)
class PhoneTrack:
    """The phones of an utterance at frame rate: rows are ids of the phone and its `neighbours`,
    place in it, ln seconds.
    """

    hop: int
    neighbours: int
    name: str = PHONES
    in_index: ClassVar[bool] = True

    def stored(self, corpus: Corpus, row: int) -> Phones:
        """((first sample, label), ...) of an utterance.

        Raises `UserInputError` where it has none.
        """
        utterance = corpus.utterances[row]
        if not utterance.phones:
            raise UserInputError(
                f"{corpus.folder}: utterance {utterance.id!r} has no phones, expected [[first"
                " sample, label], ...]"
            )
        return utterance.phones

    def fits(self, _: Corpus) -> bool:
        """As of `FrameFile`."""
        return True

    def read(self, corpus: Corpus, row: int, start: int, count: int) -> Frames:
        """(2 neighbours + 3, count) from sample `start` on."""
        phones, samples = self.stored(corpus, row), corpus.utterances[row].frames
        known, rate = corpus.vocabulary[PHONES], corpus.sample_rate
        return self._frames(phones, known, samples, sample_rate=rate, start=start, count=count)

    def samples_of(self, _: Sequence[Any] | None) -> int | None:
        """None: phones do not include the end of the last one."""
        return None

    def given(
        self,
        value: Sequence[Any],
        samples: int,
        sample_rate: int,
        vocabulary: Mapping[str, Sequence[str]],
    ) -> Frames:
        """[[first sample, label], ...] of the user's own, for `samples` samples -> as `read`
        yields. Raises `UserInputError`.
        """
        known = vocabulary.get(PHONES, ())
        for _, label in value:
            if label not in known:
                raise UserInputError(
                    f"phone {label!r}: not among the {len(known)} of this model"
                    f"{nearest(label, known)}"
                )
        count = -(-samples // self.hop)
        return self._frames(value, known, samples, sample_rate=sample_rate, start=0, count=count)

    def _frames(
        self,
        phones: Sequence[Any],
        known: Sequence[str],
        samples: int,
        *,
        sample_rate: int,
        start: int,
        count: int,
    ) -> Frames:
        place = {label: i for i, label in enumerate(known)}
        around = [-1] * self.neighbours
        ids = np.array([*around, *(place[label] for _, label in phones), *around])
        bounds = np.array([*(first for first, _ in phones), samples], np.float64)
        centres = np.minimum(start + np.arange(count) * self.hop + self.hop // 2, samples - 1)
        at = np.clip(np.searchsorted(bounds, centres, side="right") - 1, 0, len(phones) - 1)
        length = np.maximum(bounds[at + 1] - bounds[at], 1)
        rows = [ids[at + k] for k in range(2 * self.neighbours + 1)]
        return np.stack(
            [*rows, np.clip((centres - bounds[at]) / length, 0, 1), np.log(length / sample_rate)]
        ).astype(np.float32)


@dataclass(frozen=True)
class PitchTrack:
    """F0 and voicing as `prepare` stored them: (2, F), v ln(F0 / 100 Hz) and v, F0 between `lowest`
    and `highest` Hz.
    """

    hop: int
    lowest: float
    highest: float
    name: str = PITCH
    in_index: ClassVar[bool] = False

    def fits(self, corpus: Corpus) -> bool:
        """Whether the corpus has F0 of this hop and range.

        Raises `UserInputError` for a corpus without any.
        """
        return (self.hop, self.lowest, self.highest) == astuple(corpus.require_pitch())

    def stored(self, corpus: Corpus, row: int) -> Frames:
        """The (2, F) of the entire utterance."""
        return contour(corpus.f0(row))

    def read(self, corpus: Corpus, row: int, start: int, count: int) -> Frames:
        """(2, count) from sample `start` on, a multiple of the hop; unvoiced after the utterance's
        end.
        """
        part = contour(corpus.f0(row)[start // self.hop :][:count])
        return np.pad(part, ((0, 0), (0, count - part.shape[1])))

    def samples_of(self, value: Frames | None) -> int | None:
        """How many samples the user's own contour stands for; None without any."""
        return None if value is None else np.shape(value)[-1] * self.hop

    def given(
        self, value: Frames, samples: int, _rate: int, _vocabulary: Mapping[str, Sequence[str]]
    ) -> Frames:
        """(2, F) of the user's own, for `samples` samples -> as `read` yields."""
        return FrameFile(self.name, self.hop, 2).fitted(
            np.asarray(value, np.float32), -(-samples // self.hop)
        )


Track = FrameFile | PhoneTrack | PitchTrack


def stored_pitch(corpus: Corpus) -> PitchTrack:
    """The F0 that a corpus has. Raises `UserInputError` for one without."""
    return PitchTrack(*astuple(corpus.require_pitch()))


def carried(corpus: Corpus, tracks: Sequence[Track]) -> tuple[Track, ...]:
    """The tracks that are read from a corpus: all but F0 of another hop or range, which the front
    end tracks itself.

    Raises `UserInputError` for a corpus without F0 where a track is F0.
    """
    return tuple(track for track in tracks if track.fits(corpus))
