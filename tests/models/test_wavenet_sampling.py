"""Guidance, nucleus, priming, a past with holes: what sampling and training add to a plain
WaveNet.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.decode.backend import SampleRequest, sample
from vqwave.decode.reference import Guided
from vqwave.decode.sampling import Sampling
from vqwave.distributions import Categorical, Gaussian, Head, LinearBins, MuLaw
from vqwave.errors import UserInputError
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.models.wavenet import InputDropout, InputDropoutSpec, WaveNetState
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.nn.wavenet import StackSpec

F64 = torch.float64
LABELS = {"speaker": torch.tensor([0, 2])}
STREAMS = torch.tensor([0, 1])


def build(head: Head, whole: float = 0.1) -> WaveNet:
    torch.manual_seed(0)
    conditioner = ConditionerSpec(channels=4, dropout=ConditionDropoutSpec(all=whole))
    network = StackSpec(
        layers=4,
        dilation_cycle=4,
        residual_channels=6,
        gate_channels=6,
        skip_channels=8,
        hidden_channels=8,
    )
    wavenet = (
        WaveNetSpec(head=head, network=network, conditioner=conditioner)
        .build(8000, {"speaker": ["a", "b", "c"]})
        .double()
    )
    with torch.no_grad():
        for parameter in wavenet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return wavenet.eval()


def wave(T: int) -> Tensor:
    return (0.3 * torch.randn(2, T, dtype=F64, generator=torch.Generator().manual_seed(1))).clamp(
        -0.99, 0.99
    )


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_guidance_is_the_normalised_power_product(weight: float) -> None:
    """ln p_w = w ln p(x | h) + (1 - w) ln p(x) - ln Z, in every class and step, and with the cached
    past of each half.
    """
    wavenet, x, T = build(LinearBins(classes=12)), wave(9), 9
    conditioned, nothing = wavenet.condition(None, LABELS), wavenet.conditioner.null_condition()
    logs = [wavenet.predict(x, c).logits.log_softmax(1) for c in (conditioned, nothing)]
    expected = (weight * logs[0] + (1 - weight) * logs[1]).log_softmax(1)
    law, state = Guided(wavenet, conditioned, weight), WaveNetState()
    before = torch.cat([torch.zeros(2, 1, dtype=F64), x[:, :-1]], 1)
    found = torch.cat(
        [law(before[:, t : t + 1], state).logits.log_softmax(1) for t in range(T)], -1
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (logs[0] - logs[1]).abs().max() > 0.01, (
        "the condition must matter, or nothing was tested"
    )


def test_weight_one_is_the_model_itself() -> None:
    """Also without training on the null condition; any other weight is refused there by name."""
    wavenet = build(Gaussian(), whole=0.0)
    condition = wavenet.condition(None, LABELS)
    assert Guided(wavenet, condition, 1.0).copies == 1
    with pytest.raises(UserInputError, match="guidance"):
        sample(SampleRequest(wavenet, condition, 4, STREAMS), Sampling(guidance=2.0))


def test_a_location_scale_head_is_extrapolated_in_its_parameters() -> None:
    wavenet, x = build(Gaussian()), wave(6)
    conditioned, nothing = wavenet.condition(None, LABELS), wavenet.conditioner.null_condition()
    p, q = wavenet.predict(x, conditioned), wavenet.predict(x, nothing)
    before = torch.cat([torch.zeros(2, 1, dtype=F64), x[:, :-1]], 1)
    found = Guided(wavenet, conditioned, 2.5)(before, WaveNetState())
    torch.testing.assert_close(found.location, q.location + 2.5 * (p.location - q.location))


def test_guided_sampling_is_repeatable_and_not_the_plain_one() -> None:
    wavenet = build(MuLaw(classes=32))
    condition = wavenet.condition(None, LABELS)
    draws = [
        sample(SampleRequest(wavenet, condition, 40, STREAMS), Sampling(guidance=w))
        for w in (1.0, 4.0, 4.0)
    ]
    assert torch.equal(draws[1], draws[2])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1.0])
def test_a_nucleus_is_the_smallest_set_of_that_mass(p: float) -> None:
    head = LinearBins(classes=9)
    logits = 2 * torch.randn(3, 9, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    probability = logits.softmax(1)
    kept = Categorical(logits, head).nucleus(p).logits > -torch.inf
    mass = (probability * kept).sum(1)
    least = torch.where(kept, probability, torch.inf).amin(1)
    assert (mass >= p - 1e-12).all()
    assert (mass - least < p).all(), "one class fewer would not do"
    assert (least >= torch.where(kept, 0.0, probability).amax(1)).all(), (
        "the most probable ones are kept"
    )


def test_top_p_draws_from_the_nucleus_alone() -> None:
    """A tiny nucleus is the mode, whatever the seed."""
    wavenet = build(MuLaw(classes=16))
    condition = wavenet.condition(None, LABELS)
    draws = [
        sample(SampleRequest(wavenet, condition, 30, STREAMS), Sampling(seed=s, top_p=1e-6))
        for s in (0, 1)
    ]
    assert torch.equal(*draws)
    x = draws[0]
    mode = wavenet.predict(x, condition).logits.argmax(1)
    assert torch.equal(wavenet.head.encode(x), mode)


@pytest.mark.parametrize(
    ("top_p", "found"), [(0.5, "gaussian"), (0.0, "above 0"), (1.5, "at most 1")]
)
def test_top_p_is_refused_where_it_makes_no_sense(top_p: float, found: str) -> None:
    with pytest.raises(UserInputError, match=found):
        sample(SampleRequest(build(Gaussian()), None, 4, torch.tensor([0])), Sampling(top_p=top_p))


def test_priming_goes_on_where_the_recording_ends() -> None:
    """Drawing 50 samples equals drawing 20, then 30 more primed with them: one law, one counter."""
    wavenet = build(MuLaw(classes=32))
    condition, streams = wavenet.condition(None, LABELS), torch.tensor([4, 5])
    full = sample(SampleRequest(wavenet, condition, 50, streams))
    rest = sample(SampleRequest(wavenet, condition, 30, streams, prompt=full[:, :20]))
    assert torch.equal(rest, full[:, 20:])


@pytest.mark.parametrize("span", [1, 7])
def test_the_past_has_as_many_holes_as_asked_and_as_long(span: int) -> None:
    torch.manual_seed(0)
    past = InputDropout(InputDropoutSpec(prob=0.3, span=span)).train()
    x = torch.ones(200, 700)
    unmasked = past(x)
    assert set(unmasked.unique().tolist()) == {0.0, 1.0}
    assert abs(float((unmasked == 0).float().mean()) - 0.3) < 5 * (0.21 * span / x.numel()) ** 0.5
    inner = unmasked[:, span:-span]  # runs at the ends are cut
    edges = (inner.diff() != 0).nonzero()
    assert {int(position) % span for position in edges[:, 1]} <= {int(edges[0, 1]) % span}, (
        "holes lie on one grid"
    )


def test_a_past_is_whole_outside_training_and_by_default() -> None:
    x = wave(50)
    assert torch.equal(InputDropout(InputDropoutSpec(prob=0.5, noise_std=0.1)).eval()(x), x)
    assert torch.equal(InputDropout(InputDropoutSpec()).train()(x), x)
    assert not torch.equal(InputDropout(InputDropoutSpec(noise_std=0.1)).train()(x), x)


def test_the_wavenet_has_input_dropout_in_training() -> None:
    """With everything silenced but the condition, no prediction depends on the waveform."""
    spec = WaveNetSpec(
        head=Gaussian(),
        network=StackSpec(layers=3, dilation_cycle=3),
        input_dropout=InputDropoutSpec(prob=0.999999),
    )
    wavenet = spec.build(8000, {"speaker": ["a", "b", "c"]}).double().train()
    first, second = (wavenet(x, LABELS).location for x in (wave(20), -wave(20)))
    assert torch.equal(first, second)
    wavenet.eval()
    assert not torch.equal(wavenet(wave(20), LABELS).location, wavenet(-wave(20), LABELS).location)
