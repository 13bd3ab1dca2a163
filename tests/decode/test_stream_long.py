"""A stream keeps no more in ten minutes, or in an hour, than in a second, and ten thousand decodes
no more than one.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
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


def grown(memory: list[int]) -> float:
    """MiB beyond the first tenth, in which buffers reach their size."""
    warm = max(1, len(memory) // 10)
    growth = (max(memory[warm:]) - max(memory[:warm])) / (1 << 20)
    places = (warm, len(memory) // 2, len(memory) - 1)
    first, middle, last = (f"{memory[place] / (1 << 20):.1f}" for place in places)
    print(f"resident MiB: {first}, {middle}, {last} (warm, middle, end); {growth:+.1f} at most")
    return growth


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
    memory, samples, seconds = [], 0, round(3600 * share())
    for _ in range(seconds):
        wave = rng.normal(0, 0.1, RATE).astype(np.float32)
        samples += len(decoder.push(encoder.push(wave)))
        memory.append(resident())
    samples += len(decoder.push(encoder.flush())) + len(decoder.flush())
    assert 0 <= samples - seconds * RATE < it.model.hop
    assert grown(memory) < 4


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_ten_thousand_decodes_at_flat_memory(name: str) -> None:
    it = model(name)
    coded = it.encode(np.random.default_rng(0).normal(0, 0.1, 1280).astype(np.float32), RATE)
    memory = []
    for number in range(round(10_000 * share())):
        it.decode(coded, seed=number, sampling=Sampling(backend="numba"))
        memory.append(resident())
    assert grown(memory) < 4
