"""The student: its density by change of variables, its noise, its condition, its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.distributions import GaussianMixture, LogisticMixture
from vqwave.features import LogMelSpec
from vqwave.models import Student, StudentSpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms

F64 = torch.float64
VOCABULARY = {"speaker": ["a", "b", "c"]}
LABELS = {"speaker": torch.tensor([0, 2])}
CONDITIONER = ConditionerSpec(channels=4)


def build(
    base: str = "logistic", flows: tuple[int, ...] = (2, 3), hop: int = 6, **settings: object
) -> Student:
    torch.manual_seed(0)
    network = StackSpec(
        layers=1,
        dilation_cycle=2,
        kernel_size=3,
        residual_channels=8,
        gate_channels=4,
        skip_channels=7,
        hidden_channels=8,
    )
    spec = StudentSpec(
        **{"flows": flows, "network": network, "base": base, "conditioner": CONDITIONER} | settings
    )
    return spec.build(8000, VOCABULARY, 3 if hop else 0, hop or 1).double()


def frames(F: int) -> Tensor:
    return torch.randn(2, 3, F, dtype=F64, generator=torch.Generator().manual_seed(2))


def draws(T: int, B: int = 2) -> Tensor:
    return uniforms(5, torch.arange(B), 0, T).double()


@pytest.mark.parametrize("base", ["logistic", "gaussian"])
def test_the_density_is_that_of_a_change_of_variables(base: str) -> None:
    """sum_t log p(x_t | z_{<t}) = log p(z) - log |dx / dz|, REFERENCE 10.2, and x is affine in its
    own z.
    """
    student = build(base)
    z = student.noise(draws(24))
    flowed = student(z, LABELS, frames(4))
    torch.testing.assert_close(flowed.x, z * flowed.log_scale.exp() + flowed.location)
    zero = torch.zeros(1, 1, 1, dtype=F64)
    prior = student.base(zero, zero, zero).log_density(z)
    torch.testing.assert_close(
        student.distribution(flowed).log_density(flowed.x).sum(1),
        (prior - flowed.log_scale).sum(1),
    )
    one = torch.autograd.functional.jacobian(lambda z: student(z, LABELS, frames(4)).x, z)[0, :, 0]
    assert one.slogdet().logabsdet.item() == pytest.approx(
        flowed.log_scale[0].sum().item(), abs=1e-8
    )


@pytest.mark.parametrize(
    ("base", "family", "std"),
    [("logistic", LogisticMixture, math.pi / math.sqrt(3)), ("gaussian", GaussianMixture, 1.0)],
)
def test_noise_is_white_and_of_the_base(base: str, family: type, std: float) -> None:
    student = build(base)
    assert student.base is family
    z = student.noise(draws(20_000, 1))[0]
    assert z.mean().item() == pytest.approx(0, abs=0.03)
    assert z.std().item() == pytest.approx(std, rel=0.02)
    assert abs((z[1:] * z[:-1]).mean().item()) < 0.05
    torch.testing.assert_close(student.noise(draws(9), 0.5), 0.5 * student.noise(draws(9)))


def test_flows_have_their_own_depths_and_no_skips() -> None:
    student = build(flows=(1, 2, 4))
    assert [len(flow.stack.layers) for flow in student.flows.flows] == [1, 2, 4]
    assert not [
        layer
        for flow in student.flows.flows
        for layer in flow.stack.layers
        if layer.skip is not None
    ]
    # kernel 3, dilations 1 | 1 2 | 1 2 1 2, one sample for each strict shift
    assert student.receptive_field == 1 + (1 + 2) + (1 + 6) + (1 + 12)


def test_gradient_reaches_every_parameter() -> None:
    student = build()
    flowed = student(student.noise(draws(36)), LABELS, frames(6))
    student.distribution(flowed).log_density(torch.zeros_like(flowed.x)).sum().backward()
    assert [
        name
        for name, p in student.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_it_has_the_condition_of_its_teacher() -> None:
    student = build()
    sizes = StackSpec(
        layers=1,
        dilation_cycle=1,
        residual_channels=2,
        gate_channels=2,
        skip_channels=2,
        hidden_channels=2,
    )
    teacher = (
        WaveNetSpec(network=sizes, conditioner=CONDITIONER).build(8000, VOCABULARY, 3, 6).double()
    )
    student.conditioner.load_state_dict(teacher.conditioner.state_dict())
    of_student, of_teacher = (
        student.condition(frames(4), LABELS),
        teacher.condition(frames(4), LABELS),
    )
    assert torch.equal(of_student.features, of_teacher.features)
    assert of_student.repeat == of_teacher.repeat == student.hop == 6


def test_labels_and_frames_change_what_it_says() -> None:
    student, z = build(), build().noise(draws(24))
    plain = student(z, LABELS, frames(4)).x
    other = {"speaker": torch.tensor([0, 1])}
    difference = (student(z, other, frames(4)).x - plain).abs().sum(1)
    assert difference[0] == 0 < difference[1]
    assert (student(z, LABELS, 2 * frames(4)).x - plain).abs().max() > 1e-6


def test_it_may_hear_nothing() -> None:
    student = build(hop=0, conditioner=ConditionerSpec(channels=4, categorical=()))
    assert student.condition(None, {}) is None
    assert student(student.noise(draws(10)), {}).x.shape == (2, 10)


def test_spectral_frames_set_the_hop() -> None:
    features = LogMelSpec(bands=6, window_ms=8.0, hop_ms=1.0, fmin=200.0, fmax=4000.0)
    student = build(features=features)
    assert student.hop == 8
    assert student.frontend(torch.zeros(2, 64, dtype=F64)).shape == (2, 6, 8)


@pytest.mark.parametrize("flows", [(2,), (2, 2, 2, 2)])
def test_an_untrained_student_is_as_loud_as_asked(flows: tuple[int, ...]) -> None:
    student = build(flows=flows, initial_scale=0.02)
    x = student(student.noise(draws(600)), LABELS, frames(100)).x
    assert 0.4 < x.std().item() / (0.02 * math.pi / math.sqrt(3)) < 2.5
