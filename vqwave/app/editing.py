"""Codes edited by hand: a stretch of frames is repeated, cut, set to one code, replaced, exchanged.

A stretch is the frames first .. last - 1. With melody it grows to entire pitch codes. What comes
from another recording keeps its words and melody, and gets the range of pitch of the codes that it
is put into.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vqwave import inputs
from vqwave.codes import CodeSequence, join
from vqwave.errors import UserInputError

Span = tuple[int, int]
MOST_TIMES = 20


def stretch(coded: CodeSequence, span: Span, name: str = "stretch") -> Span:
    """The frames of whole pitch codes around a span.

    Raises UserInputError where there are none.
    """
    first, last = (inputs.whole_number(place, name, 0) for place in span)
    frames, ratio = coded.codes.shape[1], coded.ratio
    if not first < last <= frames:
        raise UserInputError(
            f"{name}: frames {first} to {last}, expected at least one of the {frames}"
        )
    return first // ratio * ratio, min(frames, -(-last // ratio) * ratio)


def settled(coded: CodeSequence, span: Span) -> Span:
    """The stretch that a span stands for: at least a frame of those there are, and whole pitch
    codes. Raises UserInputError for what is no frame.
    """
    frames = coded.codes.shape[1]
    first, last = (inputs.whole_number(place, "stretch", 0) for place in span)
    first = min(first, frames - 1)
    return stretch(coded, (first, min(max(first + 1, last), frames)))


def repeat(coded: CodeSequence, span: Span, times: int) -> CodeSequence:
    """The stretch `times` times in all, at most `MOST_TIMES`. Raises UserInputError."""
    if inputs.whole_number(times, "times", 1) > MOST_TIMES:
        raise UserInputError(f"times: {times}, expected at most {MOST_TIMES}")
    before, middle, after = _apart(coded, span)
    return _together([before, *[middle] * times, after])


def cut(coded: CodeSequence, span: Span) -> CodeSequence:
    """Without the stretch. Raises UserInputError where that is all there is."""
    before, _, after = _apart(coded, span)
    if not before.samples + after.samples:
        raise UserInputError("stretch: all frames, expected some to be left")
    return _together([before, after])


def fill(coded: CodeSequence, span: Span, code: int) -> CodeSequence:
    """Each frame of the stretch with one code, in every book; the melody stays.

    Raises UserInputError for a code that the books do not have.
    """
    code = inputs.whole_number(code, "code", 0)
    if code >= coded.size:
        raise UserInputError(f"code: {code}, expected one below {coded.size}")
    first, last = stretch(coded, span)
    codes = coded.codes.clone()
    codes[:, first:last] = code
    return replace(coded, codes=codes)


def substitute(
    coded: CodeSequence, span: Span, other: CodeSequence, other_span: Span
) -> CodeSequence:
    """With a stretch of another recording in place of this one's.

    Raises UserInputError for codes of another codec.
    """
    if other.fingerprint != coded.fingerprint:
        codecs = f"{other.fingerprint} and {coded.fingerprint}"
        raise UserInputError(f"the recordings' codes are of codecs {codecs}, expected one codec")
    before, _, after = _apart(coded, span)
    _, middle, _ = _apart(other, other_span)
    return _together([before, _adopted(middle, coded), after])


def swap(
    coded: CodeSequence, span: Span, other: CodeSequence, other_span: Span
) -> tuple[CodeSequence, CodeSequence]:
    """The two with their stretches exchanged; see `substitute`."""
    return (
        substitute(coded, span, other, other_span),
        substitute(other, other_span, coded, span),
    )


def _apart(coded: CodeSequence, span: Span) -> tuple[CodeSequence, CodeSequence, CodeSequence]:
    first, last = stretch(coded, span)
    frames = coded.codes.shape[1]
    after = coded.cut(last, frames) if last < frames else coded.cut(0, 0)
    return coded.cut(0, first), coded.cut(first, last), after


def _together(parts: list[CodeSequence]) -> CodeSequence:
    """Joined; all but the last part are made whole first."""
    parts = [part for part in parts if part.codes.shape[1]]
    return join([*map(_whole, parts[:-1]), parts[-1]])


def _whole(part: CodeSequence) -> CodeSequence:
    """Of a recording's end: as many frames as its pitch codes cover, of as many samples."""
    missing = -part.codes.shape[1] % part.ratio
    codes = torch.cat([part.codes, part.codes[:, -1:].expand(-1, missing)], 1)
    return replace(part, codes=codes, samples=codes.shape[1] * part.hop)


def _adopted(part: CodeSequence, by: CodeSequence) -> CodeSequence:
    """With the speaker and the range of pitch of other codes."""
    pitch = part.pitch
    if pitch is not None and by.pitch is not None:
        pitch = replace(pitch, mean=by.pitch.mean, deviation=by.pitch.deviation)
    return replace(part, speaker=by.speaker, pitch=pitch)
