"""A small codec with melody, and recordings for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch
from small_models import MELODY, RATE, rising_voice, start_codebooks

from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.inference.speech_model import SpeechModel


@pytest.fixture(scope="session")
def model() -> SpeechModel:
    """Two trained voices, `low` and `high`, and one without recordings."""
    torch.manual_seed(0)
    labels = {"speaker": ["low", "high", "never"]}
    network = MELODY.build(RATE, labels)
    start_codebooks(network)
    network.melody.voices.copy_(torch.tensor([(0.2, 0.1), (0.9, 0.2), (0.4, 0.2)]))
    about = {"untrained_labels": {"speaker": ["never"]}}
    card = ModelCard(sample_rate=RATE, labels=labels, spec=MELODY, about=about)
    return SpeechModel(network.eval(), card)


@pytest.fixture(scope="session")
def model_folder(model: SpeechModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on disk."""
    folder = tmp_path_factory.mktemp("models") / "small"
    save_trained(folder, model.model, model.card)
    return folder


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV of 0.73 s: 37 frames, the last of half a hop, and ten pitch codes."""
    path = tmp_path_factory.mktemp("recordings") / "rising.wav"
    soundfile.write(path, rising_voice(0.73), RATE)
    return path


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, of 0.5 s and a higher voice."""
    path = tmp_path_factory.mktemp("recordings") / "higher.wav"
    soundfile.write(path, rising_voice(0.5, 220.0), RATE)
    return path


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 0.1 s, for what is decoded slowly."""
    path = tmp_path_factory.mktemp("recordings") / "brief.wav"
    soundfile.write(path, rising_voice(0.1), RATE)
    return path
