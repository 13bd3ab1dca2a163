"""Inverse and masked flows: one is undone by the other, densities follow the change of variables,
chunks may be any.
"""

from __future__ import annotations

import pytest
import small_models
import torch
from torch import Tensor

from vqwave.nn.condition import Condition
from vqwave.nn.flows import AffineFlow, FlowCondition, FlowStack, FlowState, MaskedFlow

F64 = torch.float64
DIRECTIONS = [AffineFlow, MaskedFlow]


def stack(
    flow: type[AffineFlow], fold: int = 1, *, stagger: bool = False, flows: int = 2
) -> FlowStack:
    """Random flows whose outputs really vary, float64, conditioned on three channels."""
    torch.manual_seed(0)
    network = small_models.stack(4, kernel_size=2, skip_channels=0)
    stacked = FlowStack(
        [network] * flows, 3, 0.5, squeeze=fold, stagger_blocks=stagger, flow=flow
    ).double()
    with torch.no_grad():
        for each in stacked.flows:
            each.stack.out.weight.mul_(20.0)
    return stacked


def noise(T: int, B: int = 1) -> Tensor:
    return torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(2))


def held(hold: int = 8) -> FlowCondition:
    features = torch.randn(1, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(3))
    return FlowCondition(Condition(features, hold))


@pytest.mark.parametrize("flow", DIRECTIONS)
@pytest.mark.parametrize(("fold", "stagger"), [(1, False), (4, False), (4, True)])
def test_inverse_and_forward_undo_each_other(
    flow: type[AffineFlow], fold: int, stagger: bool
) -> None:
    flows, z = stack(flow, fold, stagger=stagger), noise(21, 2)
    there = flows(z, held())
    back = flows.inverse(there.x, held())
    torch.testing.assert_close(back.z, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(flows(back.z, held()).x, there.x, rtol=0, atol=1e-10)
    for name in ("location", "log_scale"):
        torch.testing.assert_close(getattr(back, name), getattr(there, name), rtol=0, atol=1e-9)
    assert (there.x - z).abs().mean() > 0.1


def test_maf_after_iaf_is_the_identity() -> None:
    """Inverting an IAF is sampling from an MAF: z_t = (x_t - mu(z_{<t})) / s(z_{<t}) depends on its
    own output.
    """
    inverse, masked = stack(AffineFlow, flows=1), stack(MaskedFlow, flows=1)
    masked.load_state_dict(inverse.state_dict())
    z = noise(16)
    x = inverse(z, held()).x

    class Undone(MaskedFlow):
        """The MAF that has the location -mu / s and the scale 1 / s of the same network."""

        def _network(self, inputs: Tensor, condition: FlowCondition, state: FlowState) -> Tensor:
            location, log_scale = super()._network(inputs, condition, state).unbind(1)
            return torch.stack([-location * (-log_scale).exp(), -log_scale], 1)

    masked.flows[0].__class__ = Undone
    torch.testing.assert_close(masked(x, held()).x, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        inverse.inverse(masked.inverse(z, held()).z, held()).z, z, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("flow", DIRECTIONS)
@pytest.mark.parametrize("fold", [1, 2])
def test_the_log_determinant_is_autograds(flow: type[AffineFlow], fold: int) -> None:
    flows, x = stack(flow, fold), noise(10)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: flows.inverse(x[None], held()).z[0], x[0]
    )
    assert torch.equal(jacobian.triu(1), torch.zeros_like(jacobian))
    torch.testing.assert_close(
        jacobian.slogdet().logabsdet, -flows.inverse(x, held()).log_scale.sum()
    )


@pytest.mark.parametrize("flow", DIRECTIONS)
def test_one_direction_takes_one_pass_and_the_other_one_a_block(flow: type[AffineFlow]) -> None:
    flows, passes = stack(flow, 2, flows=1), []
    flows.flows[0].stack.register_forward_hook(lambda *_: passes.append(1))
    parallel, sequential = (flows.inverse, flows) if flow is MaskedFlow else (flows, flows.inverse)
    for run, expected in ((parallel, 1), (sequential, 6)):
        passes.clear()
        run(noise(12), held())
        assert len(passes) == expected


def test_a_masked_flow_depends_on_audio_and_an_inverse_flow_on_noise() -> None:
    """The same network, given the same sequence, yields the same location and scale."""
    masked, inverse = stack(MaskedFlow, flows=1), stack(AffineFlow, flows=1)
    torch.testing.assert_close(
        masked.inverse(noise(12), held()).location, inverse(noise(12), held()).location
    )
    assert not torch.allclose(
        masked(noise(12), held()).location, inverse(noise(12), held()).location
    )


@pytest.mark.parametrize("flow", DIRECTIONS)
@pytest.mark.parametrize(("fold", "stagger"), [(1, False), (4, False), (4, True)])
@pytest.mark.parametrize("chunks", [[1] * 23, [4, 8, 8, 3], [3, 1, 14, 5]])
def test_chunked_equals_whole_both_ways(
    flow: type[AffineFlow], fold: int, stagger: bool, chunks: list[int]
) -> None:
    flows, z = stack(flow, fold, stagger=stagger), noise(23)
    whole = flows(z, held())
    for run, given, name in ((flows, z, "x"), (flows.inverse, whole.x, "z")):
        states = [FlowState() for _ in flows.flows]
        parts = [getattr(run(part, held(), states), name) for part in given.split(chunks, 1)]
        torch.testing.assert_close(torch.cat(parts, 1), getattr(whole, name), rtol=0, atol=1e-10)


def test_density_of_the_past_then_sampling_goes_on_from_it() -> None:
    """One state serves both: a masked flow that was given a recording continues it as if it had
    drawn it itself.
    """
    flows, z = stack(MaskedFlow, 2, stagger=True), noise(20)
    whole, states = flows(z, held()), [FlowState() for _ in range(2)]
    flows.inverse(whole.x[:, :13], held(), states)
    torch.testing.assert_close(
        flows(z[:, 13:], held(), states).x, whole.x[:, 13:], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("flow", DIRECTIONS)
def test_gradient_of_the_density_reaches_every_parameter(flow: type[AffineFlow]) -> None:
    flows = stack(flow, 2)
    back = flows.inverse(noise(16), held())
    (back.z.square().sum() / 2 + back.log_scale.sum()).backward()
    assert [
        name for name, p in flows.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ] == []
