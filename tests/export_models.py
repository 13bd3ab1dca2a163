"""Models that are exported: decoders of every kind, and how they are saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vqwave.distributions import Gaussian
from vqwave.features import LogMelSpec
from vqwave.inference.model_folder import ModelCard, save_trained
from vqwave.models import ModelSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.models.melody import Melody
from vqwave.models.pitch import PitchCodecSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import EncoderSpec, FrameEncoderSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    FSQuantizerSpec,
    HierarchicalQuantizerSpec,
    ProductQuantizerSpec,
    ResidualQuantizerSpec,
)
from vqwave.nn.quantize.base import Quantizer
from vqwave.nn.wavenet import StackSpec

LABELS = {"speaker": ["a", "b", "c"], "gender": ["f", "m"]}
SIZES = StackSpec(
    layers=1,
    dilation_cycle=3,
    kernel_size=3,
    residual_channels=8,
    gate_channels=6,
    skip_channels=0,
    hidden_channels=7,
)
MEL = LogMelSpec(bands=6, window_ms=8.0, hop_ms=1.0, fmin=200.0, fmax=4000.0)
CONDITIONER = ConditionerSpec(channels=4, categorical=("speaker", "gender"), embeddings={"face": 3})
STUDENT = StudentSpec(flows=(2, 4), network=SIZES, conditioner=CONDITIONER, initial_scale=0.5)
ENCODER = FrameEncoderSpec(features=MEL, channels=6, latent_dim=4)
QUANTIZER = EMAQuantizerSpec(codebook_size=5)


def of(
    student: StudentSpec = STUDENT, quantizer: object = QUANTIZER, encoder: EncoderSpec = ENCODER
) -> VQVAESpec:
    return VQVAESpec(encoder=encoder, quantizer=quantizer, decoder=student)


SPECTRAL_DECODER = SpectralDecoderSpec(features=MEL, channels=6)


def changed(**settings: object) -> StudentSpec:
    return StudentSpec(**{**vars(STUDENT), **settings})


SLOW_MEL = LogMelSpec(bands=6, window_ms=20.0, hop_ms=10.0)  # a frame for each of pitch
SLOW_ENCODER = FrameEncoderSpec(features=SLOW_MEL, channels=6, latent_dim=4)
MELODY = PitchCodecSpec(downsample=4, channels=8, latent_dim=4, quantizer=QUANTIZER)


def predicted(
    features: LogMelSpec, decoder_input: str = "spectrogram", **settings: object
) -> VQVAESpec:
    """A student with a predictor, whose filter has a gain."""
    return VQVAESpec(
        encoder=ENCODER,
        quantizer=QUANTIZER,
        decoder=changed(
            **{"predictor": LinearPredictorSpec(order=4), "initial_scale": 0.1} | settings
        ),
        spectral_decoder=SpectralDecoderSpec(features=features, channels=6),
        decoder_input=decoder_input,
    )


DECODERS: dict[str, ModelSpec] = {
    "plain": of(),
    "gaussian, folded, staggered": of(
        changed(base="gaussian", squeeze=4, stagger_blocks=True, flows=(1, 2, 3))
    ),
    "folded": of(changed(squeeze=2)),
    "upsampled": of(
        changed(conditioner=ConditionerSpec(channels=4, categorical=(), upsample=(2, 4)))
    ),
    "frames heard": VQVAESpec(
        encoder=ENCODER,
        quantizer=QUANTIZER,
        decoder=STUDENT,
        spectral_decoder=SPECTRAL_DECODER,
        decoder_input="spectrogram",
    ),
    "both heard": VQVAESpec(
        encoder=ENCODER,
        quantizer=QUANTIZER,
        decoder=STUDENT,
        spectral_decoder=SPECTRAL_DECODER,
        decoder_input="both",
    ),
    "fsq": of(quantizer=FSQuantizerSpec()),
    "residual": of(quantizer=ResidualQuantizerSpec(quantizer=QUANTIZER)),
    "product": of(quantizer=ProductQuantizerSpec(quantizer=QUANTIZER)),
    "vocoder": changed(features=MEL, location_scale=0.25),
    "labels alone": changed(squeeze=2, stagger_blocks=True),
    "prediction": predicted(MEL, squeeze=2, stagger_blocks=True),
    "interpolated prediction": predicted(
        MEL,
        decoder_input="both",
        conditioner=ConditionerSpec(channels=4, upsample=(2,)),
        predictor=LinearPredictorSpec(order=2, interpolation=4),
    ),
    "two levels": of(quantizer=HierarchicalQuantizerSpec(downsample=2)),
    "vocoder with prediction": changed(features=MEL, predictor=LinearPredictorSpec(order=5)),
    "melody": replace(of(encoder=SLOW_ENCODER), melody=MELODY),
    "melody and prediction": replace(
        predicted(SLOW_MEL, conditioner=ConditionerSpec(channels=4, categorical=()), pitch_taps=3),
        encoder=SLOW_ENCODER,
        melody=MELODY,
    ),
    "harmonic source": replace(
        predicted(SLOW_MEL, pitch_taps=3, harmonic_source=True, squeeze=2, stagger_blocks=True),
        encoder=SLOW_ENCODER,
        melody=MELODY,
    ),
}
WAVENET = WaveNetSpec(
    head=Gaussian(),
    network=StackSpec(
        layers=2, residual_channels=4, gate_channels=4, skip_channels=4, hidden_channels=4
    ),
    conditioner=CONDITIONER,
)


def saved(folder: Path, spec: ModelSpec) -> Path:
    """An untrained model, whose condition matters."""
    torch.manual_seed(0)
    card = ModelCard(
        sample_rate=8000, labels=LABELS, spec=spec, about={"corpus": "none", "level_db": -23.0}
    )
    model = card.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("stack.out.weight", "stack.projection.weight")):
                parameter.mul_(5.0)
        for module in model.modules():
            if isinstance(module, Quantizer) and hasattr(module, "codebook"):
                module.codebook.started.fill_(True)
            if isinstance(module, Melody):
                module.voices.copy_(torch.tensor([(0.0, 0.5), (0.4, 1.0), (0.8, 2.0)]))
        if hasattr(model, "encoder"):  # latents of unit spread, so that there are several codes
            z = model.encoder(0.1 * torch.randn(4, 50 * model.hop))
            mean, spread = z.mean((0, 2)), z.std((0, 2))
            model.encoder.out.weight.div_(spread[:, None, None])
            model.encoder.out.bias.sub_(mean).div_(spread)
    save_trained(folder, model, card)
    return folder
