"""A small codec with melody, and recordings for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.models.pitch import PitchCodecSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec

RATE = 8000
MEL = LogMelSpec(bands=16)
SPEC = VQVAESpec(
    encoder=FrameEncoderSpec(features=MEL, channels=12, latent_dim=6),
    quantizer=EMAQuantizerSpec(codebook_size=8),
    melody=PitchCodecSpec(channels=8, latent_dim=4, quantizer=EMAQuantizerSpec(codebook_size=5)),
    spectral_decoder=SpectralDecoderSpec(features=MEL, channels=12),
    decoder_input="spectrogram",
    decoder=WaveNetSpec(
        network=StackSpec(
            layers=2,
            dilation_cycle=2,
            residual_channels=8,
            gate_channels=8,
            skip_channels=8,
            hidden_channels=8,
        ),
        conditioner=ConditionerSpec(channels=6),
    ),
)


@pytest.fixture(scope="session")
def model() -> SpeechModel:
    """Two trained voices, `low` and `high`, and one without recordings."""
    torch.manual_seed(0)
    labels = {"speaker": ["low", "high", "never"]}
    network = SPEC.build(RATE, labels)
    for part in network.modules():
        if hasattr(part, "started"):
            part.started.fill_(True)
    network.melody.voices.copy_(torch.tensor([(0.2, 0.1), (0.9, 0.2), (0.4, 0.2)]))
    about = {"untrained_labels": {"speaker": ["never"]}}
    card = ModelCard(sample_rate=RATE, labels=labels, spec=SPEC, about=about)
    return SpeechModel(network.eval(), card)


@pytest.fixture(scope="session")
def model_folder(model: SpeechModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on disk."""
    folder = tmp_path_factory.mktemp("models") / "small"
    save_trained(folder, model.model, model.card)
    return folder


def buzz(seconds: float, f0: float = 140.0) -> np.ndarray:
    """A wave like a voice: twelve harmonics, its F0 rising by a fifth."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.5 * t / seconds)) / RATE
    return 0.1 * sum(np.cos(k * phase) / k for k in range(1, 13)).astype(np.float32)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV of 0.73 s: 37 frames, the last of half a hop, and ten pitch codes."""
    path = tmp_path_factory.mktemp("recordings") / "rising.wav"
    soundfile.write(path, buzz(0.73), RATE)
    return path


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, of 0.5 s and a higher voice."""
    path = tmp_path_factory.mktemp("recordings") / "higher.wav"
    soundfile.write(path, buzz(0.5, 220.0), RATE)
    return path


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 0.1 s, for what is decoded slowly."""
    path = tmp_path_factory.mktemp("recordings") / "brief.wav"
    soundfile.write(path, buzz(0.1), RATE)
    return path
