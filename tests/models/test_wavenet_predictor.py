"""A WaveNet with linear prediction: causal, streamed as whole, normalised; with a predictor of
zeros the plain one.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.config import build as build_spec
from vqwave.distributions import (
    Gaussian,
    Head,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.errors import UserInputError
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.models.wavenet import InputDropoutSpec, WaveNetState
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec

F64 = torch.float64
RATE, HOP, BANDS = 8000, 40, 12
LABELS = {"speaker": torch.tensor([0, 1])}
HEADS = [MixtureOfLogistics(components=3), MixtureOfGaussians(components=2), Gaussian(), Logistic()]
MEL = {"kind": "log_mel", "bands": BANDS, "window_ms": 10.0, "hop_ms": 5.0}


def build(
    head: Head = HEADS[0],
    *,
    taps: int = 0,
    order: int = 4,
    interpolation: int = 1,
    **settings: object,
) -> WaveNet:
    torch.manual_seed(0)
    conditioner = ConditionerSpec(channels=4, **settings.pop("conditioner", {}))
    tree = {
        "features": MEL,
        "predictor": {"kind": "linear", "order": order, "interpolation": interpolation},
    }
    base = build_spec(WaveNetSpec, tree)
    spec = WaveNetSpec(
        head=head,
        network=StackSpec(
            layers=4,
            dilation_cycle=2,
            kernel_size=2,
            residual_channels=6,
            gate_channels=5,
            skip_channels=8,
            hidden_channels=16,
        ),
        conditioner=conditioner,
        features=base.features,
        predictor=base.predictor,
        pitch_taps=taps,
        **settings,
    )
    return spec.build(RATE, {"speaker": ["a", "b"]}).double()


def with_pitch(interpolation: int = 1) -> WaveNet:
    """One whose frames carry log-mel and pitch, given as a condition, since no recording is tracked
    here.
    """
    features = build_spec(WaveNetSpec, {"features": MEL}).features.build(RATE)
    torch.manual_seed(0)
    spec = WaveNetSpec(
        head=MixtureOfLogistics(components=2),
        network=StackSpec(
            layers=4,
            dilation_cycle=2,
            kernel_size=2,
            residual_channels=6,
            gate_channels=5,
            skip_channels=8,
            hidden_channels=16,
        ),
        conditioner=ConditionerSpec(channels=4),
        predictor=LinearPredictorSpec(order=4, interpolation=interpolation),
        pitch_taps=3,
    )
    return spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, features).double()


def wave(T: int, seed: int = 1) -> Tensor:
    x = 0.2 * torch.randn(2, T, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return (x.clamp(-0.99, 0.99) * 32768).round() / 32768


def condition_of(net: WaveNet, T: int) -> Condition:
    """Of random frames; voiced and unvoiced by turns."""
    generator = torch.Generator().manual_seed(2)
    log_mel = torch.randn(2, BANDS, T // HOP, dtype=F64, generator=generator)
    voicing = (torch.arange(T // HOP) % 3 > 0).to(F64).expand(2, -1)
    pitch = torch.stack([voicing * 0.9, voicing], 1)
    predictors = net.predictor.analyse(log_mel, pitch)
    return net.condition(torch.cat([log_mel, predictors], 1), LABELS)


def parameters_of(distribution: object) -> Tensor:
    return torch.cat([distribution.logits, distribution.location, distribution.log_scale], 1)


@pytest.mark.parametrize("head", HEADS)
def test_a_predictor_of_zeros_is_the_plain_model(head: Head) -> None:
    """Its inputs are the last sample twice; with the weights of the other input zero, the
    parameters are the plain ones.
    """
    net, x = build(head), wave(6 * HOP)
    frames = net.frontend(x, LABELS)
    frames[:, BANDS:] = 0.0
    with torch.no_grad():
        net.input_embedding.conv.weight[:, 1] = 0.0  # the residual, which is the last sample itself
    features = build_spec(WaveNetSpec, {"features": MEL}).features
    spec = WaveNetSpec(
        head=head,
        network=net.stack.spec,
        conditioner=ConditionerSpec(channels=4),
        features=features,
    )
    plain = spec.build(RATE, {"speaker": ["a", "b"]}).double()
    weights = {
        name.replace("frontend.frames.", "frontend."): value
        for name, value in net.state_dict().items()
    }
    plain.load_state_dict(
        weights | {"input_embedding.conv.weight": net.input_embedding.conv.weight[:, :1]}
    )
    found = parameters_of(net.predict(x, net.condition(frames, LABELS)))
    torch.testing.assert_close(found, parameters_of(plain(x, LABELS)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_locations_are_the_prediction_plus_the_networks(head: Head) -> None:
    net, x = build(head), wave(6 * HOP)
    with torch.no_grad():
        net.stack.out.weight.zero_()
        net.stack.out.bias.zero_()
    condition = net.condition(net.frontend(x, LABELS), LABELS)
    last = torch.cat([torch.zeros(2, 1, dtype=F64), x[:, :-1]], 1)
    expected = net.predictor(last, net.conditioner.split(condition)[1].samples()).location
    location = net.predict(x, condition).location
    torch.testing.assert_close(location, expected[:, None].expand_as(location), rtol=0, atol=1e-12)


@pytest.mark.parametrize("interpolation", [1, 2])
def test_cached_steps_give_the_parallel_parameters(interpolation: int) -> None:
    net, T = with_pitch(interpolation), 12 * HOP
    x, condition = wave(T), condition_of(net, T)
    with torch.no_grad():
        whole = parameters_of(net.predict(x, condition))
        projected, before = (
            net.project(condition),
            torch.cat([torch.zeros(2, 1, dtype=F64), x[:, :-1]], 1),
        )
        for sizes in ([1] * T, [7, 100, 1, 200, T - 308]):
            state, start = WaveNetState(), 0
            for count in sizes:
                part = parameters_of(net.step(before[:, start : start + count], projected, state))
                torch.testing.assert_close(
                    part, whole[..., start : start + count], rtol=0, atol=1e-10
                )
                start += count


def test_strictly_causal() -> None:
    """Nothing that is said of x_t moves with x_t or what follows."""
    net, T, t = with_pitch(), 8 * HOP, 150
    x, condition = wave(T), condition_of(net, T)
    later = x.clone()
    later[:, t:] += 0.1
    before, after = (parameters_of(net.predict(each, condition)) for each in (x, later))
    assert torch.equal(before[..., : t + 1], after[..., : t + 1])
    assert (before[..., t + 1 :] != after[..., t + 1 :]).any(-1).all()


def test_the_pitch_taps_reach_one_period_back() -> None:
    """A change one period ago moves the parameters, although the stack's receptive field ended long
    before.
    """
    net, T = with_pitch(), 12 * HOP
    condition, x = condition_of(net, T), wave(T)
    period = int(net.conditioner.split(condition)[1].features[0, -1, 4])
    t = 4 * HOP + 20  # a voiced frame
    other = x.clone()
    other[:, t - period] += 0.1
    assert period > net.receptive_field + net.predictor.order
    moved = (
        parameters_of(net.predict(x, condition)) - parameters_of(net.predict(other, condition))
    )[..., t]
    assert moved.abs().max() > 1e-6


def test_mass_sums_to_one() -> None:
    """Of the discretised head, over all levels of one sample."""
    net = build(MixtureOfLogistics(components=3, sample_bits=8, location_scale=0.01))
    x = wave(2 * HOP)
    condition = net.condition(net.frontend(x, LABELS), LABELS)
    levels, total, t = torch.arange(-128, 128, dtype=F64) / 128, 0.0, 50
    for level in levels:
        trial = x.clone()
        trial[:, t] = level
        total = total + net.predict(trial, condition).log_prob(trial)[:, t].exp()
    torch.testing.assert_close(total, torch.ones(2, dtype=F64), rtol=0, atol=1e-9)


def test_gradient_reaches_the_waveform_through_the_prediction() -> None:
    """As a student's does through its teacher: against finite differences."""
    net, T = with_pitch(), 4 * HOP
    condition, x = condition_of(net, T), wave(T)[:, : 4 * HOP].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: net.predict(x, condition).log_density(x)[:, ::37].sum(), x, atol=1e-4, rtol=1e-3
    )


def test_dropout_of_the_past_leaves_the_prediction() -> None:
    """With all of the past silenced but for a vanishing share, the inputs are nearly all zero and
    the prediction is not.
    """
    net, x = build(input_dropout=InputDropoutSpec(prob=0.999, span=4)).train(), wave(6 * HOP)
    seen: list[Tensor] = []
    net.input_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(x, LABELS)
    inputs, location = seen[0][:, :-1], seen[0][:, -1]
    assert (inputs == 0).double().mean() > 0.9
    assert (location != 0).double().mean() > 0.9


def test_streams_of_a_batch_are_independent() -> None:
    net, T = with_pitch(), 6 * HOP
    condition, x = condition_of(net, T), wave(T)
    alone = net.predict(x[1:], Condition(condition.features[1:], condition.repeat))
    torch.testing.assert_close(
        parameters_of(net.predict(x, condition))[1:], parameters_of(alone), rtol=0, atol=1e-12
    )


def test_refusals() -> None:
    with pytest.raises(
        UserInputError, match="predictor: the head is mu_law, expected a continuous one"
    ):
        build(MuLaw())
    with pytest.raises(UserInputError, match="predictor: no log-mel frames condition this decoder"):
        WaveNetSpec(predictor=LinearPredictorSpec()).build(RATE, {"speaker": ["a"]})
    with pytest.raises(UserInputError, match="pitch_taps: 3 without a predictor"):
        WaveNetSpec(pitch_taps=3).build(RATE, {"speaker": ["a"]})
