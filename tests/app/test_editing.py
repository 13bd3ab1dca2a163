"""Edits of codes: frames, samples and pitch codes stay in step, whatever is cut or exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vqwave.app import editing
from vqwave.app.session import read_take
from vqwave.codes import CodeSequence, from_bytes, to_bytes
from vqwave.errors import UserInputError
from vqwave.inference.speech_model import SpeechModel


@pytest.fixture(scope="module")
def coded(model: SpeechModel, recording: Path) -> CodeSequence:
    return read_take(model, recording, 10.0).coded


@pytest.fixture(scope="module")
def other(model: SpeechModel, second: Path) -> CodeSequence:
    return read_take(model, second, 10.0).coded


def content(coded: CodeSequence) -> list[int]:
    return coded.codes[0].tolist()


def test_a_stretch_grows_to_pitch_codes(coded: CodeSequence) -> None:
    assert coded.ratio == 4
    assert editing.stretch(coded, (5, 6)) == (4, 8)
    assert editing.stretch(coded, (35, 37)) == (32, 37)


def test_cut_takes_out_the_stretch_alone(coded: CodeSequence) -> None:
    result = editing.cut(coded, (8, 16))
    assert content(result) == content(coded)[:8] + content(coded)[16:]
    assert result.samples == coded.samples - 8 * coded.hop
    pitch = coded.pitch.codes[0].tolist()
    assert result.pitch.codes[0].tolist() == pitch[:2] + pitch[4:]


def test_repeat_once_is_nothing_and_thrice_adds_two(coded: CodeSequence) -> None:
    once, thrice = (editing.repeat(coded, (8, 16), times) for times in (1, 3))
    assert torch.equal(once.codes, coded.codes)
    assert once.samples == coded.samples
    assert content(thrice)[8:32] == 3 * content(coded)[8:16]
    assert thrice.samples == coded.samples + 16 * coded.hop


def test_the_end_of_a_recording_is_made_whole_where_it_is_no_longer_the_end(
    coded: CodeSequence,
) -> None:
    """37 frames are nine pitch codes and a quarter, and 36 hops and a half."""
    twice = editing.repeat(coded, (36, 37), 2)
    assert twice.codes.shape[1] == 41
    assert content(twice)[36:] == 5 * content(coded)[36:]
    assert twice.samples == 40 * coded.hop + coded.samples % coded.hop


def test_fill_sets_the_stretch_and_keeps_the_melody(coded: CodeSequence) -> None:
    result = editing.fill(coded, (8, 16), 3)
    assert content(result)[8:16] == 8 * [3]
    assert content(result)[16:] == content(coded)[16:]
    assert torch.equal(result.pitch.codes, coded.pitch.codes)
    assert coded is not result


def test_a_stretch_of_another_voice_gets_the_range_of_this_one(
    coded: CodeSequence, other: CodeSequence
) -> None:
    assert abs(coded.pitch.mean - other.pitch.mean) > 0.2
    result = editing.substitute(coded, (8, 12), other, (0, 8))
    assert content(result)[8:16] == content(other)[:8]
    assert result.pitch.codes[0, 2:4].tolist() == other.pitch.codes[0, :2].tolist()
    assert result.pitch.mean == coded.pitch.mean


def test_swap_there_and_back(coded: CodeSequence, other: CodeSequence) -> None:
    a, b = editing.swap(coded, (8, 16), other, (4, 12))
    assert content(a)[8:16] == content(other)[4:12]
    assert content(b)[4:12] == content(coded)[8:16]
    again, back = editing.swap(a, (8, 16), b, (4, 12))
    assert torch.equal(again.codes, coded.codes)
    assert torch.equal(back.pitch.codes, other.pitch.codes)


EDITS: dict[str, Callable[[CodeSequence, editing.Span, CodeSequence], CodeSequence]] = {
    "repeat": lambda a, span, b: editing.repeat(a, span, 3),
    "cut": lambda a, span, b: editing.cut(a, span),
    "fill": lambda a, span, b: editing.fill(a, span, 7),
    "substitute": lambda a, span, b: editing.substitute(a, span, b, (0, b.codes.shape[1])),
}


@pytest.mark.parametrize("span", [(0, 1), (3, 30), (34, 37), (36, 37)], ids=str)
@pytest.mark.parametrize("name", EDITS)
def test_every_edit_is_a_file_that_decodes(
    name: str,
    span: editing.Span,
    coded: CodeSequence,
    other: CodeSequence,
    model: SpeechModel,
) -> None:
    result = EDITS[name](coded, span, other)
    model.check(CodeSequence.checked(result))
    back = from_bytes(to_bytes(result), "edited.vqw")
    assert torch.equal(back.codes, result.codes)
    assert model.task(result, "low").samples == result.samples


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda a: editing.cut(a, (0, 37)), "all frames, expected some to be left"),
        (lambda a: editing.cut(a, (5, 5)), "frames 5 to 5, expected at least one of the 37"),
        (lambda a: editing.cut(a, (5, 38)), "frames 5 to 38, expected"),
        (lambda a: editing.cut(a, (None, 38)), "None, expected a whole number"),
        (lambda a: editing.repeat(a, (0, 4), 21), "21, expected at most 20"),
        (lambda a: editing.repeat(a, (0, 4), 0), "0, expected a whole number"),
        (lambda a: editing.fill(a, (0, 4), 8), "code: 8, expected one below 8"),
        (
            lambda a: editing.substitute(a, (0, 4), replace(a, fingerprint="0" * 16), (0, 4)),
            "expected one codec",
        ),
    ],
)
def test_what_cannot_be_is_a_line(
    edit: Callable[[CodeSequence], object], complaint: str, coded: CodeSequence
) -> None:
    with pytest.raises(UserInputError, match=complaint):
        edit(coded)
