"""`.vqw` files of older releases: they are read, and written as they were where nothing is new."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

import vqwave
from vqwave.codes import CodeSequence, CodeWriter, Header, from_bytes, to_bytes

SEVEN = [
    115,
    243,
    8,
    *[224] * 5,
    81,
    101,
    236,
    168,
    168,
    168,
    75,
    168,
    77,
    97,
    77,
    197,
    70,
    70,
    105,
]
FACTS = "c03ea00180020111702be3deefada056087468656f"  # of the shipped fsdd, theo
PACKED = "73f308e0e0e0e0e05165eca8a8a84ba84d614dc5464669"
VERSION_1 = (
    "565157017e0000007b2273616d706c655f72617465223a20383030302c2022686f70223a203136302c202273616d706c6573223a203332302c20"
    "2273697a65223a203235362c202266696e6765727072696e74223a202266222c2022737065616b6572223a20227468656f222c2022626f6f6b73"
    "223a20312c20226672616d6573223a20327d01c8bb2470a2"
)
VERSION_2 = f"5651570201{FACTS}e01c17{PACKED}1c4a8b37"
STREAMED = (
    f"5651570205{FACTS}248d0b4d" + "0773f308e0e0e0e01937a1ce" + "07e05165eca8a8a846990385"
    "074ba84d614dc5461a041dc4" + "024669bcb3537800dd1c36c4182e"
)
WITH_PRIOR = (
    "5651570303c03ea001800201118b27673c65f0d254087468656f041b010060ad3e00405f3e801914112573aa"
    "50eb571de385763b14ed2aa8506b2f022fad88bf3e5866f3a7757c2410"
)


def seven(samples: int = 3680) -> CodeSequence:
    return CodeSequence(torch.tensor([SEVEN]), 8000, 160, samples, 256, "702be3deefada056", "theo")


def test_version_1() -> None:
    it = from_bytes(bytes.fromhex(VERSION_1), "x")
    assert it.codes.tolist() == [[1, 200]]
    assert (it.sample_rate, it.hop, it.samples, it.size) == (8000, 160, 320, 256)
    assert (it.speaker, it.pitch) == ("theo", None)


def test_version_2() -> None:
    it = from_bytes(bytes.fromhex(VERSION_2), "x")
    assert torch.equal(it.codes, seven().codes)
    assert Header.of(it) == Header.of(seven())
    assert to_bytes(it).hex() == VERSION_2


def test_a_stream_of_version_2() -> None:
    it = from_bytes(bytes.fromhex(STREAMED), "x")
    assert torch.equal(it.codes, seven().codes)
    assert Header.of(it) == Header.of(seven(3677))
    file = io.BytesIO()
    writer = CodeWriter(file, replace(Header.of(it), samples=0, frames=0))
    for codes in it.codes.split(7, 1):
        writer.write(codes)
    writer.finish(it.samples)
    assert file.getvalue().hex() == STREAMED


def test_a_file_that_the_shipped_prior_coded() -> None:
    pytest.importorskip("constriction")
    prior = vqwave.load("fsdd-prior").prior
    assert prior.fingerprint == "2573aa50eb571de3"
    it = from_bytes(bytes.fromhex(WITH_PRIOR), "x", prior)
    assert it.codes.tolist() == [
        [
            238,
            22,
            208,
            248,
            160,
            66,
            44,
            110,
            166,
            157,
            86,
            36,
            166,
            157,
            73,
            107,
            118,
            118,
            118,
            28,
        ]
    ]
    assert it.pitch.codes.tolist() == [[2, 12, 15, 12, 6]]
    assert to_bytes(it, prior).hex() == WITH_PRIOR
