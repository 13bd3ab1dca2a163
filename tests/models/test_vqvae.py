"""The VQ-VAE: what is trained is what decodes from codes; gradients, padding, jitter, and the parts
it is built from.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vqwave.distributions import Gaussian, MixtureOfLogistics, MuLaw
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.losses import negative_log_likelihood
from vqwave.models import VQVAE, StudentSpec, VQVAESpec, WaveNetSpec
from vqwave.models.auxiliary import cycle_loss
from vqwave.nn.auxiliary.conversion_classifier import ConversionClassifierSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec, WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.wavenet import StackSpec

VOCABULARY = {"speaker": ["a", "b", "c"]}
LABELS = {"speaker": torch.tensor([0, 2])}
MEL = LogMelSpec(bands=8, window_ms=5.0, hop_ms=1.0, fmin=200.0, fmax=4000.0)  # hop 8
ENCODERS = {
    "waveform": WaveformEncoderSpec(strides=(4, 4), channels=8, blocks=1, latent_dim=4),
    "frames": FrameEncoderSpec(features=MEL, stride=2, channels=8, latent_dim=4),
}
SIZES = StackSpec(
    layers=3,
    dilation_cycle=3,
    residual_channels=6,
    gate_channels=5,
    skip_channels=8,
    hidden_channels=12,
)


def build(
    encoder: str = "waveform",
    head: object = Gaussian(),
    vocabulary: dict[str, list[str]] = VOCABULARY,
    **settings: object,
) -> VQVAE:
    torch.manual_seed(0)
    decoder = WaveNetSpec(head=head, network=SIZES, conditioner=ConditionerSpec(channels=4))
    quantizer = EMAQuantizerSpec(codebook_size=6, dead_code_threshold=0.0)
    return VQVAESpec(
        **{"encoder": ENCODERS[encoder], "quantizer": quantizer, "decoder": decoder} | settings
    ).build(8000, vocabulary)


def wave(F: int = 12, seed: int = 1) -> Tensor:
    return 0.2 * torch.randn(2, 16 * F, generator=torch.Generator().manual_seed(seed))


def start(model: VQVAE) -> VQVAE:
    """A model whose codebook lies on its latents."""
    model.train()
    for seed in range(4):
        model(wave(40, seed), LABELS)
    return model


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("head", [MuLaw(), MixtureOfLogistics(components=2), Gaussian()])
def test_what_is_trained_is_what_decodes_from_codes(encoder: str, head: object) -> None:
    """The teacher-forced pass and the road over codes (encode, then condition) hear the same thing,
    bit for bit.
    """
    model = start(build(encoder, head)).eval()
    x = wave()
    codes = model.encode(x)
    assert codes.shape == (2, 1, 12)
    assert codes.unique().numel() > 2
    out = model(x, LABELS)
    assert torch.equal(out.quantized.codes, codes)
    assert torch.equal(out.quantized.z, model.quantizer.decode(codes))
    over_codes = model.decoder.predict(x, model.condition(codes, LABELS))
    assert torch.equal(out.distribution.log_prob(x), over_codes.log_prob(x))


def test_a_decoder_may_hear_the_readout() -> None:
    """In training and from codes it is conditioned on latents and predicted frames, at the frames'
    rate, in the requested voice.
    """
    readout = SpectralDecoderSpec(features=MEL, channels=8, blocks=1)
    model, alone = (
        start(build("frames", spectral_decoder=readout, decoder_input=kind)).eval()
        for kind in ("both", "spectrogram")
    )
    x = wave()
    codes = model.encode(x)
    z = model.quantizer.decode(codes)
    frames = model.decoder_features(z, LABELS)
    assert frames.shape == (2, 4 + 8, 24)  # latents and bands, two frames a latent
    assert torch.equal(frames[:, :4, ::2], z)
    assert torch.equal(frames[:, :4, 1::2], z)
    assert torch.equal(frames[:, 4:], model.spectral_decoder(z, LABELS))
    out, over_codes = model(x, LABELS), model.decoder.predict(x, model.condition(codes, LABELS))
    assert torch.equal(out.distribution.log_prob(x), over_codes.log_prob(x))
    assert torch.equal(alone.decoder_features(z, LABELS), alone.spectral_decoder(z, LABELS))
    with pytest.raises(UserInputError, match="expected a spectral decoder"):
        build("frames", decoder_input="spectrogram")
    other = model.decoder_features(z, {"speaker": torch.tensor([1, 2])})
    assert (other - frames)[0].abs().max() > 0
    assert (other - frames)[1].abs().max() == 0


def test_a_cycle_is_the_distance_of_a_conversions_latents() -> None:
    """What the readout says in another voice, encoded again, against the latents it was made of;
    frames of padding do not count.
    """
    model = start(
        build(
            "frames",
            spectral_decoder=SpectralDecoderSpec(features=MEL, channels=8),
            time_jitter=0.0,
        )
    ).double()
    x, others, lengths = wave().double(), {"speaker": torch.tensor([1, 1])}, torch.tensor([192, 80])
    out = model(x, LABELS, lengths, decode=False, others=others, cyclic=True)
    z = out.quantized.z
    parts = [(z[:1], others["speaker"][:1]), (z[1:, :, :5], others["speaker"][1:])]
    alone = [(part, model.spectral_decoder(part, {"speaker": voice})) for part, voice in parts]
    errors = [
        (model.encoder.encode_features(frames) - part).square().mean(1)[0] for part, frames in alone
    ]
    errors = torch.cat(errors)
    torch.testing.assert_close(out.cycle, errors.mean(), rtol=0, atol=1e-12)
    assert model(x, LABELS, decode=False).cycle is None
    (gradient,) = torch.autograd.grad(
        cycle_loss(model.encoder, z, model.spectral_decoder(z.detach(), others), None, None),
        model.encoder.out.bias,
    )
    (through,) = torch.autograd.grad(
        (model.encoder.encode_features(model.spectral_decoder(z.detach(), others)) - z.detach())
        .square()
        .mean(),
        model.encoder.out.bias,
    )
    # the latents that it is to come back to are given
    torch.testing.assert_close(gradient, through)


def test_conversions_reach_the_conversion_classifier() -> None:
    vocabulary, words = VOCABULARY | {"text": ["yes", "no"]}, {"text": torch.tensor([1, 0])}
    listener = ConversionClassifierSpec(labels=("speaker", "text"), channels=8)
    parts = {
        "spectral_decoder": SpectralDecoderSpec(features=MEL, channels=8),
        "conversion_classifier": listener,
        "time_jitter": 0.0,
    }
    model = start(build("frames", vocabulary=vocabulary, **parts)).double().eval()
    x, others = wave().double(), {"speaker": torch.tensor([1, 1]), **words}
    out = model(x, LABELS | words, decode=False, others=others)
    converted = model.spectral_decoder(out.quantized.z, others)
    expected = model.conversion_classifier.losses(
        model.spectral_decoder.frontend(x), LABELS | words, converted, others
    )
    torch.testing.assert_close(out.conversion.converted, expected.converted)
    assert {"auxiliary_classification", "conversion_classification"} < set(out.losses)
    assert out.cycle is None
    assert model(x, LABELS | words, decode=False).conversion is None
    # what only training needs is left behind
    speaking = VQVAESpec(**parts, encoder=ENCODERS["frames"]).with_decoder(StudentSpec())
    assert (speaking.conversion_classifier, speaking.spectral_decoder, speaking.decoder) == (
        None,
        None,
        StudentSpec(),
    )
    with pytest.raises(UserInputError, match="conversion_classifier: expected a spectral decoder"):
        build("frames", vocabulary=vocabulary, **parts | {"spectral_decoder": None})


def test_noise_is_added_to_the_input_of_a_decoder_in_training() -> None:
    model = build("frames", decoder_input_noise=0.5)
    frames = torch.randn(2, 4, 3000)
    torch.manual_seed(0)
    added = model.train().add_decoder_noise(frames) - frames
    levels = added.std((1, 2))
    assert levels[0] != levels[1]
    assert levels.min() > 0
    assert levels.max() < 0.5 * 1.05
    model.train().decoder.eval()
    assert torch.equal(model.add_decoder_noise(frames), frames)


def test_only_an_encoder_of_the_same_features_takes_a_predicted_spectrum() -> None:
    spec = VQVAESpec(encoder=ENCODERS["frames"], spectral_decoder=SpectralDecoderSpec(features=MEL))
    assert "cycle_consistency" not in spec.needs
    assert "cycle_consistency" in replace(spec, spectral_decoder=None).needs
    assert "cycle_consistency" in replace(spec, spectral_decoder=SpectralDecoderSpec()).needs
    assert "cycle_consistency" in replace(spec, encoder=ENCODERS["waveform"]).needs


def test_without_its_decoder_a_pass_costs_no_decoder() -> None:
    model = start(build("frames", spectral_decoder=SpectralDecoderSpec(features=MEL, channels=8)))
    model.decoder.forward = None  # a call would fail
    out = model(wave(), LABELS, decode=False)
    assert out.distribution is None
    assert out.spectral > 0


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradient_reaches_every_parameter(encoder: str) -> None:
    """The encoder has a gradient of the likelihood through the straight-through estimator alone;
    the codebook has none.
    """
    model = start(build(encoder, spectral_decoder=SpectralDecoderSpec(features=MEL, channels=8)))
    x = wave(40)
    out = model(x, LABELS)
    nll = negative_log_likelihood(out.distribution, x)
    (first,) = torch.autograd.grad(nll, next(model.encoder.parameters()), retain_graph=True)
    assert first.abs().max() > 0
    (nll + out.quantized.losses["commitment"] + out.spectral).backward()
    unreached = {
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    }
    assert unreached == set()
    assert not [name for name, _ in model.named_parameters() if name.startswith("quantizer")]


def test_codes_matter_to_the_decoder() -> None:
    model = start(build()).eval()
    x = wave()
    codes = model.encode(x)
    same, other = (
        model.decoder.predict(x, model.condition(c, LABELS)).log_prob(x)
        for c in (codes, (codes + 1) % 6)
    )
    assert (same - other).abs().max() > 1e-4


def test_padding_moves_no_code() -> None:
    """What lies past an utterance's last frame changes no code, no loss, no statistic: it is as if
    the clip ended there.
    """
    first = start(build("waveform", time_jitter=0.0))
    second = deepcopy(first)
    x, lengths = wave(20), torch.tensor([320, 120])  # 20 and 8 frames of 16
    spoilt = x.clone()
    spoilt[1, 16 * 8 :] = 0.9
    one, two = first(x, LABELS, lengths), second(spoilt, LABELS, lengths)
    assert torch.equal(first.quantizer.codebook.sums, second.quantizer.codebook.sums)
    assert torch.equal(one.quantized.losses["commitment"], two.quantized.losses["commitment"])
    mask = torch.arange(320) < lengths[:, None]
    torch.testing.assert_close(
        one.distribution.log_prob(x)[mask], two.distribution.log_prob(x)[mask]
    )
    assert torch.equal(one.quantized.codes[1, :, :8], two.quantized.codes[1, :, :8])


def test_jitter_reaches_the_decoder_and_not_the_codes() -> None:
    model = start(build(time_jitter=0.9))
    x, still = wave(), deepcopy(model)
    still.time_jitter.p = 0.0
    jittered, plain = model(x, LABELS), still(x, LABELS)
    assert torch.equal(jittered.quantized.codes, plain.quantized.codes)
    assert torch.equal(jittered.quantized.z, plain.quantized.z)
    assert torch.equal(model.quantizer.codebook.sums, still.quantizer.codebook.sums)
    assert not torch.equal(jittered.distribution.log_prob(x), plain.distribution.log_prob(x))


def test_jitter_of_a_padded_utterance_takes_no_padding() -> None:
    model = start(build(time_jitter=0.9))
    taken = []
    model.time_jitter.register_forward_pre_hook(
        lambda module, arguments: taken.append(arguments[1])
    )
    model(wave(), LABELS, torch.tensor([192, 33]))
    assert taken[0].sum(1).tolist() == [12, 3]


def test_a_student_can_take_the_decoders_place() -> None:
    flows = StudentSpec(flows=(1, 2), network=SIZES, conditioner=ConditionerSpec(channels=4))
    model = build(decoder=flows)
    teacher = start(build())
    for name in ("encoder", "quantizer"):
        getattr(model, name).load_state_dict(getattr(teacher, name).state_dict())
    model.decoder.conditioner.load_state_dict(teacher.decoder.conditioner.state_dict())
    codes = teacher.eval().encode(wave())
    assert torch.equal(model.eval().encode(wave()), codes)
    of_student, of_teacher = model.condition(codes, LABELS), teacher.condition(codes, LABELS)
    assert torch.equal(of_student.features, of_teacher.features)
    assert model.decoder.transform(torch.zeros(2, 192), of_student).x.shape == (2, 192)


def test_hop_and_receptive_field_are_those_of_its_parts() -> None:
    model = build("frames")
    assert model.hop == model.encoder.hop == model.decoder.hop == 16
    assert model.receptive_field == 8


def test_a_decoder_with_frames_of_its_own_is_refused() -> None:
    with pytest.raises(UserInputError, match=r"decoder\.features: log_mel"):
        build(decoder=WaveNetSpec(features=MEL))
