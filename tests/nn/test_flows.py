"""Flows: the affine identity, the Jacobian, strict causality, the receptive field, streaming."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.nn.condition import Condition
from vqwave.nn.flows import AffineFlow, FlowCondition, FlowStack, FlowState
from vqwave.nn.wavenet import StackSpec

F64 = torch.float64


def network(layers: int, kernel: int = 2) -> StackSpec:
    return StackSpec(
        layers=layers,
        dilation_cycle=3,
        kernel_size=kernel,
        residual_channels=4,
        gate_channels=4,
        skip_channels=0,
        hidden_channels=4,
    )


def stack(*layers: int, kernel: int = 2, condition: int = 0, scale: float = 0.5) -> FlowStack:
    """Random flows whose outputs really vary, float64."""
    torch.manual_seed(0)
    flows = FlowStack([network(count, kernel) for count in layers], condition, scale).double()
    with torch.no_grad():
        for flow in flows.flows:
            flow.stack.out.weight.mul_(20.0)
    return flows


def noise(T: int, B: int = 1) -> Tensor:
    return torch.logit(torch.rand(B, T, dtype=F64, generator=torch.Generator().manual_seed(2)))


def held(columns: int) -> FlowCondition:
    features = torch.randn(2, 3, columns, dtype=F64, generator=torch.Generator().manual_seed(3))
    return FlowCondition(Condition(features, 3))


def test_the_totals_give_x() -> None:
    flows, z = stack(2, 3, 2, condition=3), noise(30, 2)
    flowed = flows(z, held(10))
    torch.testing.assert_close(
        flowed.x, z * flowed.log_scale.exp() + flowed.location, rtol=0, atol=1e-10
    )
    assert flowed.log_scale.std() > 0.1


def test_the_totals_are_the_flows_one_after_another() -> None:
    flows, z = stack(2, 3), noise(20)
    first = flows.flows[0](z)
    second = flows.flows[1](first.x)
    whole = flows(z)
    torch.testing.assert_close(whole.x, second.x)
    torch.testing.assert_close(whole.log_scale, first.log_scale + second.log_scale)
    torch.testing.assert_close(
        whole.location, first.location * second.log_scale.exp() + second.location
    )


def test_the_jacobian_is_triangular_with_the_scales_on_its_diagonal() -> None:
    """So the log-determinant is the sum of the log-scales; a reversal of time between flows would
    break it.
    """
    flows, z = stack(2, 3, kernel=3), noise(16)
    jacobian = torch.autograd.functional.jacobian(lambda z: flows(z[None]).x[0], z[0])
    flowed = flows(z)
    assert torch.equal(jacobian.triu(1), torch.zeros_like(jacobian))
    assert jacobian.tril(-1).abs().max() > 1e-3
    torch.testing.assert_close(jacobian.diagonal(), flowed.log_scale[0].exp(), rtol=1e-10, atol=0)
    assert jacobian.slogdet().logabsdet.item() == pytest.approx(
        flowed.log_scale.sum().item(), abs=1e-9
    )
    reversed_ = torch.autograd.functional.jacobian(
        lambda z: flows.flows[1](flows.flows[0](z[None]).x.flip(1)).x.flip(1)[0], z[0]
    )
    assert reversed_.triu(1).abs().max() > 1e-3


@pytest.mark.parametrize(("layers", "kernel"), [((2,), 2), ((3, 2), 2), ((2, 2, 1), 3)])
def test_the_receptive_field_is_exact(layers: tuple[int, ...], kernel: int) -> None:
    """x_t depends on z_t and everything back to the farthest sample that `receptive_field` counts,
    and no farther.
    """
    flows = stack(*layers, kernel=kernel)
    R = flows.receptive_field
    T = R + 4
    jacobian = torch.autograd.functional.jacobian(lambda z: flows(z[None]).x[0], noise(T)[0])
    distance = torch.arange(T)[:, None] - torch.arange(T)
    assert torch.equal(jacobian != 0, (distance >= 0) & (distance < R))


@pytest.mark.parametrize("name", ["location", "log_scale"])
def test_location_and_scale_hear_only_the_strict_past(name: str) -> None:
    flows, T = stack(2, 2), 12
    jacobian = torch.autograd.functional.jacobian(
        lambda z: getattr(flows(z[None]), name)[0], noise(T)[0]
    )
    assert torch.equal(jacobian.triu(0), torch.zeros_like(jacobian))
    assert (jacobian.diagonal(-1) != 0).all()


@pytest.mark.parametrize("chunks", [[1] * 25, [25], [3, 1, 14, 7]])
@pytest.mark.parametrize("columns", [0, 4, 9])
def test_chunked_equals_whole(chunks: list[int], columns: int) -> None:
    flows, z = stack(2, 3, kernel=3, condition=3), noise(25, 2)
    condition = held(columns) if columns else FlowCondition()
    whole, states, start, parts = flows(z, condition), [FlowState() for _ in range(2)], 0, []
    for count in chunks:
        parts.append(flows(z[:, start : start + count], condition, states))
        start += count
    for name in ("x", "location", "log_scale"):
        joined = torch.cat([getattr(part, name) for part in parts], 1)
        torch.testing.assert_close(joined, getattr(whole, name), rtol=0, atol=1e-10)


@pytest.mark.parametrize("count", [1, 4])
def test_an_untrained_stack_is_near_its_initial_scale(count: int) -> None:
    torch.manual_seed(0)
    flows = FlowStack([network(4)] * count, 0, 0.05).double()
    flowed = flows(noise(400))
    assert flowed.log_scale.mean().item() == pytest.approx(math.log(0.05), abs=0.8)
    assert flowed.location.abs().max() < 0.5


def test_the_log_scale_is_floored_but_not_capped() -> None:
    torch.manual_seed(0)
    flow = AffineFlow(network(1), 0, 0.0).double()
    for bias, expected in ((-30.0, AffineFlow.MIN_LOG_SCALE), (30.0, 30.0)):
        with torch.no_grad():
            flow.stack.out.weight.zero_()
            flow.stack.out.bias.copy_(torch.tensor([0.0, bias]))
        assert flow(noise(3)).log_scale.unique().item() == pytest.approx(expected)


def test_gradient_reaches_every_parameter() -> None:
    flows = stack(2, 3, condition=3)
    flowed = flows(noise(20, 2), held(7))
    (flowed.x.square().sum() + flowed.log_scale.sum()).backward()
    assert [
        name for name, p in flows.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_flow_arithmetic_stays_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    flows = FlowStack([network(2)], 0, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        flowed = flows(noise(10).float())
    assert {flowed.x.dtype, flowed.location.dtype, flowed.log_scale.dtype} == {torch.float32}


@pytest.mark.parametrize("fold", [1, 2])
def test_a_unit_of_locations_changes_the_step_and_not_the_flow(fold: int) -> None:
    """Weights of the location's rows divided by the unit: the same samples and totals."""
    network = StackSpec(
        layers=3,
        dilation_cycle=3,
        kernel_size=2,
        residual_channels=6,
        gate_channels=6,
        skip_channels=0,
        hidden_channels=6,
    )
    plain, scaled = (
        FlowStack([network] * 2, 0, 0.1, squeeze=fold, location_scale=unit).double()
        for unit in (1.0, 0.25)
    )
    scaled.load_state_dict(plain.state_dict())
    z = torch.randn(2, 40, dtype=torch.float64)
    assert (scaled(z).x - plain(z).x).abs().max() > 1e-3
    for flow, theirs in zip(scaled.flows, plain.flows, strict=True):
        with torch.no_grad():
            flow.stack.out.weight /= flow.units[..., None]
            flow.stack.out.bias /= flow.units[:, 0]
        torch.testing.assert_close(flow.last_layer()[0], theirs.stack.out.weight)
    for name in ("x", "location", "log_scale"):
        torch.testing.assert_close(getattr(scaled(z), name), getattr(plain(z), name))
