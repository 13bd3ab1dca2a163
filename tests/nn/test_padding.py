"""A clip has the same latents, frames and conditions alone and padded in a batch, to its last
frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.features import LogMelSpec, MFCCSpec, PitchSpec
from vqwave.losses.perceptual import style_loss
from vqwave.models import ClassifierSpec, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.models.discriminator import DiscriminatorSpec
from vqwave.nn.auxiliary.adversarial_classifier import AdversarialClassifierSpec
from vqwave.nn.auxiliary.conversion_classifier import ConversionClassifierSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import (
    BatchNormEncoderSpec,
    EncoderSpec,
    FrameEncoderSpec,
    WaveformEncoderSpec,
)
from vqwave.nn.quantize import GradientQuantizerSpec, HierarchicalQuantizerSpec, frame_mask
from vqwave.nn.wavenet import StackSpec

F64 = torch.float64
RATE = 8000
MEL = LogMelSpec(bands=12, window_ms=10.0, hop_ms=2.5, fmin=100.0, fmax=4000.0)  # hop 20 samples
MFCC = MFCCSpec(coefficients=5, deltas=2, bands=12, window_ms=10.0, hop_ms=2.5)
PITCH = PitchSpec(hop_ms=2.5, fmin=100.0, fmax=400.0)
LENGTHS = torch.tensor([720, 375, 81, 721])  # whole frames, a part of one, a sample of one
VOCABULARY = {"speaker": ["a", "b", "c"]}
LABELS = {"speaker": torch.tensor([0, 2, 1, 0])}
SIZES = StackSpec(
    layers=3,
    dilation_cycle=3,
    residual_channels=6,
    gate_channels=5,
    skip_channels=8,
    hidden_channels=12,
)


def clips(hop: int) -> Tensor:
    """Noise of LENGTHS, zero to a common end that is some frames of `hop` beyond the longest."""
    frames = -(-int(LENGTHS.max()) // hop) + 8
    noise = torch.randn(
        len(LENGTHS), frames * hop, dtype=F64, generator=torch.Generator().manual_seed(1)
    )
    return 0.2 * noise * (torch.arange(frames * hop) < LENGTHS[:, None])


def alone(x: Tensor, i: int, hop: int) -> Tensor:
    """Clip i (1, T) as use has it: its samples, to a whole frame."""
    length = int(LENGTHS[i])
    return F.pad(x[i : i + 1, :length], (0, -length % hop))


def randomised(module: nn.Module) -> nn.Module:
    """In float64 and evaluation, every parameter and statistic away from where it starts."""
    torch.manual_seed(2)
    module = module.double().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand_like(tensor)
    return module


def same(batch: Tensor, single: Tensor, i: int) -> None:
    """The real frames of row i are those of the clip alone."""
    frames = single.shape[-1]
    torch.testing.assert_close(batch[i : i + 1, ..., :frames], single, rtol=1e-12, atol=1e-12)


ENCODERS: Mapping[str, EncoderSpec] = {
    "frames": FrameEncoderSpec(features=MEL, stride=2, channels=16, latent_dim=8),
    "frames, stride 3": FrameEncoderSpec(features=MEL, stride=3, channels=16, latent_dim=8),
    "frames of mfcc": FrameEncoderSpec(features=MFCC, stride=2, channels=16, latent_dim=8),
    "frames of pitch": FrameEncoderSpec(features=PITCH, stride=1, channels=16, latent_dim=8),
    "batch_norm": BatchNormEncoderSpec(features=MEL, stride=2, channels=16, latent_dim=8),
    "batch_norm of mfcc": BatchNormEncoderSpec(features=MFCC, stride=2, channels=16, latent_dim=8),
    "waveform": WaveformEncoderSpec(strides=(4, 5, 2), channels=16, blocks=2, latent_dim=8),
}
NORMED = {f"{name}, normed": replace(spec, instance_norm=True) for name, spec in ENCODERS.items()}


@pytest.mark.parametrize("spec", (ENCODERS | NORMED).values(), ids=(ENCODERS | NORMED).keys())
def test_latents_are_those_of_each_clip_alone(spec: EncoderSpec) -> None:
    encoder = randomised(spec.build(RATE))
    x = clips(encoder.hop)
    z = encoder(x, LENGTHS)
    for i in range(len(x)):
        same(z, encoder(alone(x, i, encoder.hop)), i)


@pytest.mark.parametrize("spec", ENCODERS.values(), ids=ENCODERS.keys())
def test_training_latents_are_those_of_use_where_nothing_is_random(spec: EncoderSpec) -> None:
    """In training mode, too, but for batch statistics, which are of the whole batch."""
    encoder = randomised(spec.build(RATE)).train()
    x = clips(encoder.hop)
    longer = F.pad(x, (0, 5 * encoder.hop))
    frames = x.shape[1] // encoder.hop
    z, again = encoder(x, LENGTHS), encoder(longer, LENGTHS)[..., :frames]
    mask = frame_mask(LENGTHS, encoder.hop, frames)[:, None]
    torch.testing.assert_close(z * mask, again * mask, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features", [MEL, MFCC])
def test_readout_frames_and_loss_are_those_of_each_clip_alone(features: LogMelSpec) -> None:
    spec = SpectralDecoderSpec(features=features, channels=16, blocks=2)
    readout = randomised(
        spec.build(8, 60, RATE, VOCABULARY, conditioner=ConditionerSpec(categorical=("speaker",)))
    )
    x = clips(60)
    mask = frame_mask(LENGTHS, 60, x.shape[1] // 60)
    z = torch.randn(len(x), 8, x.shape[1] // 60, dtype=F64)
    predicted, total = readout(z, LABELS, mask), torch.zeros((), dtype=F64)
    for i in range(len(x)):
        wave = alone(x, i, 60)
        frames = wave.shape[1] // 60
        single = readout(z[i : i + 1, :, :frames], {"speaker": LABELS["speaker"][i : i + 1]})
        same(predicted, single, i)
        total += frames * readout.loss(single, wave, None)
    loss = readout.loss(predicted, x, mask)
    torch.testing.assert_close(loss, total / mask.sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("upsample", [(), (4, 5)])
def test_conditions_are_those_of_each_clip_alone(upsample: tuple[int, ...]) -> None:
    """Given by a mask of the frames, or of coarser ones, as the readout's are."""
    spec = ConditionerSpec(channels=4, kernel_size=5, upsample=upsample)
    conditioner = randomised(spec.build(8, 20, VOCABULARY))
    frames = torch.randn(len(LENGTHS), 8, 48, dtype=F64)
    for coarse in (20, 60):
        mask = frame_mask(LENGTHS, coarse, 48 * 20 // coarse)
        batch = conditioner(frames, LABELS, mask).features
        for i, count in enumerate((mask.sum(1) * coarse // 20).tolist()):
            given = {"speaker": LABELS["speaker"][i : i + 1]}
            same(batch, conditioner(frames[i : i + 1, :, :count], given).features, i)


@pytest.mark.parametrize("decoder_input", ["latents", "spectrogram", "both"])
@pytest.mark.parametrize("encoder", ["frames", "frames of mfcc", "batch_norm", "waveform"])
def test_a_vqvae_is_trained_on_what_use_decodes(encoder: str, decoder_input: str) -> None:
    """Codes, and the distribution of every sample, of a padded batch as of each clip encoded and
    decoded alone.
    """
    spec = ENCODERS[encoder]
    readout = SpectralDecoderSpec(
        features=LogMelSpec(bands=12, window_ms=10.0, hop_ms=2.5, fmin=100.0), channels=8
    )
    decoder = WaveNetSpec(network=SIZES, conditioner=ConditionerSpec(channels=4, upsample=(2,)))
    levels = GradientQuantizerSpec(codebook_size=6)
    parts = {
        "quantizer": HierarchicalQuantizerSpec(downsample=3, top=levels, bottom=levels),
        "spectral_decoder": readout,
    }
    model = VQVAESpec(encoder=spec, decoder=decoder, decoder_input=decoder_input, **parts).build(
        RATE, VOCABULARY
    )
    model = randomised(model)
    x = clips(model.hop)
    out = model(x, LABELS, LENGTHS)
    given = model.encode(x, LENGTHS)
    log_p = out.distribution.log_prob(x)
    for i, length in enumerate(LENGTHS.tolist()):
        wave, labels = alone(x, i, model.hop), {"speaker": LABELS["speaker"][i : i + 1]}
        codes = model.encode(wave)
        assert torch.equal(out.quantized.codes[i : i + 1, :, : codes.shape[-1]], codes)
        assert torch.equal(given[i : i + 1, :, : codes.shape[-1]], codes)
        single = model.decoder.predict(wave, model.condition(codes, labels)).log_prob(wave)
        torch.testing.assert_close(log_p[i, :length], single[0, :length], rtol=0, atol=1e-9)


@pytest.mark.parametrize("features", [MEL, MFCC])
def test_a_vocoder_is_trained_on_what_use_decodes(features: LogMelSpec) -> None:
    conditioner = ConditionerSpec(channels=4, upsample=(2,))
    spec = WaveNetSpec(network=SIZES, conditioner=conditioner, features=features)
    model = randomised(spec.build(RATE, VOCABULARY))
    student = StudentSpec(flows=(2,), network=SIZES, conditioner=conditioner, features=features)
    flows = randomised(student.build(RATE, VOCABULARY))
    x = clips(model.hop)
    mask = frame_mask(LENGTHS, model.hop, x.shape[1] // model.hop)
    log_p = model(x, LABELS, None, mask).log_prob(x)
    made = flows(x, LABELS, flows.frontend(x, None, mask), mask).x
    for i, length in enumerate(LENGTHS.tolist()):
        wave, labels = alone(x, i, model.hop), {"speaker": LABELS["speaker"][i : i + 1]}
        single = model(wave, labels).log_prob(wave)
        torch.testing.assert_close(log_p[i, :length], single[0, :length], rtol=0, atol=1e-9)
        same(made[:, :length], flows(wave, labels, flows.frontend(wave)).x[:, :length], i)


def test_classifiers_do_not_see_padding() -> None:
    """Adversary, listener, the classifier of raw audio and its loss, the discriminator: each clip
    as alone.
    """
    one = {i: {"speaker": LABELS["speaker"][i : i + 1]} for i in range(len(LENGTHS))}
    adversary = randomised(AdversarialClassifierSpec(channels=8).build(8, VOCABULARY))
    listener = randomised(ConversionClassifierSpec(channels=8).build(12, 3, VOCABULARY))
    classifier = randomised(
        ClassifierSpec(layers=4, dilation_cycle=4, channels=8).build(RATE, VOCABULARY)
    )
    discriminator = randomised(DiscriminatorSpec(layers=5, channels=8).build())
    x = clips(60)
    y, samples = 0.5 * x.roll(3, 1) * (x != 0), torch.arange(x.shape[1]) < LENGTHS[:, None]
    mask = frame_mask(LENGTHS, 60, x.shape[1] // 60)
    z = torch.randn(len(x), 8, mask.shape[1], dtype=F64)
    frames = torch.randn(len(x), 12, 3 * mask.shape[1], dtype=F64)
    found: dict[str, list[Tensor]] = {"adversary": [], "style": []}
    classified, named = listener(frames, mask)["speaker"], classifier(x, samples)["speaker"]
    scores = discriminator(x, samples)
    for i, (length, count) in enumerate(zip(LENGTHS.tolist(), mask.sum(1).tolist(), strict=True)):
        row = slice(i, i + 1)
        found["adversary"].append(adversary(z[row, :, :count], one[i]).loss)
        same(classified[..., None], listener(frames[row, :, : 3 * count])["speaker"][..., None], i)
        wave, other = alone(x, i, 4), alone(y, i, 4)
        real = samples[row, : wave.shape[1]]
        same(named[..., None], classifier(wave, real)["speaker"][..., None], i)
        same(scores, discriminator(x[row, :length]), i)
        found["style"].append(style_loss(classifier, wave, other, real))
    whole = {
        "adversary": adversary(z, LABELS, mask).loss,
        "style": style_loss(classifier, x, y, samples),
    }
    for name, parts in found.items():
        torch.testing.assert_close(whole[name], torch.stack(parts).mean(), rtol=1e-12, atol=1e-12)
