"""Codebook use: counts without padding, by speaker; perplexity; nominal and entropy rates."""

from __future__ import annotations

import math

import pytest
import torch

from vqwave.evaluation.codes import Use
from vqwave.metrics.codebook import CodeCounts
from vqwave.nn.quantize import EMAQuantizerSpec, HierarchicalQuantizerSpec


def test_counts_leave_padding_out_and_know_the_speaker() -> None:
    counts = CodeCounts(books=1, size=4, speakers=["a", "b"])
    codes = torch.tensor([[[0, 0, 1]], [[3, 3, 2]], [[1, 1, 1]]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]]).bool()
    counts.add(codes, mask, torch.tensor([1, 0, 1]))
    section = counts.section(frame_rate=50)
    assert section["counts"] == [[2, 3, 0, 1]]
    assert section["by_speaker"] == {"a": [0, 0, 0, 1], "b": [2, 3, 0, 0]}
    assert section["used"] == 3


@pytest.mark.parametrize("speakers", [[], ["a", "b"]])
def test_without_speakers_all_goes_to_one_row(speakers: list[str]) -> None:
    counts = CodeCounts(books=1, size=2, speakers=speakers)
    counts.add(
        torch.tensor([[[0, 1, 1]]]),
        torch.ones(1, 3, dtype=torch.bool),
        None if not speakers else torch.tensor([1]),
    )
    assert counts.section(1.0)["counts"] == [[1, 2]]


def test_rates_of_known_streams() -> None:
    """Two books: one uses 4 codes alike (2 bits), the other one code alone (0 bits)."""
    counts = CodeCounts(books=2, size=8, speakers=["a"])
    codes = torch.stack([torch.arange(400) % 4, torch.full((400,), 5)])[None]
    for _ in range(3):  # batches add up
        counts.add(codes, torch.ones(1, 400, dtype=torch.bool), torch.tensor([0]))
    section = counts.section(frame_rate=25)
    assert (section["books"], section["size"]) == (2, 8)
    assert section["bit_rate"] == 25 * 2 * 3
    assert section["entropy_rate"] == pytest.approx(25 * 2)
    assert section["perplexity"] == pytest.approx((4 + 1) / 2)
    assert section["used"] == 5
    assert sum(section["counts"][0]) == 1200


def test_a_code_that_is_held_counts_once() -> None:
    """A two-level quantizer's slow codes, here even over 4, each for 4 frames: half a bit a frame;
    the fast ones are even over 2.
    """
    quantizer = HierarchicalQuantizerSpec(
        top=EMAQuantizerSpec(codebook_size=64),
        bottom=EMAQuantizerSpec(codebook_size=64),
        downsample=4,
    ).build(8)
    counts = CodeCounts(2, 64, [], quantizer.codes_per_frame)
    slow = (torch.arange(400) % 4).repeat_interleave(4)
    codes = torch.stack([slow, torch.arange(1600) % 2])[None]
    counts.add(codes, torch.ones(1, 1600, dtype=torch.bool), None)
    section = counts.section(50)
    assert section["bit_rate"] == 50 * quantizer.bits_per_frame == 50 * (6 / 4 + 6)
    assert section["entropy_rate"] == pytest.approx(50 * (2 / 4 + 1))
    use = Use.of("codes", "", [codes[0]], quantizer)
    assert use.bits(use.sums) == pytest.approx(1600 * (2 / 4 + 1))


def test_entropy_rate_of_an_uneven_stream() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    counts = CodeCounts(books=1, size=4, speakers=[])
    counts.add(
        torch.repeat_interleave(torch.arange(4), (800 * p).long())[None, None],
        torch.ones(1, 800, dtype=torch.bool),
        None,
    )
    assert counts.section(100)["entropy_rate"] == pytest.approx(175)
    assert counts.section(100)["perplexity"] == pytest.approx(math.exp(1.75 * math.log(2)))
