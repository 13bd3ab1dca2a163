"""What the Python API takes: one check of waveforms, rates, codes and lengths for all methods.

Each function gives back what the rest of the package computes with, or raises `UserInputError` with
one line that names the argument, what was given and what is expected.

The rules. A waveform is an array or tensor of floating-point samples in [-1, 1]; int16 is 16-bit
PCM and is divided by 32768; other whole numbers are refused, since their full scale is not known.
Its shape is (T,), or, with one or two channels, (C, T) or (T, C): the axis of length 1 or 2 is that
of the channels. Leading axes of length 1 before these are dropped, so that (1, 1, T) is (1, T).
Anything else is refused, such as (2, 2), which is ambiguous, or a batch.
"""

from __future__ import annotations

import math
import operator
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, cast

import numpy as np
from numpy.typing import NDArray

from vqwave.errors import UserInputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

PCM = np.float32(32768.0)  # full scale of int16
STEREO = 2  # channels, at most
HIGHEST_RATE = 1_000_000  # Hz
LONGEST_SECONDS = 7 * 86_400.0  # of one recording
SHOWN = 12  # names of which a list is shown


def array(values: object, name: str) -> NDArray[Any]:
    """Anything that numpy or torch takes for numbers, on any device -> an array of the same shape.

    float16 and bfloat16 become float32, which holds their values exactly.
    """
    try:
        torch: Any = sys.modules.get("torch")  # where it was never imported, there is no tensor
        if torch is not None and isinstance(values, torch.Tensor):
            tensor = cast("Tensor", values).detach().cpu()
            narrow = tensor.is_floating_point() and tensor.dtype != torch.float64
            return (tensor.float() if narrow else tensor).numpy()
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserInputError(f"{name}: no array of numbers ({reason})") from None


def floats(values: object, name: str) -> NDArray[np.float32]:
    """Numbers of any kind and shape -> float32. NaN and infinity are refused."""
    given = array(values, name)
    if given.dtype.kind not in "fiu":
        raise UserInputError(f"{name}: {_kind(values, given)}, expected numbers")
    with np.errstate(over="ignore"):
        given = given.astype(np.float32)
    if not np.isfinite(given).all():
        raise UserInputError(f"{name}: holds NaN or infinity, expected finite numbers")
    return given


def waveform(wave: object, name: str = "wave") -> NDArray[np.float32]:
    """A recording, by the rules above -> float32 (T,), or (2, T) where it has two channels."""
    samples = array(wave, name)
    if samples.dtype.kind == "i" and samples.dtype.itemsize == 2:
        samples = samples.astype(np.float32) / PCM
    elif samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused as such
            samples = samples.astype(np.float32, copy=False)
    else:
        given = _kind(wave, samples)
        raise UserInputError(
            f"{name}: {given}, expected floating-point samples in [-1, 1], or int16 PCM"
        )
    shape = samples.shape
    while samples.ndim > 2 and len(samples) == 1:
        samples = samples[0]
    if samples.ndim == 1:
        return samples
    if samples.ndim == 2 and (1 in samples.shape or not samples.size):
        return samples.reshape(-1)
    channels = [axis for axis, length in enumerate(samples.shape) if length == STEREO]
    if samples.ndim == 2 and len(channels) == 1:
        return np.moveaxis(samples, channels[0], 0)
    raise UserInputError(
        f"{name}: shape {shape}, expected (T,), or (T, C) or (C, T) with one or two channels; "
        "of a batch, give one recording at a time"
    )


def mono(wave: object, name: str = "wave") -> NDArray[np.float32]:
    """A recording, by the rules above, which must have one channel -> float32 (T,)."""
    samples = waveform(wave, name)
    if samples.ndim > 1:
        raise UserInputError(f"{name}: two channels, expected one: take their mean, or one of them")
    return samples


def whole_number(value: object, name: str, least: int) -> int:
    """A whole number, at least `least`; a float that is whole counts as one, a boolean does not."""
    given = value
    if isinstance(given, float | np.floating) and math.isfinite(given) and given == int(given):
        given = int(given)
    try:
        if (
            isinstance(given, bool | np.bool_)
            or (number := operator.index(cast("SupportsIndex", given))) < least
        ):
            raise TypeError
    except (TypeError, ValueError, RuntimeError):
        raise UserInputError(
            f"{name}: {value!r}, expected a whole number, at least {least}"
        ) from None
    return number


def sample_rate(value: object, name: str = "sample_rate") -> int:
    """Hz."""
    try:
        rate = whole_number(value, name, 1)
    except UserInputError:
        rate = 0
    if not 1 <= rate <= HIGHEST_RATE:
        raise UserInputError(f"{name}: {value!r}, expected whole Hz above 0, such as 16000")
    return rate


def seconds(value: object, name: str = "seconds") -> float:
    """A length above 0, and at most `LONGEST_SECONDS`."""
    try:
        if 0 < (number := float(value)) <= LONGEST_SECONDS:  # type: ignore[arg-type]
            return number
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    most = f", at most {LONGEST_SECONDS:,.0f}" if number > LONGEST_SECONDS else ""
    raise UserInputError(f"{name} {value}: expected a number above 0{most}")


def samples_of(value: object, rate: int) -> int:
    """Seconds -> samples at `rate` Hz, one at the least."""
    return max(1, round(seconds(value) * rate))


def codes(values: object, books: int | None, size: int, name: str = "codes") -> Tensor:
    """Codes (Q, F) of any whole-number type, on any device -> int64 on the CPU, below `size`.

    `books` is Q, where it is known.
    """
    import torch

    given = array(values, name)
    fitting = given.ndim == 2 and len(given) > 0 and books in (None, len(given))
    if given.dtype.kind not in "iu" or not fitting:
        expected = f"whole numbers ({'Q' if books is None else books}, F)"
        kind = _kind(values, given)
        raise UserInputError(f"{name}: {kind} of shape {given.shape}, expected {expected}")
    wrong = np.argwhere((given < 0) | (given >= size))
    if len(wrong):
        book, frame = wrong[0]
        place = f"book {book}, frame {frame}"
        raise UserInputError(
            f"{name}: code {given[book, frame]} ({place}), expected 0 to {size - 1}"
        )
    return torch.from_numpy(given.astype(np.int64))


def lengths(
    values: object, shape: tuple[int, ...], name: str = "lengths", *, least: int = 0
) -> list[int]:
    """How much of each row of a padded batch (B, T) is real: (B,), `least` to T; None: all of T."""
    count, most = shape
    if values is None:
        return [most] * count
    given = array(values, name)
    if given.dtype.kind not in "iu" or given.shape != (count,):
        raise UserInputError(
            f"{name}: {_kind(values, given)} of shape {given.shape}, expected whole numbers"
            f" ({count},)"
        )
    for b, n in enumerate(given.tolist()):
        if not least <= n <= most:
            raise UserInputError(f"{name}: {n} of row {b}, expected {least} to {most}")
    return given.tolist()


def fits(samples: int, frames: int, hop: int, name: str = "codes") -> None:
    """Whether `frames` frames of `hop` samples are what `samples` samples take."""
    if samples < 0 or not 0 <= frames * hop - samples < hop:
        expected = f"{(frames - 1) * hop + 1} to {frames * hop}" if frames else "none"
        given = f"{samples} samples in {frames} frames of {hop}"
        raise UserInputError(f"{name}: {given}, expected {expected}")


def one_each(count: int, values: Mapping[str, Sequence[Any]]) -> list[Sequence[Any]]:
    """Lists by name, each of which must have one entry for each of `count` utterances."""
    for name, entries in values.items():
        if len(entries) != count:
            given = f"{name}: {len(entries)}"
            raise UserInputError(f"{given}, expected one for each of the {count} utterances")
    return list(values.values())


def by_name(values: object, name: str) -> Mapping[str, Any]:
    """A mapping, empty for None."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise UserInputError(f"{name}: a {type(values).__name__}, expected a dictionary by name")
    return values


def place_of(
    value: object,
    known: Sequence[str],
    name: str,
    owner: str = "this model",
    offered: Sequence[str] = (),
) -> int:
    """The place of a label in `known`, which `owner` has, or of its composed Unicode form (NFC).

    Raises UserInputError for any other, with the nearest of `offered`: those of `known` that are
    worth choosing; none: all.
    """
    offered = offered or known
    more = ", ..." if len(offered) > SHOWN else ""
    expected = f"expected one of {', '.join(offered[:SHOWN])}{more}"
    if value is None:
        raise UserInputError(f"{name}: not given, {expected}")
    if value not in known and isinstance(value, str):
        value = unicodedata.normalize("NFC", value)
    if value not in known:
        hint = nearest(value, offered) if isinstance(value, str) else ""
        given = f"{name} {value!r}: not among the {len(offered)} of {owner}"
        raise UserInputError(given + (hint or f", {expected}"))
    return known.index(value)


def _kind(value: object, given: NDArray[Any]) -> str:
    """What was given, in a word or two."""
    return type(value).__name__ if given.dtype.kind in "OUSV" else str(given.dtype)
