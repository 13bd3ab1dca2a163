"""`.vqw` files: whole round trips, and nothing damaged, truncated, foreign or forged gets
through.
"""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vqwave.codes import (
    VERSION_1,
    CodeReader,
    CodeSequence,
    CodeWriter,
    Header,
    file_format,
    from_bytes,
    load_codes,
    pack,
    save_codes,
    stream_format,
    to_bytes,
    unpack,
)
from vqwave.errors import UserInputError


def coded(
    size: int = 256, books: int = 1, frames: int = 9, speaker: str | None = "theo"
) -> CodeSequence:
    codes = torch.randint(
        size, (books, frames), generator=torch.Generator().manual_seed(size + frames)
    )
    if codes.numel():
        codes.view(-1)[-1] = size - 1
    return CodeSequence(
        codes,
        sample_rate=8000,
        hop=160,
        samples=160 * frames,
        size=size,
        fingerprint="0123abcd",
        speaker=speaker,
    )


def assert_same(a: CodeSequence, b: CodeSequence) -> None:
    assert {k: v for k, v in vars(a).items() if k != "codes"} == {
        k: v for k, v in vars(b).items() if k != "codes"
    }
    assert a.codes.dtype == b.codes.dtype == torch.int64
    assert torch.equal(a.codes, b.codes)


@pytest.mark.parametrize("size", [1, 2, 3, 8, 255, 256, 257, 1000, 4096, 65535, 65536])
@pytest.mark.parametrize("books", [1, 3])
@pytest.mark.parametrize("frames", [0, 1, 7, 40])
def test_round_trip(size: int, books: int, frames: int) -> None:
    it = coded(size, books, frames)
    assert_same(from_bytes(to_bytes(it), "x.vqw"), it)


@pytest.mark.parametrize("bits", range(1, 17))
def test_codes_are_packed_to_the_bit(bits: int) -> None:
    codes = torch.randint(2**bits, (2, 11), generator=torch.Generator().manual_seed(bits))
    data = pack(codes, bits)
    assert len(data) == -(-22 * bits // 8)
    assert torch.equal(unpack(data, 2, 11, bits), codes)
    # frame by frame, lowest bit first
    whole = sum(int(code) << (bits * i) for i, code in enumerate(codes.t().flatten()))
    assert int.from_bytes(data, "little") == whole


def test_the_header_costs_what_it_says() -> None:
    it = coded(512, 1, 1000)
    assert it.bits_per_code == 9
    assert it.seconds == 20
    assert it.bit_rate == 450
    assert it.as_speaker("jackson").speaker == "jackson"
    assert len(to_bytes(it)) < 1000 * 9 / 8 + 40


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "seven.vqw"
    save_codes(path, coded())
    save_codes(path, coded(speaker=None))
    assert_same(load_codes(path), coded(speaker=None))
    assert [p.name for p in tmp_path.iterdir()] == ["seven.vqw"]  # nothing half written is left


def test_codes_made_without_gradients_can_be_saved(tmp_path: Path) -> None:
    with torch.inference_mode():
        it = coded()
    save_codes(tmp_path / "a.vqw", it)
    assert_same(load_codes(tmp_path / "a.vqw"), it)


def test_every_changed_byte_is_noticed() -> None:
    data = to_bytes(coded())
    for place in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(UserInputError, match=r"^seven\.vqw: [^\n]+$"):
                from_bytes(bytes(damaged), "seven.vqw")


def test_every_truncation_and_extension_is_noticed() -> None:
    data = to_bytes(coded())
    for damaged in (
        [data[:n] for n in range(len(data))]
        + [data[n:] for n in range(1, len(data))]
        + [data + b"\0", data + data]
    ):
        with pytest.raises(UserInputError, match=r"^seven\.vqw: [^\n]+$"):
            from_bytes(damaged, "seven.vqw")


def forge(codes: Tensor, **header: object) -> bytes:
    """A file of version 1 with a valid checksum and any header."""
    it = coded()
    full = {
        "sample_rate": 8000,
        "hop": 160,
        "samples": 320,
        "size": 256,
        "fingerprint": "f",
        "speaker": None,
    }
    text = json.dumps(full | {"books": 1, "frames": codes.shape[1]} | header).encode()
    body = VERSION_1 + struct.pack("<I", len(text)) + text + pack(codes, it.bits_per_code)
    return body + struct.pack("<I", zlib.crc32(body))


@pytest.mark.parametrize(
    "header",
    [
        {"frames": 10_000_000_000},
        {"frames": 1},
        {"frames": -2},
        {"books": -1},
        {"books": 0},
        {"books": "two"},
        {"size": None},
        {"size": 3},
        {"more": 1},
    ],
)
def test_a_header_that_does_not_fit_its_codes_is_refused(header: dict[str, object]) -> None:
    codes = torch.tensor([[1, 200]])
    assert torch.equal(from_bytes(forge(codes), "x").codes, codes)
    with pytest.raises(UserInputError, match=r"^x: [^\n]+$"):
        from_bytes(forge(codes, **header), "x")


def test_a_header_that_is_no_mapping_is_refused() -> None:
    for text in (b"[1]", b"7", b"\xff\xfe", b"{"):
        body = VERSION_1 + struct.pack("<I", len(text)) + text
        with pytest.raises(UserInputError, match="header cannot be read"):
            from_bytes(body + struct.pack("<I", zlib.crc32(body)), "x")


def test_other_versions_and_other_files_are_named() -> None:
    data = to_bytes(coded())
    with pytest.raises(UserInputError, match="version 4, expected 1 to 3"):
        from_bytes(data[:3] + b"\x04" + data[4:], "x.vqw")
    with pytest.raises(UserInputError, match=r"not a \.vqw file"):
        from_bytes(b"RIFF....WAVE", "x.vqw")


def test_paths_that_do_not_work_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.vqw", tmp_path):
        with pytest.raises(UserInputError, match=str(path)):
            load_codes(path)
    for path in (tmp_path / "none" / "a.vqw", tmp_path):
        with pytest.raises(UserInputError, match=str(path)):
            save_codes(path, coded())
    assert list(tmp_path.iterdir()) == []


def streamed(it: CodeSequence, sizes: list[int]) -> bytes:
    """The same codes as a stream, in blocks of these numbers of frames."""
    file = io.BytesIO()
    writer = CodeWriter(file, Header.of(it))
    for codes in it.codes.split(sizes, 1):
        writer.write(codes)
    writer.finish(it.samples)
    return file.getvalue()


@pytest.mark.parametrize("sizes", [[9], [1] * 9, [4, 0, 5]])
def test_a_stream_is_a_file_too(sizes: list[int], tmp_path: Path) -> None:
    it = replace(coded(), samples=160 * 9 - 50)
    data = streamed(it, sizes)
    assert_same(from_bytes(data, "x"), it)
    reader = CodeReader(io.BytesIO(data), "x")
    assert reader.header.speaker == "theo"
    assert torch.equal(torch.cat([block.codes for block in reader], 1), it.codes)
    assert reader.header.samples == it.samples
    assert_same(from_bytes(streamed(coded(frames=0), [0]), "x"), coded(frames=0))


def test_a_block_may_be_longer_than_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_format, "LONGEST_BLOCK", 4)
    monkeypatch.setattr(file_format, "LONGEST_BLOCK", 4)
    it = coded()
    assert_same(from_bytes(streamed(it, [9]), "x"), it)


def test_every_changed_byte_of_a_stream_is_noticed() -> None:
    data = streamed(coded(), [4, 5])
    for place in range(len(data)):
        for flip in (0x01, 0x04, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(UserInputError, match=r"^seven\.vqw: [^\n]+$"):
                list(CodeReader(io.BytesIO(bytes(damaged)), "seven.vqw"))
    for damaged in [data[:n] for n in range(len(data))] + [data + b"\0"]:
        with pytest.raises(UserInputError):
            from_bytes(damaged, "seven.vqw")


def test_blocks_of_a_stream_can_neither_be_left_out_nor_exchanged() -> None:
    it, head = coded(frames=12), len(streamed(coded(frames=0), [0])) - 6
    data = streamed(it, [4, 4, 4])
    size = (len(data) - head - 7) // 3
    blocks = [data[head + i * size : head + (i + 1) * size] for i in range(3)]
    assert data == data[:head] + b"".join(blocks) + data[head + 3 * size :]
    for order in ([0, 2], [1, 0, 2], [0, 1, 1, 2]):
        with pytest.raises(UserInputError, match="truncated or damaged"):
            from_bytes(
                data[:head] + b"".join(blocks[i] for i in order) + data[head + 3 * size :], "x"
            )


def test_a_block_goes_out_as_soon_as_it_is_written() -> None:
    it, (out, into) = coded(), os.pipe()
    with os.fdopen(out, "rb") as source, os.fdopen(into, "wb") as target:
        writer = CodeWriter(target, Header.of(it))
        reader = CodeReader(source, "x")
        blocks = iter(reader)
        for codes in it.codes.split(2, 1):
            writer.write(codes)
            assert torch.equal(next(blocks).codes, codes)
        target.close()
        with pytest.raises(UserInputError, match="truncated"):
            next(blocks)


def test_whole_files_of_both_versions_come_through_a_pipe() -> None:
    for data in (to_bytes(coded()), forge(coded(frames=2).codes)):
        reader = CodeReader(io.BytesIO(data), "x")
        assert torch.equal(next(iter(reader)).codes, from_bytes(data, "x").codes)
        assert reader.header.samples == from_bytes(data, "x").samples
    with pytest.raises(UserInputError, match="empty"):
        CodeReader(io.BytesIO(b""), "x")
