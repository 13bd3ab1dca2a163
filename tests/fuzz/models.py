"""Codecs of a few weights, and codes of one."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from vqwave.codes import CodeSequence
from vqwave.data.speaker_vectors import NAME, SpeakerVectors, Whitening
from vqwave.distributions import MuLaw
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.models.pitch import PitchCodecSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec, WaveformEncoderSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.speaker_encoder import SIZE, unit

LABELS = {"speaker": ["ann", "bob"]}
RATE, HOP = 8000, 16


STACK = StackSpec(
    layers=3,
    dilation_cycle=3,
    residual_channels=4,
    gate_channels=4,
    skip_channels=4,
    hidden_channels=4,
)
CONDITIONER = ConditionerSpec(channels=4)
DECODERS = {
    "wavenet": WaveNetSpec(network=STACK, conditioner=CONDITIONER),
    "classes": WaveNetSpec(network=STACK, conditioner=CONDITIONER, head=MuLaw()),
    "student": StudentSpec(flows=(2, 2), network=STACK, conditioner=CONDITIONER),
    "folded student": StudentSpec(
        flows=(2, 2), network=STACK, conditioner=CONDITIONER, squeeze=4, stagger_blocks=True
    ),
}
ABOUT = {
    "corpus": "x",
    "decoder_trained": True,
    "level_db": -23.0,
    "steps": 3,
    "seconds": 1.5,
    "seed": 0,
}


@cache
def model(decoder: str = "wavenet") -> SpeechModel:
    """A codec of a few weights; `decoder`: of DECODERS."""
    torch.manual_seed(0)
    spec = VQVAESpec(
        encoder=WaveformEncoderSpec(strides=(4, 4), channels=4, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=16),
        decoder=DECODERS[decoder],
    )
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=spec, about=ABOUT)
    return SpeechModel(spec.build(RATE, LABELS).eval(), card)


def coded() -> CodeSequence:
    codes = torch.arange(9)[None] % 16
    return CodeSequence(codes, RATE, HOP, 9 * HOP - 3, 16, model().fingerprint, "ann")


MEL = LogMelSpec(bands=8, fmax=4000.0)
SINGER = VQVAESpec(
    encoder=FrameEncoderSpec(features=MEL, channels=4, latent_dim=4),
    quantizer=EMAQuantizerSpec(codebook_size=16),
    melody=PitchCodecSpec(channels=4, latent_dim=4, quantizer=EMAQuantizerSpec(codebook_size=5)),
    spectral_decoder=SpectralDecoderSpec(features=MEL, channels=4),
    decoder_input="spectrogram",
    decoder=StudentSpec(
        flows=(2, 2),
        network=STACK,
        squeeze=4,
        stagger_blocks=True,
        harmonic_source=True,
        predictor=LinearPredictorSpec(order=4),
        pitch_taps=3,
        conditioner=ConditionerSpec(channels=4, categorical=(), embeddings={NAME: SIZE}),
    ),
)


@cache
def singer() -> SpeechModel:
    """A codec with a melody, and a student with a harmonic source, of voices by their vectors."""
    torch.manual_seed(0)
    card = ModelCard(sample_rate=RATE, labels=LABELS, spec=SINGER, about=ABOUT)
    rng = np.random.default_rng(0)
    rows = np.stack([unit(row) for row in rng.standard_normal((2, SIZE))])
    whitening = Whitening(rows.mean(0), np.eye(SIZE))
    voices = SpeakerVectors(("ann", "bob"), rows, whitening)
    return SpeechModel(SINGER.build(RATE, LABELS).eval(), card, voices=voices)


@cache
def sung() -> CodeSequence:
    """A quarter of a second."""
    time = np.arange(RATE // 4) / RATE
    return singer().encode(np.sin(2 * np.pi * 150 * time).astype(np.float32) / 4, speaker="ann")
