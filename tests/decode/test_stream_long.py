"""A stream keeps no more in ten minutes, or in an hour, than in a second, and ten thousand decodes
no more than one.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_models import stack

from vqwave.decode.sampling import Sampling
from vqwave.distributions import MixtureOfLogistics
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec

RATE, MINUTES, PIECE = 8000, 10, 25  # PIECE: frames that are pushed together
STATUS = Path("/proc/self/statm")
NETWORK = stack(16)
DECODERS = {
    "wavenet": WaveNetSpec(head=MixtureOfLogistics(components=1), network=NETWORK),
    "student": StudentSpec(flows=(2, 2), network=NETWORK),
}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def model(name: str) -> SpeechModel:
    """A codec of 12.5 frames a second; `name`: of DECODERS."""
    torch.manual_seed(0)
    conditioner = ConditionerSpec(channels=8, categorical=())
    spec = VQVAESpec(
        encoder=WaveformEncoderSpec(strides=(8, 8, 10), channels=8, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=16),
        decoder=replace(DECODERS[name], conditioner=conditioner),
    )
    card = ModelCard(sample_rate=RATE, labels={}, spec=spec, about={})
    return SpeechModel(spec.build(RATE, {}).eval(), card)


def share() -> float:
    """Of the length of the slow tests: VQWAVE_SOAK, else all."""
    return float(os.environ.get("VQWAVE_SOAK", "1"))


def objects() -> int:
    """Blocks that Python's own allocator has given out: an object takes one or more."""
    gc.collect()
    return sys.getallocatedblocks()


class Kept:
    """What the process keeps after each of some steps; the first tenth, in which buffers reach
    their size, does not count.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.warm = steps, max(1, steps // 10)
        self.memory: NDArray[np.int64] = np.zeros(steps, np.int64)  # a list would grow
        self.step = self.objects = 0

    def note(self) -> None:
        """Called after each step."""
        self.memory[self.step] = resident()
        self.step += 1
        if self.step == self.warm:
            self.objects = objects()

    def assert_flat(self) -> None:
        """Less than 4 MiB more, and fewer than an object in ten steps (500 in short tests)."""
        more, memory = objects() - self.objects, self.memory / (1 << 20)
        growth = memory[self.warm :].max() - memory[: self.warm].max()
        first, middle, last = memory[[self.warm, self.steps // 2, self.steps - 1]]
        print(f"resident MiB: {first:.1f}, {middle:.1f}, {last:.1f} (warm, middle, end)")
        print(f"{growth:+.1f} MiB at most; {more:+d} blocks of Python")
        assert self.step == self.steps
        assert growth < 4
        assert more < max(500, self.steps / 10)


pytestmark = [
    pytest.mark.skipif(
        not STATUS.exists(), reason="this system does not say how much memory a process has"
    ),
    pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed"),
]


@pytest.mark.parametrize("name", DECODERS)
def test_ten_minutes_take_no_more_memory_than_one(name: str) -> None:
    it = model(name)
    stream = it.stream(sampling=Sampling(backend="numba"))
    sizes, memory, kept = [], [], []
    pushes = MINUTES * 60 * RATE // (PIECE * it.model.hop)
    codes = torch.randint(16, (1, PIECE), generator=torch.Generator().manual_seed(0))
    for push in range(pushes):
        sizes.append(len(stream.push(codes)))
        if push % 20 == 19:
            memory.append(resident())
            state = stream.state()
            kept.append(sum(array.nbytes for array in state.arrays.values()))
    assert stream.engine.name == "numba"
    assert set(sizes[1:]) == {PIECE * it.model.hop}
    assert len(set(kept)) == 1
    assert max(memory) - memory[1] < 4 << 20


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_an_hour_is_encoded_and_decoded_at_flat_memory(name: str) -> None:
    it, rng = model(name), np.random.default_rng(0)
    encoder, decoder = it.encode_stream(), it.stream(sampling=Sampling(backend="numba"))
    samples, seconds = 0, round(3600 * share())
    kept = Kept(seconds)
    for _ in range(seconds):
        wave = rng.normal(0, 0.1, RATE).astype(np.float32)
        samples += len(decoder.push(encoder.push(wave)))
        kept.note()
    kept.assert_flat()
    samples += len(decoder.push(encoder.flush())) + len(decoder.flush())
    assert 0 <= samples - seconds * RATE < it.model.hop


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_ten_thousand_decodes_at_flat_memory(name: str) -> None:
    it = model(name)
    coded = it.encode(np.random.default_rng(0).normal(0, 0.1, 1280).astype(np.float32), RATE)
    kept = Kept(round(10_000 * share()))
    for number in range(kept.steps):
        it.decode(coded, seed=number, sampling=Sampling(backend="numba"))
        kept.note()
    kept.assert_flat()
