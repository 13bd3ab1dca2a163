"""Models of a few weights, as several tests need them: their settings, and how they are saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vqwave.distributions import MixtureOfLogistics
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.models import ModelSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.models.pitch import PitchCodecSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec

RATE = 8000


def stack(channels: int, layers: int = 2, **changes: int) -> StackSpec:
    """A stack all of whose widths are the same, but for `changes`."""
    sizes = {
        "layers": layers,
        "dilation_cycle": layers,
        "residual_channels": channels,
        "gate_channels": channels,
        "skip_channels": channels,
        "hidden_channels": channels,
    }
    return StackSpec(**sizes | changes)


STACK = stack(4)
CONDITIONER = ConditionerSpec(channels=4)
WAVENET = WaveNetSpec(head=MixtureOfLogistics(components=2), network=STACK, conditioner=CONDITIONER)
VQVAE = VQVAESpec(
    encoder=FrameEncoderSpec(features=LogMelSpec(bands=8, fmax=4000), channels=8, latent_dim=4),
    quantizer=EMAQuantizerSpec(codebook_size=8),
    decoder=WAVENET,
)
STUDENT = replace(
    VQVAE,
    decoder=StudentSpec(flows=(2,), network=stack(4, skip_channels=0), conditioner=CONDITIONER),
)

MEL = LogMelSpec(bands=16)
MELODY = VQVAESpec(  # predicts spectra, on which its decoder is conditioned, and has a melody
    encoder=FrameEncoderSpec(features=MEL, channels=12, latent_dim=6),
    quantizer=EMAQuantizerSpec(codebook_size=8),
    melody=PitchCodecSpec(channels=8, latent_dim=4, quantizer=EMAQuantizerSpec(codebook_size=5)),
    spectral_decoder=SpectralDecoderSpec(features=MEL, channels=12),
    decoder_input="spectrogram",
    decoder=WaveNetSpec(network=stack(8), conditioner=ConditionerSpec(channels=6)),
)

WIDE = LogMelSpec(bands=16, fmax=4000.0)
SPECTRAL = VQVAESpec(  # the same without a melody, for evaluations
    encoder=FrameEncoderSpec(features=WIDE, channels=8, latent_dim=4),
    quantizer=EMAQuantizerSpec(codebook_size=8),
    spectral_decoder=SpectralDecoderSpec(features=WIDE, channels=8),
    decoder_input="spectrogram",
    decoder=replace(WAVENET, conditioner=ConditionerSpec(channels=4, categorical=("speaker",))),
)
ABOUT = {"steps": 1, "seconds": 1.0, "corpus": "buzz", "seed": 0, "hop": 160, "bit_rate": 150.0}


def saved(
    folder: Path,
    spec: ModelSpec,
    labels: Mapping[str, Sequence[str]],
    *,
    about: Mapping[str, Any] = ABOUT,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """A model folder with random weights, and `weights` where names agree, so that two models share
    a codec.
    """
    names = {name: list(values) for name, values in labels.items()}
    card = ModelCard(sample_rate=RATE, labels=names, spec=spec, about=dict(about))
    torch.manual_seed(0)
    model = card.build()
    model.load_state_dict(weights or {}, strict=False)
    save_trained(folder, model, card)
    return folder


def codec_weights(folder: Path) -> dict[str, Tensor]:
    """Those of a saved model's encoder and quantizer, by which a student reads its codes."""
    weights = load_file(folder / "model.safetensors")
    return {k: v for k, v in weights.items() if k.startswith(("encoder.", "quantizer."))}


def start_codebooks(model: nn.Module) -> None:
    """As if codes had been placed among latents, without which a codebook waits for some."""
    for part in model.modules():
        if hasattr(part, "started"):
            part.started.fill_(True)


def rising_voice(seconds: float = 1.0, f0: float = 140.0) -> np.ndarray:
    """Twelve harmonics whose F0 in Hz rises by a fifth, (T,)."""
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(f0 * (1 + 0.5 * t / seconds)) / RATE
    return 0.1 * sum(np.cos(k * phase) / k for k in range(1, 13)).astype(np.float32)
