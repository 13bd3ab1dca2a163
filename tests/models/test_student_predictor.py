"""A student with a synthesis filter: exact inverse, density, KL of a teacher with the same
predictor, streamed as whole.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.decode.reference import FlowStream, sample_student
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.models import Student, StudentSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec

F64 = torch.float64
RATE, HOP, BANDS, ORDER = 8000, 40, 12, 4
LABELS = {"speaker": torch.tensor([0, 1])}
MEL = LogMelSpec(bands=BANDS, window_ms=10.0, hop_ms=5.0)


def student(
    base: str = "logistic",
    flow_type: str = "iaf",
    fold: int = 1,
    upsample: tuple[int, ...] = (),
    *,
    source: bool = False,
) -> Student:
    torch.manual_seed(0)
    spec = StudentSpec(
        flows=(2, 2),
        network=StackSpec(
            layers=2,
            dilation_cycle=2,
            kernel_size=2,
            residual_channels=6,
            gate_channels=6,
            skip_channels=0,
            hidden_channels=6,
        ),
        base=base,
        squeeze=fold,
        flow_type=flow_type,
        conditioner=ConditionerSpec(channels=4, upsample=upsample),
        predictor=LinearPredictorSpec(order=ORDER),
        pitch_taps=3,
        harmonic_source=source,
        stagger_blocks=source and fold > 1,
    )
    model = spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, MEL.build(RATE)).double()
    with torch.no_grad():
        for flow in model.flows.flows:
            flow.stack.out.weight.mul_(5)
    return model


def condition_of(model: Student, frames: int) -> Condition:
    log_mel = torch.randn(2, BANDS, frames, dtype=F64, generator=torch.Generator().manual_seed(2))
    voiced = torch.ones(2, frames, dtype=F64)
    voiced[:, 2::4] = 0.0
    pitch = torch.stack([torch.linspace(0.2, 0.9, frames, dtype=F64) * voiced, voiced], 1)
    return model.condition(torch.cat([log_mel, model.predictor.analyse(log_mel, pitch)], 1), LABELS)


def noise(T: int) -> Tensor:
    return torch.randn(2, T, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("flow_type", ["iaf", "maf"])
@pytest.mark.parametrize("fold", [1, 4])
def test_noise_and_waveform_determine_each_other(
    flow_type: str, fold: int, *, source: bool
) -> None:
    model, z = student(flow_type=flow_type, fold=fold, source=source), noise(5 * HOP)
    condition = condition_of(model, 5)
    there = model.transform(z, condition)
    back = model.inverse(there.x, condition)
    torch.testing.assert_close(back.z, z, rtol=0, atol=1e-9)
    for name in ("location", "log_scale"):
        torch.testing.assert_close(getattr(back, name), getattr(there, name), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        there.x, there.location + z * there.log_scale.exp(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("base", ["logistic", "gaussian"])
def test_the_density_is_that_of_a_change_of_variables(base: str, *, source: bool) -> None:
    """ln p(x) = ln p(z) - ln |det dx / dz|, by autograd."""
    model, z = student(base, fold=4 if source else 1, source=source), noise(HOP + 5)[:1]
    condition = condition_of(model, 2)
    condition = Condition(condition.features[:1], condition.repeat)
    x = model.transform(z, condition).x
    jacobian = torch.autograd.functional.jacobian(
        lambda z: model.transform(z[None], condition).x[0], z[0]
    )
    zero = torch.zeros_like(z)[:, None]
    expected = (
        model.base(zero, zero, zero).log_density(z).sum() - torch.linalg.slogdet(jacobian).logabsdet
    )
    torch.testing.assert_close(model.log_prob(x, condition).sum(), expected, rtol=0, atol=1e-8)


def test_locations_are_the_flows_plus_the_prediction() -> None:
    model, z = student(), noise(4 * HOP)
    condition = condition_of(model, 4)
    given, columns = model.flow_condition(condition)
    flowed, alone = model.transform(z, condition), model.flows(z, given)
    last = torch.cat([torch.zeros(2, 1, dtype=F64), flowed.x[:, :-1]], 1)
    prediction = model.predictor(last, columns.at(0, 4 * HOP)).location
    torch.testing.assert_close(flowed.location, alone.location + prediction, rtol=0, atol=1e-10)
    assert torch.equal(flowed.log_scale, alone.log_scale)


@pytest.mark.parametrize("source", [False, True])
@pytest.mark.parametrize("fold", [1, 4])
def test_chunks_give_the_same_as_the_whole(fold: int, *, source: bool) -> None:
    model, z = student(fold=fold, source=source), noise(6 * HOP)
    condition, state = condition_of(model, 6), model.begin()
    whole = model.transform(z, condition)
    parts = [
        model.transform(part, condition, state).x for part in z.split([1, 39, 57, 3, 100, 40], 1)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole.x, rtol=0, atol=1e-9)


def test_log_prob_in_chunks() -> None:
    model, x = student(), 0.2 * noise(6 * HOP)
    condition, state = condition_of(model, 6), model.begin()
    parts = [model.log_prob(part, condition, state) for part in x.split([5, 80, 155], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.log_prob(x, condition), rtol=0, atol=1e-9)


def test_a_prediction_of_zeros_is_the_plain_student() -> None:
    model, z = student(), noise(4 * HOP)
    condition = condition_of(model, 4)
    features = condition.features.clone()
    features[:, 4:] = 0.0
    plain = model.flows(z, model.flow_condition(condition)[0])
    torch.testing.assert_close(
        model.transform(z, Condition(features, condition.repeat)).x, plain.x, rtol=0, atol=1e-12
    )


def test_an_order_beyond_a_column_is_refused() -> None:
    with pytest.raises(
        UserInputError, match=r"predictor\.order: 4 past samples, a condition column holds for 2"
    ):
        student(upsample=(4, 5))


def test_a_source_without_a_period_is_refused() -> None:
    spec = StudentSpec(flows=(2,), harmonic_source=True)
    with pytest.raises(UserInputError, match=r"harmonic_source: true, expected .* pitch_taps"):
        spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, MEL.build(RATE))


@pytest.mark.parametrize("source", [False, True])
def test_decoding_in_blocks_is_one_pass(*, source: bool) -> None:
    """What `sample_student` draws block by block, in float32 as decoders do, is one pass of the
    same noise.
    """
    model = student(fold=4 if source else 1, source=source).float()
    frames = 2 * FlowStream(model, torch.arange(2)).block // HOP + 1
    condition = condition_of(student(), frames)
    condition = Condition(condition.features.float(), condition.repeat)
    wave = sample_student(model, condition, frames * HOP, streams=torch.arange(2), seed=4)
    flowing, parts = FlowStream(model, torch.arange(2)), []
    for _ in range(2):
        parts.append(flowing.sample(flowing.block, condition, 4, 1.0))
    assert torch.equal(torch.cat(parts, 1), wave[:, : 2 * flowing.block])
    assert math.isfinite(float(wave.abs().max()))
