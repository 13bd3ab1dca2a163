"""The second stream in `.vqw`: whole round trips, its bits, its bounds."""

from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vqwave.codes import (
    VERSION_3,
    CodeBlock,
    CodeReader,
    CodeSequence,
    CodeWriter,
    Header,
    PitchCodes,
    from_bytes,
    join,
    load_codes,
    load_header,
    pack,
    pack_digits,
    pitch_due,
    save_codes,
    to_bytes,
    unpack_digits,
)
from vqwave.codes.file_format import header_of, number
from vqwave.codes.packing import digit_bytes
from vqwave.errors import UserInputError
from vqwave.inference.description import describe


def codes_of(size: int, books: int, frames: int) -> Tensor:
    codes = torch.randint(
        size, (books, frames), generator=torch.Generator().manual_seed(size + frames)
    )
    if codes.numel():
        codes.view(-1)[-1] = size - 1
    return codes


def coded(
    frames: int = 13,
    *,
    size: int = 512,
    books: int = 1,
    ratio: int = 4,
    pitch_size: int = 20,
    pitch_books: int = 1,
    samples: int | None = None,
) -> CodeSequence:
    codes = codes_of(pitch_size, pitch_books, -(-frames // ratio))
    pitch = PitchCodes(codes, 160 * ratio, pitch_size, mean=0.4101, deviation=0.2)
    samples = 160 * frames if samples is None else samples
    return CodeSequence(
        codes_of(size, books, frames), 8000, 160, samples, size, "0123abcd", "theo", pitch
    )


def assert_same(a: CodeSequence, b: CodeSequence) -> None:
    assert Header.of(a) == Header.of(b)
    assert a.codes.dtype == a.pitch.codes.dtype == torch.int64
    assert torch.equal(a.codes, b.codes)
    assert torch.equal(a.pitch.codes, b.pitch.codes)


@pytest.mark.parametrize("ratio", [1, 3, 4])
@pytest.mark.parametrize("frames", [0, 1, 3, 4, 5, 40])
@pytest.mark.parametrize(("size", "books"), [(1, 1), (2, 3), (20, 1), (64, 2), (4097, 3)])
def test_round_trip(ratio: int, frames: int, size: int, books: int) -> None:
    for it in (
        coded(frames, ratio=ratio, pitch_size=size, pitch_books=books),
        coded(frames, ratio=ratio, size=size, books=books),
    ):
        assert_same(from_bytes(to_bytes(it), "x.vqw"), it)


def test_files_and_what_is_said_of_them(tmp_path: Path) -> None:
    path, it = tmp_path / "a.vqw", coded(50, samples=160 * 50 - 70)
    save_codes(path, it)
    assert_same(load_codes(path), it)
    assert load_header(path).pitch == it.pitch.format
    rows = describe(str(path))
    assert rows["pitch"] == "1 x 13 of 20 codes, hop 640; F0 about 151 Hz, 3.5 semitones, 58 bit/s"
    assert rows["bit rate"].startswith("511 bit/s")


@pytest.mark.parametrize("size", [2, 16, 20, 33, 64, 500, 512, 1000])
def test_a_minute_takes_its_nominal_rate(size: int) -> None:
    """Within a percent, file and all, of frames a second x log2 K, in both streams."""
    it = replace(coded(3000, size=size, pitch_size=size), sample_rate=8000)
    nominal = 50 * math.log2(size) + 12.5 * math.log2(size)
    assert it.seconds == 60
    assert it.bit_rate == pytest.approx(nominal, rel=2e-3)
    assert it.bit_rate >= nominal
    header = 50 * 8  # the facts and the checksum
    assert 8 * len(to_bytes(it)) - header <= 60 * nominal * 1.01
    assert header_of(to_bytes(it), "x").bit_rate == it.bit_rate


@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 5000])
@pytest.mark.parametrize("size", [1, 2, 20, 512, 999])
def test_digits(count: int, size: int) -> None:
    codes = codes_of(size, 1, count)
    data = pack_digits(codes, size)
    assert len(data) == digit_bytes(count, size)
    assert torch.equal(unpack_digits(data, 1, count, size), codes)
    if size in (2, 512):
        assert data == pack(codes, size.bit_length() - 1), "whole bits are packed as ever"


def test_digits_refuse_what_they_cannot_hold() -> None:
    for codes in ([[20]], [[0, -1]]):
        with pytest.raises(UserInputError, match="expected codes from 0 to 19"):
            pack_digits(torch.tensor(codes), 20)
    with pytest.raises(UserInputError, match="no 3 codes below 20"):
        unpack_digits(b"\xff\xff", 1, 3, 20)


def streamed(it: CodeSequence, sizes: list[int], pitches: list[int] | None = None) -> bytes:
    """As a stream, in blocks of so many frames, pitch codes just in time or in these numbers."""
    file, first, place = io.BytesIO(), 0, 0
    writer = CodeWriter(file, Header.of(it))
    for i, codes in enumerate(it.codes.split(sizes, 1)):
        due = pitch_due(first, first + codes.shape[1], it.ratio) if pitches is None else pitches[i]
        writer.write(codes, it.pitch.codes[:, place : place + due])
        first, place = first + codes.shape[1], place + due
    writer.finish(it.samples)
    return file.getvalue()


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [4, 0, 4, 5], [3, 3, 3, 3, 1], [13, 0, 0]])
def test_a_stream_is_a_file_too(sizes: list[int]) -> None:
    it = coded(samples=160 * 13 - 50)
    data = streamed(it, sizes)
    assert_same(from_bytes(data, "x"), it)
    reader = CodeReader(io.BytesIO(data), "x")
    assert reader.header.pitch == it.pitch.format
    pushed = [block for block in reader]  # noqa: C416 - its header is known at its end
    assert reader.header.samples == it.samples
    assert torch.equal(torch.cat([block.codes for block in pushed], 1), it.codes)
    assert torch.equal(torch.cat([block.pitch for block in pushed], 1), it.pitch.codes)


@pytest.mark.parametrize("pitches", [[4, 0, 0, 0], [0, 0, 0, 4], [0, 2, 0, 2], [1, 0, 3, 0]])
def test_a_pitch_code_comes_with_the_first_frame_that_it_covers(pitches: list[int]) -> None:
    """However early or late it was written: a late one holds its frames up."""
    it = coded()
    data = streamed(it, [4, 1, 5, 3], pitches)
    assert_same(from_bytes(data, "x"), it)
    first, pitch = 0, 0
    for block in CodeReader(io.BytesIO(data), "x"):
        for piece in block.split(3):
            assert piece.first == first
            first, pitch = first + piece.codes.shape[1], pitch + piece.pitch.shape[1]
            assert pitch == -(-first // 4), "exactly the codes of the frames so far"
    assert first == 13


def test_a_stream_whose_pitch_codes_do_not_fit_its_frames_is_not_finished() -> None:
    for codes, pitch in ((13, 3), (12, 4)):
        writer, it = CodeWriter(io.BytesIO(), Header.of(coded())), coded()
        writer.write(it.codes[:, :codes], it.pitch.codes[:, :pitch])
        with pytest.raises(UserInputError, match="left over, expected a pitch code for 4 frames"):
            writer.finish(it.samples)


def test_every_changed_byte_and_every_truncation_is_noticed() -> None:
    for data in (to_bytes(coded()), streamed(coded(), [4, 3, 6])):
        damaged = [data[:n] for n in range(len(data))] + [data + b"\0"]
        for place in range(len(data)):
            for flip in (0x01, 0x04, 0x80, 0xFF):
                damaged.append(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
        for broken in damaged:
            with pytest.raises(UserInputError, match=r"^seven\.vqw: [^\n]+$"):
                from_bytes(broken, "seven.vqw")


def forge(**changed: object) -> bytes:
    """A file of version 3 with a valid checksum and any facts: 13 frames, 4 pitch codes."""
    it = {"ratio": 4, "size": 20, "books": 1, "mean": 0.4, "deviation": 0.2}
    it |= {"samples": 2080, "frames": 13, "pitch": bytes(3)} | changed
    body = VERSION_3 + b"\0" + b"".join(map(number, (8000, 160, 512, 1))) + number(2) + b"f"
    body += b"".join(number(it[key]) for key in ("ratio", "size", "books"))
    body += struct.pack("<ff", it["mean"], it["deviation"])
    body += number(it["samples"]) + number(it["frames"])
    body += it["pitch"] + pack(torch.zeros(1, 13).long(), 9)
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize(
    "changed",
    [
        {"ratio": 0},
        {"ratio": 1},
        {"ratio": 2**60},
        {"size": 0},
        {"size": 2**40},
        {"books": 0},
        {"books": 3},
        {"books": 2**50},
        {"mean": math.nan},
        {"mean": -7.5},
        {"mean": math.inf},
        {"deviation": 1e9},
        {"deviation": -0.1},
        {"samples": 2081},
        {"samples": 1920},
        {"frames": 2**50},
        {"frames": 0},
        {"pitch": b"\xff\xff\xff"},
    ],
)
def test_facts_that_do_not_fit_are_refused_in_a_line(changed: dict[str, object]) -> None:
    assert from_bytes(forge(), "x").pitch.codes.tolist() == [[0, 0, 0, 0]]
    with pytest.raises(UserInputError, match=r"^x: [^\n]{10,160}$"):
        from_bytes(forge(**changed), "x")


def test_codes_that_do_not_fit_one_another_are_refused() -> None:
    it = coded()
    with pytest.raises(UserInputError, match="pitch codes: 3 for 13 frames, expected 4: one for 4"):
        replace(it, pitch=replace(it.pitch, codes=it.pitch.codes[:, :3]))
    with pytest.raises(UserInputError, match="hop 600, expected a multiple of the frames' 160"):
        replace(it, pitch=replace(it.pitch, hop=600))
    with pytest.raises(UserInputError, match="mean nan, expected that of ln"):
        replace(it.pitch, mean=math.nan)
    with pytest.raises(UserInputError, match="unlike the header"):
        Header.of(it).pack(CodeBlock(it.codes))


def test_statistics_are_in_memory_as_in_a_file() -> None:
    assert coded().pitch.mean == struct.unpack("<f", struct.pack("<f", 0.4101))[0]


def test_cutting_and_joining() -> None:
    it = coded(13, samples=160 * 13 - 50)
    parts = [it.cut(0, 4), it.cut(4, 12), it.cut(12, 13)]
    assert [part.samples for part in parts] == [640, 1280, 110]
    assert [part.pitch.codes.shape[1] for part in parts] == [1, 2, 1]
    assert_same(join(parts), it)
    assert_same(it.cut(4, 9), from_bytes(to_bytes(it.cut(4, 9)), "x"))
    for first, last in ((2, 6), (4, 14), (8, 4)):
        with pytest.raises(UserInputError, match="the first a multiple of 4"):
            it.cut(first, last)
    with pytest.raises(UserInputError, match="expected whole frames and pitch codes"):
        join([it.cut(0, 3), it.cut(4, 8)])
    with pytest.raises(UserInputError, match="expected the same, to be joined"):
        join([it.cut(0, 4), it.cut(4, 8).as_speaker("ann")])
    plain = replace(it, pitch=None)
    assert torch.equal(join([plain.cut(0, 3), plain.cut(3, 13)]).codes, it.codes)
    assert it.as_speaker("ann").pitch is it.pitch


def test_codes_without_pitch_are_written_as_ever() -> None:
    it = replace(coded(), pitch=None)
    assert to_bytes(it)[:4] == b"VQW\x02"
    assert to_bytes(coded())[:4] == VERSION_3
    assert from_bytes(to_bytes(it), "x").pitch is None
