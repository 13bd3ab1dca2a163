"""Slices: the same part of the waveform and of its frames, inside what is speech, drawn alike
whatever the machine.
"""

from __future__ import annotations

import torch

from vqwave.data import Batch
from vqwave.nn.random_segments import sliced

HOP, CLIPS, RATIO = 4, 6, 2


def batch() -> tuple[Batch, torch.Tensor]:
    """Three clips of six frames, of which 24, 10 and 3 samples are speech; each sample and each
    frame says where it stands.
    """
    lengths = torch.tensor([24, 10, 3])
    place = torch.arange(HOP * CLIPS)
    wave = torch.where(place < lengths[:, None], 1.0 + place, torch.zeros(()))
    frames = torch.arange(RATIO * CLIPS).expand(3, 2, -1).float()
    return Batch(wave, lengths, {"speaker": torch.arange(3)}, torch.arange(3)), frames


def test_wave_and_frames_are_of_one_place_inside_the_speech() -> None:
    whole, frames = batch()
    starts = set()
    for seed in range(60):
        torch.manual_seed(seed)
        part, segment = sliced(whole, frames, 2 * HOP, HOP)
        assert part.wave.shape == (3, 2 * HOP)
        assert segment.shape == (3, 2, 2 * RATIO)
        first = segment[:, 0, 0].long() // RATIO  # the frame in which each slice begins
        starts |= {(clip, int(start)) for clip, start in enumerate(first)}
        for x, length, start, all_of_it, all_length in zip(
            part.wave, part.lengths, first, whole.wave, whole.lengths, strict=True
        ):
            assert torch.equal(x, all_of_it[HOP * start : HOP * (start + 2)])
            assert length == min(2 * HOP, all_length - HOP * start) > 0
        assert torch.equal(segment[0, 0], segment[0, 0, 0] + torch.arange(2 * RATIO))
    assert starts == {(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 1), (2, 0)}


def test_a_slice_is_a_frame_at_the_least_and_the_clip_at_the_most() -> None:
    whole, frames = batch()
    assert sliced(whole, frames, 0.4, HOP)[0].wave.shape == (3, HOP)
    part, segment = sliced(whole, frames, 1000.0, HOP)
    assert torch.equal(part.wave, whole.wave)
    assert torch.equal(segment, frames)
