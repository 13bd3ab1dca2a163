"""Codecs of a few weights, and codes of one."""

from __future__ import annotations

from functools import cache

import torch

from vqwave.codes import CodeSequence
from vqwave.distributions import MuLaw
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.models import StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec

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
    "speaks": True,
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
