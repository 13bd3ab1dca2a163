"""One recording -> its samples at a corpus's rate and level, with phones and F0."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqwave import audio, pitch_tracking
from vqwave.data.manifest import Phones, Recording, Rejected
from vqwave.errors import UserInputError
from vqwave.failures import in_a_line, reported

SHORTEST_SECONDS = 0.01


@dataclass(frozen=True)
class Target:
    """What every recording is brought to: sample rate in Hz, RMS level in dBFS."""

    sample_rate: int
    level_db: float


@dataclass(frozen=True)
class Prepared:
    """One recording's samples (T,), its phones at the corpus's rate, its F0 in Hz (F,), 0 where
    unvoiced.
    """

    recording: Recording
    samples: NDArray[np.int16]
    phones: Phones
    f0: pitch_tracking.F0


def preprocess(recording: Recording, target: Target) -> Prepared | Rejected:
    """A recording without its DC, resampled, at the target's level, rounded to int16, with its F0.

    Whatever is wrong with it is returned; an OSError of the disk is raised.
    """
    try:
        return _preprocessed(recording, target)
    except OSError:  # of the disk, not of the file
        raise
    except Exception as error:
        return Rejected(recording.path, in_a_line(error) or reported(error))


def _preprocessed(recording: Recording, target: Target) -> Prepared | Rejected:
    about = f"{recording.id}: " if recording.member else ""
    with recording.sound() as path:
        try:
            wave, rate = audio.read(path, recording.start, recording.frames)
        except UserInputError as error:
            return Rejected(recording.path, about + str(error).removeprefix(f"{path}: "))
    if recording.sample_rate not in (None, rate):
        return Rejected(
            recording.path, f"{about}is at {rate} Hz, the manifest has {recording.sample_rate}"
        )
    wave = audio.remove_dc(wave)
    if (silence := audio.silence_in(wave)) is not None:
        return Rejected(recording.path, about + silence)
    if len(wave) < SHORTEST_SECONDS * rate:
        return Rejected(recording.path, f"{about}too short ({len(wave)} samples at {rate} Hz)")
    wave = audio.remove_dc(audio.resample(wave, rate, target.sample_rate))
    if (silence := audio.silence_in(wave)) is not None:
        return Rejected(recording.path, f"{about}{silence} at {target.sample_rate} Hz")
    samples = audio.to_int16(audio.normalise_level(wave, target.level_db))
    phones = _phones_at(recording, target.sample_rate / rate, len(wave))
    hop = pitch_tracking.ten_milliseconds(target.sample_rate)
    f0 = pitch_tracking.track(audio.from_int16(samples), target.sample_rate, hop)
    return Prepared(recording, samples, phones, f0)


def _phones_at(recording: Recording, scale: float, frames: int) -> Phones:
    """Their first samples at `scale` times the rate, within the recording's `frames`."""
    starts = (round((start - recording.start) * scale) for start, _ in recording.phones)
    moved = (
        (min(max(start, 0), frames), label)
        for start, (_, label) in zip(starts, recording.phones, strict=True)
    )
    return tuple(moved)


def preprocess_all(
    recordings: Sequence[Recording], target: Target, *, quiet: bool
) -> Iterator[Prepared | Rejected]:
    """`preprocess` on a few threads (decoding and resampling release the interpreter's lock); the
    results in the order of the recordings, few of them held at a time.
    """
    threads = min(os.cpu_count() or 1, 8)
    waiting: deque[Future[Prepared | Rejected]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for recording in tqdm(recordings, desc="prepare", unit="file", disable=quiet, leave=False):
            waiting.append(pool.submit(preprocess, recording, target))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
