"""Encoders, front end, readout: exact lengths, centred frames, padding that stays local,
standardised features.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from torch import Tensor

from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec, MFCCSpec
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoderSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec, StridedConv1d, WaveformEncoder, WaveformEncoderSpec
from vqwave.nn.frontend import Frontend
from vqwave.nn.standardize import Standardize
from vqwave.nn.vtlp import VocalTractLengthPerturbation

F64 = torch.float64
RATE = 8000
MEL = LogMelSpec(bands=12, window_ms=10.0, hop_ms=2.5, fmin=100.0, fmax=4000.0)  # hop 20 samples


def waveform_encoder(*strides: int, blocks: int = 0) -> WaveformEncoder:
    torch.manual_seed(0)
    return (
        WaveformEncoderSpec(strides=strides, channels=16, blocks=blocks, latent_dim=8)
        .build(RATE)
        .double()
    )


def waves(T: int, B: int = 4) -> Tensor:
    return torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(1))


def samples_used(network: Callable[[Tensor], Tensor], x: Tensor, frame: int) -> list[int]:
    """The samples that reach a frame, over a batch of waveforms (so that no ReLU hides one)."""
    x = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(network(x)[..., frame].abs().sum(), x)
    return (grad.abs().sum(0) > 0).nonzero().flatten().tolist()


@pytest.mark.parametrize("strides", [(2, 2, 2), (3,), (5, 2), (3, 5), (1, 4), (4, 3, 1)])
@pytest.mark.parametrize("F", [1, 2, 7])
def test_T_samples_give_T_over_hop_frames(strides: tuple[int, ...], F: int) -> None:
    encoder = waveform_encoder(*strides, blocks=1)
    assert encoder.hop == prod(strides)
    assert encoder(waves(F * encoder.hop)).shape == (4, 8, F)


@pytest.mark.parametrize("strides", [(2,), (4,), (2, 2, 2), (4, 2), (3,), (5,), (3, 5)])
def test_frames_are_centred_on_their_samples(strides: tuple[int, ...]) -> None:
    """Exactly for even strides; a window of 2 x stride around an odd stride is off by half a step
    of its input.
    """
    encoder = waveform_encoder(*strides)
    frame = 4
    samples = samples_used(encoder, waves(9 * encoder.hop), frame)
    off, step = 0.0, 1
    for stride in strides:
        off += 0.5 * step * (stride % 2)
        step *= stride
    assert samples == list(range(samples[0], samples[-1] + 1))
    assert (samples[0] + samples[-1]) / 2 == frame * encoder.hop + (encoder.hop - 1) / 2 + off


def test_a_strided_convolution_sees_twice_its_stride() -> None:
    torch.manual_seed(0)
    conv = StridedConv1d(1, 8, 6).double()
    assert samples_used(lambda x: conv(x[:, None]), waves(60), 3) == list(range(15, 27))


@pytest.mark.parametrize(
    "make", [lambda: waveform_encoder(4, 2, blocks=2), lambda: frame_encoder()]
)
def test_padding_reaches_only_frames_near_it(make: Callable[[], WaveformEncoder]) -> None:
    """Alone or padded to any length: all frames but the last few are the same."""
    encoder = make()
    x = waves(40 * encoder.hop)
    alone, padded = encoder(x), encoder(torch.nn.functional.pad(x, (0, 10 * encoder.hop)))[..., :40]
    near = 6
    torch.testing.assert_close(padded[..., :-near], alone[..., :-near], rtol=0, atol=1e-12)
    assert (padded[..., -1] - alone[..., -1]).abs().max() > 1e-6


def frame_encoder(stride: int = 2, features: LogMelSpec | MFCCSpec = MEL) -> WaveformEncoder:
    torch.manual_seed(0)
    return (
        FrameEncoderSpec(features=features, stride=stride, channels=16, latent_dim=8)
        .build(RATE)
        .double()
    )


@pytest.mark.parametrize(
    "features", [MEL, MFCCSpec(coefficients=5, bands=12, window_ms=10.0, hop_ms=2.5)]
)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_frame_encoder_lengths(features: LogMelSpec | MFCCSpec, stride: int) -> None:
    encoder = frame_encoder(stride, features)
    assert encoder.hop == 20 * stride
    assert encoder(waves(7 * encoder.hop)).shape == (4, 8, 7)
    with pytest.raises(UserInputError, match="multiple of 20"):
        encoder(waves(7 * encoder.hop + 1))


def test_frame_encoder_is_centred() -> None:
    encoder = frame_encoder()
    samples = samples_used(encoder, waves(41 * encoder.hop), 20)
    assert abs((samples[0] + samples[-1]) / 2 - (20 * encoder.hop + (encoder.hop - 1) / 2)) <= 1


@pytest.mark.parametrize(
    "make", [lambda: waveform_encoder(4, 3, blocks=2), lambda: frame_encoder()]
)
def test_gradient_reaches_every_parameter(make: Callable[[], WaveformEncoder]) -> None:
    encoder = make()
    encoder(waves(9 * encoder.hop)).square().sum().backward()
    assert [
        name
        for name, p in encoder.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_statistics_standardise_and_travel() -> None:
    frontend = Frontend(MEL.build(RATE))
    # the last is shorter than a hop: left out
    recordings = [0.1 * torch.randn(n) for n in (800, 1205, 10)]
    frontend.fit(recordings)
    frames = torch.cat([frontend(r[None, : len(r) // 20 * 20])[0].t() for r in recordings[:2]])
    torch.testing.assert_close(frames.mean(0), torch.zeros(12), rtol=0, atol=1e-4)
    torch.testing.assert_close(frames.std(0), torch.ones(12), rtol=0, atol=1e-4)
    other = Frontend(MEL.build(RATE))
    other.load_state_dict(frontend.state_dict())
    assert torch.equal(other(recordings[0][None]), frontend(recordings[0][None]))
    assert not [name for name, _ in frontend.named_parameters()]


def test_a_constant_channel_is_not_blown_up() -> None:
    standardise = Standardize(2)
    standardise.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert standardise(torch.tensor([[[1.0], [5.01]]])).abs().max() < 20


def test_readout_frames_lie_at_their_latents() -> None:
    """Latent f speaks for spectral frames ratio f ..

    ratio f + ratio - 1, give or take its convolutions' reach.
    """
    torch.manual_seed(0)
    readout = (
        SpectralDecoderSpec(features=MEL, channels=16)
        .build(
            3,
            60,
            RATE,
            {"speaker": ["a", "b"]},
            conditioner=ConditionerSpec(categorical=("speaker",)),
        )
        .double()
    )
    labels, z = {"speaker": torch.tensor([1, 0])}, torch.randn(2, 3, 21, dtype=F64)
    other = z.clone()
    other[..., 10] += 1.0
    changed = (readout(z, labels) - readout(other, labels)).abs().sum((0, 1)) > 0
    assert changed.shape == (63,)
    # 10 - 4 .. 10 + 4 latents, 3 frames each
    assert changed.nonzero().flatten().tolist() == list(range(18, 45))
    assert (readout(z, labels) - readout(z, {"speaker": torch.tensor([0, 0])})).abs().sum((1, 2))[
        1
    ] == 0


def test_readout_loss_does_not_see_padding() -> None:
    torch.manual_seed(0)
    readout = SpectralDecoderSpec(features=MEL, channels=8).build(
        3, 60, RATE, {}, conditioner=ConditionerSpec(categorical=())
    )
    z, wave, mask = (
        torch.randn(2, 3, 10),
        0.1 * torch.randn(2, 600),
        torch.arange(10) < torch.tensor([[10], [6]]),
    )
    before = readout.loss(readout(z, {}), wave, mask)
    wave[1, 420:] = 0.5  # farther from frame 5 than a window
    assert readout.loss(readout(z, {}), wave, mask).item() == before.item()
    assert readout.loss(readout(z, {}), wave, None).item() != before.item()


def test_readout_needs_a_hop_that_divides() -> None:
    with pytest.raises(UserInputError, match="divisor of the encoder's hop 50"):
        SpectralDecoderSpec(features=MEL).build(
            3, 50, RATE, {}, conditioner=ConditionerSpec(categorical=())
        )


def test_a_warp_stretches_the_mel_axis_of_each_utterance_by_its_own_factor() -> None:
    """Frames that rise with the band show the factor: a band's place times it, up to the top
    band.
    """
    torch.manual_seed(0)
    warp, place = VocalTractLengthPerturbation(0.2), torch.arange(40, dtype=F64)
    x = place[:, None].expand(64, 40, 3)
    out = warp.train()(x)
    factors = out[:, 1, :1]
    assert 0.8 <= factors.min() < 0.9 < 1.1 < factors.max() <= 1.2
    torch.testing.assert_close(
        out, (place * factors).clamp(max=39)[..., None].expand_as(out), rtol=0, atol=1e-12
    )
    assert torch.equal(warp.eval()(x), x)
    assert torch.equal(warp.train()(x[:, :1]), x[:, :1])  # a single band has nowhere to go


def test_only_training_warps_and_only_what_has_a_mel_axis() -> None:
    encoder, x = (
        FrameEncoderSpec(features=MEL, channels=16, latent_dim=8, vtlp=0.2).build(RATE).double(),
        waves(800),
    )
    assert not torch.equal(encoder.train()(x), encoder(x))
    assert torch.equal(encoder.eval()(x), encoder(x))
    with pytest.raises(
        UserInputError, match=r"encoder.vtlp: 0.2 of mfcc, expected features of kind log_mel"
    ):
        FrameEncoderSpec(features=MFCCSpec(), vtlp=0.2).build(RATE)
