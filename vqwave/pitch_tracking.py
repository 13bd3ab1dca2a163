"""F0 of speech by SwiftF0, a convolutional network of 14,000 parameters that its package carries.

Frame f is centred on sample f hop + hop // 2, as in `vqwave.features`. The network has a frame each
256 samples at 16 kHz, centred on a multiple of 256; frames between are interpolated. Each of its
frames depends on 2,815 samples to either side, so that a recording can be tracked chunk by chunk
with the same result up to rounding. It runs on the CPU, on one thread, and has no gradient; the
package is imported by the first call.

Reference: Nieradzik, 2025, "SwiftF0: fast and accurate monophonic pitch detection".
arXiv:2508.18440
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave

if TYPE_CHECKING:
    from soxr import ResampleStream
    from swift_f0 import PitchResult, SwiftF0

# Hz; samples from frame to frame; samples to either side that a frame depends on
RATE, GRID, CONTEXT = 16000, 256, 2815
DELAY = 0.12  # seconds, at the most, that resampling from 8 kHz or more holds samples back
AHEAD = 10  # network frames after its own that must have come before one is known
FILTER = 140  # samples at the lower rate, to either side, that resampling depends on
LOWEST, HIGHEST = 50.0, 600.0  # Hz, of speech
RANGE = 46.875, 2093.75  # Hz, of the network
VOICED = 0.5  # confidence from which a frame is voiced
F0 = NDArray[np.float32]


@functools.cache
def _network() -> SwiftF0:
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1)


def _resampler(sample_rate: int) -> ResampleStream | None:
    if sample_rate == RATE:
        return None
    from soxr import ResampleStream

    return ResampleStream(sample_rate, RATE, 1, dtype="float64", quality="VHQ")


def _resampled(resampler: ResampleStream | None, wave: Wave, *, last: bool) -> Wave:
    """To 16 kHz, in float64: the network takes logarithms of empty bands, in which a float32 filter
    leaves its rounding.
    """
    return (
        wave
        if resampler is None
        else resampler.resample_chunk(wave.astype(np.float64), last=last).astype(np.float32)
    )


def track(
    wave: Wave, sample_rate: int, hop: int, lowest: float = LOWEST, highest: float = HIGHEST
) -> F0:
    """wave (T,) in [-1, 1] at any rate -> F0 in Hz between `lowest` and `highest`, 0 where
    unvoiced: (ceil(T / hop),).

    Outside the waveform there are zeros. What peaks below 0.001 (-60 dBFS) is unvoiced.
    """
    if not len(wave):
        return np.zeros(0, np.float32)
    # so that there is a network frame after the last centre
    beyond = -(-2 * GRID * sample_rate // RATE)
    resampler = _resampler(sample_rate)
    resampled = _resampled(resampler, np.pad(np.asarray(wave, np.float32), (0, beyond)), last=True)
    result = _network().detect(resampled, RATE, lowest, highest)
    place = positions(0, -(-len(wave) // hop), sample_rate, hop)
    return at_positions(result.pitch_hz, result.confidence, place)


def positions(first: int, count: int, sample_rate: int, hop: int) -> NDArray[np.float64]:
    """Where the centres of frames [first, first + count) lie, in network frames."""
    return (np.arange(first, first + count, dtype=np.float64) * hop + hop // 2) * (
        RATE / (sample_rate * GRID)
    )


def at_positions(
    hz: NDArray[np.float64], confidence: NDArray[np.float64], place: NDArray[np.float64]
) -> F0:
    """Network frames (G,) -> F0 at places (F,) between them: confidence and ln F0 are linear from
    frame to frame.

    Next to an unvoiced frame, whose F0 means nothing, the F0 of the voiced one is held.
    """
    left = np.floor(place).astype(int).clip(0, len(hz) - 1)
    right = (left + 1).clip(0, len(hz) - 1)
    share = (place - left).clip(0, 1)
    voiced = (1 - share) * confidence[left] + share * confidence[right] >= VOICED
    known = confidence >= VOICED
    share = np.where(known[left] & known[right], share, known[right])
    log_f0 = (1 - share) * np.log(hz[left]) + share * np.log(hz[right])
    return np.where(voiced, np.exp(log_f0), 0.0).astype(np.float32)


def contour(f0: F0) -> NDArray[np.float32]:
    """F0 in Hz (F,), 0 where unvoiced -> (2, F): v ln(F0 / 100 Hz) and v, which is 1 where voiced,
    else 0.
    """
    voiced = f0 > 0
    return np.stack([np.log(np.where(voiced, f0, 100.0) / 100.0), voiced]).astype(np.float32)


def ten_milliseconds(sample_rate: int) -> int:
    """The hop of stored F0: the integer number of samples that is nearest to 10 ms."""
    return round(sample_rate / 100)


def grid(sample_rate: int) -> int:
    """Samples after which network frames lie on samples again: windows that start on it have the
    frames of the entire recording.
    """
    return sample_rate * GRID // math.gcd(sample_rate * GRID, RATE)


def context(sample_rate: int) -> int:
    """Samples to either side of a frame's centre that it depends on, at most."""
    resampling = 0 if sample_rate == RATE else FILTER / min(sample_rate, RATE)
    return math.ceil(sample_rate * ((CONTEXT + GRID) / RATE + resampling))


class PitchStream:
    """F0 of a recording as it comes: `push` samples, take the frames that are known now; `flush` at
    the end.

    The frames are those of `track` up to rounding: voicing differs only where a confidence is
    `VOICED` within it.
    """

    def __init__(
        self, sample_rate: int, hop: int, lowest: float = LOWEST, highest: float = HIGHEST
    ) -> None:
        self.sample_rate, self.hop = sample_rate, hop
        self._resampler, self._stream = _resampler(sample_rate), _network().stream(lowest, highest)
        self._hz, self._confidence = np.zeros(0), np.zeros(0)  # of network frames from `_first` on
        self._first = self.samples = self.frame = 0

    @property
    def latency(self) -> float:
        """Seconds that frames stay behind the samples that were pushed, at the most."""
        resampling = 0.0 if self._resampler is None else DELAY * max(1.0, 8000 / self.sample_rate)
        return resampling + (AHEAD + 2) * GRID / RATE + self.hop / self.sample_rate

    def push(self, wave: Wave) -> F0:
        """Samples (n,), any n -> F0 in Hz (m,) of the next frames, 0 where unvoiced."""
        self.samples += len(wave)
        self._push(np.asarray(wave, np.float32))
        # samples, of the last network frame
        known = (self._first + len(self._hz) - 1) * GRID * self.sample_rate / RATE
        ready = math.floor((known - self.hop // 2) / self.hop) + 1
        return self._frames(min(ready, self.samples // self.hop))

    def flush(self) -> F0:
        """The last frames; samples that fill no hop are one more."""
        if not self.samples:
            return np.zeros(0, np.float32)
        beyond = np.zeros(-(-2 * GRID * self.sample_rate // RATE), np.float32)
        self._push(beyond, last=True)
        self._take(self._stream.flush())
        return self._frames(-(-self.samples // self.hop))

    def _push(self, wave: Wave, *, last: bool = False) -> None:
        self._take(self._stream.push(_resampled(self._resampler, wave, last=last), RATE))

    def _take(self, result: PitchResult) -> None:
        self._hz = np.concatenate([self._hz, result.pitch_hz])
        self._confidence = np.concatenate([self._confidence, result.confidence])

    def _frames(self, end: int) -> F0:
        count = max(0, end - self.frame)
        if not count:
            return np.zeros(0, np.float32)
        place = positions(self.frame, count, self.sample_rate, self.hop)
        f0 = at_positions(self._hz, self._confidence, place - self._first)
        self.frame += count
        done = min(
            int(positions(self.frame, 1, self.sample_rate, self.hop)[0]) - self._first,
            len(self._hz) - 1,
        )
        self._hz, self._confidence, self._first = (
            self._hz[done:],
            self._confidence[done:],
            self._first + done,
        )
        return f0
