"""Sound in and out: files, sample rates, levels, mu-law.

Waveforms are float32 arrays (T,) in [-1, 1], mono, with their sample rate given separately. Level
is RMS in dBFS: a full-scale square wave has 0 dBFS, a full-scale sine -3 dBFS. What counts as
silent, and which channels cannot be averaged, is decided here for everything that takes sound:
preparing, encoding, converting, streams.
"""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave import inputs
from vqwave.atomic_files import write_bytes
from vqwave.audio.sound_files import FOREIGN, WHY_FOREIGN, refuse_name
from vqwave.errors import Note, UserInputError

Wave = NDArray[np.float32]

SILENCE_DB = -70.0  # dBFS, without DC: a recording below this is silent
CANCELLED_DB = 15.0  # how far the mean of channels may lie below them
PIECE = 1 << 16  # samples whose channels are averaged at once
# a program that streams a WAV and cannot know its length writes a size from here on, or 0
OPEN_ENDED = 0x7FFFF000
LOWEST_RATE, MOST_CHANNELS = 100, 256  # of a sound file
MOST_SAMPLES = 1 << 31  # that are read at once: half a day at 48 kHz
BLOCK = 1 << 20  # values that are read at once: a forged length takes no memory that nothing fills
MOST_CHUNKS = 10_000  # of a WAV, before its samples


def read(path: str | Path, start: int = 0, frames: int | None = None) -> tuple[Wave, int]:
    """The samples (T,) of a sound file in [-1, 1] and its sample rate in Hz; several channels are
    averaged.

    `start` and `frames` cut a stretch out, in samples of the file. Raises `UserInputError` that
    names the file where it is missing, unreadable, empty, not audio, truncated, shorter than the
    stretch, holds NaN or infinity, or channels that cancel each other.
    """
    path = Path(path)
    _refuse_no_file(path)
    try:
        _refuse_truncated_riff(path)
        with soundfile.SoundFile(path) as file:
            wave = _read_open(file, path, start, frames)
            rate = int(file.samplerate)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = str(error).rsplit(":", 1)[-1].strip().rstrip(".")
        if reason.startswith("File does not exist"):  # of what libsndfile cannot place
            reason = "damaged, or of another format than its name says"
        foreign = path.suffix.lower() in FOREIGN
        why = WHY_FOREIGN if foreign else f"not readable as sound ({reason})"
        raise UserInputError(f"{path}: {why}") from error
    except OSError as error:
        raise UserInputError(f"{path}: cannot be opened ({error.strerror})") from error
    if not np.isfinite(wave).all():
        raise UserInputError(
            f"{path}: {int((~np.isfinite(wave)).sum())} samples are NaN or infinite"
        )
    return wave, rate


def _refuse_no_file(path: Path) -> None:
    """Raises UserInputError for what is no regular file, or an empty one."""
    refuse_name(path)
    try:
        size = path.stat().st_size if path.is_file() else -1
    except OSError as error:
        raise UserInputError(f"{path}: cannot be opened ({error.strerror})") from None
    if size < 0:
        kinds = ((path.is_dir, "is a folder"), (path.exists, "is a pipe or a device"))
        kind = next((text for there, text in kinds if there()), "no such file")
        raise UserInputError(f"{path}: {kind}, expected a sound file")
    if size == 0:
        raise UserInputError(f"{path}: empty file (0 bytes), expected a sound file")


def check_format(rate: int, channels: int, name: str | Path) -> None:
    """Raises UserInputError, which begins with `name`, for rates and channels of no recording."""
    if not LOWEST_RATE <= rate <= inputs.HIGHEST_RATE or not 1 <= channels <= MOST_CHANNELS:
        raise UserInputError(
            f"{name}: {channels} channels at {rate} Hz, expected at most {MOST_CHANNELS} at"
            f" {LOWEST_RATE} to {inputs.HIGHEST_RATE:,} Hz"
        )


def _read_open(file: soundfile.SoundFile, path: Path, start: int, frames: int | None) -> Wave:
    check_format(file.samplerate, file.channels, path)
    if file.frames == 0:
        raise UserInputError(f"{path}: holds no samples")
    wanted = file.frames - start if frames is None else frames
    if start < 0 or wanted <= 0 or start + wanted > file.frames:
        raise UserInputError(
            f"{path}: holds {file.frames} samples, asked for {wanted} from sample {start} on"
        )
    before = start
    if file.seekable():  # GSM 6.10 is not
        file.seek(start)
        before = 0
    mix, parts, count = Downmix(), [], 0
    while count < before + wanted:
        most = min(BLOCK // file.channels // PIECE * PIECE or PIECE, before + wanted - count)
        block = file.read(most, dtype="float32", always_2d=True)  # (T, channels)
        if len(block) < most:
            there = count + len(block) + start - before
            raise UserInputError(
                f"{path}: truncated, {there} of {file.frames} samples could be read"
            )
        block = block[max(0, before - count) :]
        count += most
        if count > before + MOST_SAMPLES:
            raise UserInputError(
                f"{path}: {wanted} samples, expected at most {MOST_SAMPLES} that are read at once"
            )
        parts += [mix.push(block[at : at + PIECE]) for at in range(0, len(block), PIECE)]
    try:
        mix.check()
    except UserInputError as error:
        raise UserInputError(f"{path}: {error}") from None
    return np.concatenate(parts)


class Downmix:
    """Channels -> their mean, piece by piece; and whether they cancel each other in it.

    Of two channels of which one is inverted, as a wrongly wired microphone gives them, the mean is
    what they differ in: next to nothing, which a level would bring up to that of speech.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums = self._squares = np.zeros(1)  # of each channel, and of their mean

    def push(self, channels: NDArray[np.float32]) -> Wave:
        """(n, C) -> (n,)."""
        if channels.shape[1] == 1:
            return channels[:, 0]
        mean = channels.mean(1, dtype=np.float32)
        both = np.concatenate([channels, mean[:, None]], 1).astype(np.float64)  # (n, C + 1)
        self.count += len(both)
        self._sums, self._squares = self._sums + both.sum(0), self._squares + np.square(both).sum(0)
        return mean

    def check(self) -> None:
        """Raises UserInputError where their mean lies `CANCELLED_DB` or more below the channels, DC
        aside.
        """
        if not self.count:
            return
        *powers, mean = self._squares / self.count - np.square(self._sums / self.count)
        power = float(np.mean(powers))
        if power > 10 ** (SILENCE_DB / 10) and mean < power * 10 ** (-CANCELLED_DB / 10):
            below = 10 * math.log10(power / mean) if mean > 0 else math.inf
            left = f"lies {below:.0f} dB below them" if math.isfinite(below) else "is zero"
            raise UserInputError(
                f"its channels cancel each other (their mean {left}), expected one of them alone"
            )


def downmix(channels: NDArray[np.float32]) -> Wave:
    """(T, C) -> (T,), the mean of the channels.

    Raises UserInputError for channels that cancel each other.
    """
    if channels.shape[1] == 1:
        return channels[:, 0].copy()
    mix = Downmix()
    starts = range(0, max(1, len(channels)), PIECE)
    wave = np.concatenate([mix.push(channels[start : start + PIECE]) for start in starts])
    mix.check()
    return wave


def _refuse_truncated_riff(path: Path) -> None:
    """libsndfile quietly shortens a WAV whose data chunk runs past the end of the file; this
    reports so instead.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        for _ in range(MOST_CHUNKS):
            if len(chunk := file.read(8)) < 8:
                return
            name, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                left = size - file.tell()
                if left < length < OPEN_ENDED:
                    raise UserInputError(
                        f"{path}: truncated, {left} of {length} bytes of samples are there"
                    )
                return
            file.seek(length + length % 2, os.SEEK_CUR)
    raise UserInputError(f"{path}: {MOST_CHUNKS:,} chunks and no samples, expected a WAV")


def rate_of(path: str | Path) -> int | None:
    """The sample rate in Hz that a sound file declares, None where it cannot be opened."""
    try:
        rate = int(soundfile.info(str(path)).samplerate) if Path(path).is_file() else 0
        return rate if LOWEST_RATE <= rate <= inputs.HIGHEST_RATE else None
    except (soundfile.SoundFileError, RuntimeError, OSError):
        return None


def write(path: str | Path, wave: Wave | Tensor, sample_rate: int) -> None:
    """Write (T,) as 16-bit PCM, WAV or FLAC by suffix. The file appears completely or not at all.

    Floating-point samples are clipped to [-1, 1], which is noted; int16 samples are written as they
    are (`inputs`).
    """
    path = Path(path)
    kind = {".wav": "WAV", ".flac": "FLAC"}.get(path.suffix.lower())
    if kind is None:
        raise UserInputError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'!r}, expected .wav or"
            " .flac"
        )
    samples = inputs.mono(wave, str(path))
    rate = inputs.sample_rate(sample_rate, f"{path}: sample_rate")
    if not np.isfinite(samples).all():
        raise UserInputError(f"{path}: refusing to write NaN or infinite samples")
    if clipped := int((np.abs(samples) > 1).sum()):
        text = f"{path}: {clipped} of {len(samples)} samples lie beyond [-1, 1] and are clipped"
        warnings.warn(text, Note, stacklevel=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()  # libsndfile does not tell why a file cannot be written
    soundfile.write(data, to_int16(samples), rate, format=kind, subtype="PCM_16")
    write_bytes(path, data.getvalue())


def to_int16(wave: NDArray[np.floating]) -> NDArray[np.int16]:
    """Round x in [-1, 1] to the nearest k / 32768 and return k; what lies outside is clipped.

    Raises UserInputError for NaN and infinity, which damaged weights may give.
    """
    if not np.isfinite(wave).all():
        raise UserInputError("samples: NaN or infinite, expected finite ones; damaged weights?")
    return np.clip(np.rint(np.asarray(wave, np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def from_int16(samples: NDArray[np.int16]) -> Wave:
    """k -> k / 32768, the inverse of `to_int16`."""
    return samples.astype(np.float32) / np.float32(32768.0)


def resample(wave: Wave, source_rate: int, target_rate: int) -> Wave:
    """(T,) -> (round(T * target_rate / source_rate),), by soxr at its quality HQ.

    Rates in Hz. Raises `UserInputError` for rates that are not above zero.
    """
    wave = np.asarray(wave, np.float32)
    if source_rate == target_rate:
        return wave
    if min(source_rate, target_rate) <= 0:
        raise UserInputError(
            f"cannot resample from {source_rate} Hz to {target_rate} Hz: rates must be above zero"
        )
    out = soxr.resample(wave, source_rate, target_rate, quality="HQ")
    frames = round(len(wave) * target_rate / source_rate)
    return np.pad(out[:frames], (0, max(frames - len(out), 0))).astype(np.float32, copy=False)


def remove_dc(wave: Wave) -> Wave:
    """Subtract the mean (summed in float64)."""
    return (wave - np.mean(wave, dtype=np.float64)).astype(np.float32)


def level_db(wave: Wave) -> float:
    """RMS level in dBFS; -inf for silence and for no samples at all."""
    power = float(np.mean(np.square(wave, dtype=np.float64))) if len(wave) else 0.0
    return 10.0 * math.log10(power) if power > 0.0 else -math.inf


def silence_in(wave: Wave) -> str | None:
    """Why a recording (T,) without DC whose level is below `SILENCE_DB` is refused; None for
    sound.
    """
    level = level_db(wave)
    if level >= SILENCE_DB:
        return None
    if not math.isfinite(level):
        return "silent"
    return f"silent ({level:.0f} dBFS, sound begins at {SILENCE_DB:.0f})"


def normalise_level(wave: Wave, rms_db: float = -23.0, peak_db: float = -0.5) -> Wave:
    """Scale to an RMS level of `rms_db` dBFS, or to less where the peak would pass `peak_db`.

    Silence stays.
    """
    peak = float(np.abs(wave).max(initial=0.0))
    if peak == 0.0:
        return wave
    gain_db = min(rms_db - level_db(wave), peak_db - 20.0 * math.log10(peak))
    return (wave * 10.0 ** (gain_db / 20.0)).astype(np.float32)


def mu_law_encode(x: Tensor, classes: int = 256) -> Tensor:
    r"""x in [-1, 1], any shape -> codes int64 in [0, classes), silence at classes // 2.

    .. math:: f(x) = sign(x) \ln(1 + \mu |x|) / \ln(1 + \mu), \quad code = \lfloor (f + 1) / 2 \cdot
    \mu + 1/2 \rfloor

    with mu = classes - 1. Reference: van den Oord et al., 2016 (WaveNet), sec. 2.2.
    arXiv:1609.03499
    """
    mu = classes - 1
    compressed = x.sign() * torch.log1p(mu * x.abs().clamp(max=1.0)) / math.log1p(mu)
    return ((compressed + 1) / 2 * mu + 0.5).floor().long()


def mu_law_decode(codes: Tensor, classes: int = 256) -> Tensor:
    """Codes in [0, classes), any shape -> x in [-1, 1]; the centre of each code, so encoding gives
    it back.

    float32, or float64 for codes that are float64 (fractions of a code are fine: cell edges lie
    halfway between codes).
    """
    mu = classes - 1
    compressed = 2 * (codes if codes.dtype == torch.float64 else codes.float()) / mu - 1
    x = compressed.sign() * torch.expm1(compressed.abs() * math.log1p(mu)) / mu
    return x.clamp(-1.0, 1.0)  # float32 rounding can pass 1 by an ulp
