"""A stream of ten minutes keeps no more than one of a second."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from vqwave.decode.sampling import Sampling
from vqwave.distributions import MixtureOfLogistics
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec

RATE, MINUTES, PIECE = 8000, 10, 25  # PIECE: frames that are pushed together
STATUS = Path("/proc/self/statm")
NETWORK = StackSpec(
    layers=2,
    dilation_cycle=2,
    residual_channels=16,
    gate_channels=16,
    skip_channels=16,
    hidden_channels=16,
)
DECODERS = {
    "wavenet": WaveNetSpec(head=MixtureOfLogistics(components=1), network=NETWORK),
    "student": StudentSpec(flows=(2, 2), network=NETWORK),
}


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(
    not STATUS.exists(), reason="this system does not say how much memory a process has"
)
@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.parametrize("name", DECODERS)
def test_ten_minutes_take_no_more_memory_than_one(name: str) -> None:
    torch.manual_seed(0)
    decoder = DECODERS[name]
    spec = VQVAESpec(
        encoder=WaveformEncoderSpec(strides=(8, 8, 10), channels=8, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=16),
        decoder=type(decoder)(
            **{**vars(decoder), "conditioner": ConditionerSpec(channels=8, categorical=())}
        ),
    )
    it = SpeechModel(
        spec.build(RATE, {}).eval(), ModelCard(sample_rate=RATE, labels={}, spec=spec, about={})
    )
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
