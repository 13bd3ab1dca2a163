"""Folded time: what a block depends on, its Jacobian, the exact field, the cost, staggering."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vqwave.nn.condition import Condition
from vqwave.nn.flows import FlowCondition, FlowStack
from vqwave.nn.wavenet import StackSpec, force_layerwise

F64 = torch.float64
FOLDS = [2, 4, 8]


def stack(
    fold: int, *, stagger: bool = False, layers: tuple[int, ...] = (1, 2), condition: int = 0
) -> FlowStack:
    torch.manual_seed(0)
    networks = [
        StackSpec(
            layers=n,
            dilation_cycle=2,
            kernel_size=2,
            residual_channels=8,
            gate_channels=8,
            skip_channels=0,
            hidden_channels=16,
        )
        for n in layers
    ]
    flows = FlowStack(networks, condition, 0.5, squeeze=fold, stagger_blocks=stagger).double()
    with torch.no_grad():
        for flow in flows.flows:
            flow.stack.out.weight.mul_(20.0)
    return flows


def noise(T: int, B: int = 1) -> Tensor:
    return torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(2))


def jacobian_of(flows: FlowStack, name: str, T: int) -> Tensor:
    return torch.autograd.functional.jacobian(
        lambda z: getattr(flows(z[None]), name)[0], noise(T)[0]
    )


@pytest.mark.parametrize("fold", FOLDS)
def test_the_jacobian_is_block_triangular_with_diagonal_blocks_on_its_diagonal(fold: int) -> None:
    flows, T = stack(fold), 5 * fold
    jacobian, flowed = jacobian_of(flows, "x", T), flows(noise(T))
    block = torch.arange(T) // fold
    within = block[:, None] == block
    assert not jacobian[block[:, None] < block].any()
    torch.testing.assert_close(
        jacobian[within].view(5, fold, fold),
        torch.diag_embed(flowed.log_scale[0].exp().view(5, fold)),
    )
    assert jacobian[block[:, None] == block + 1].abs().min() > 0
    torch.testing.assert_close(jacobian.slogdet().logabsdet, flowed.log_scale.sum())


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("name", ["location", "log_scale"])
def test_a_block_depends_on_earlier_blocks_alone(fold: int, name: str) -> None:
    flows, T = stack(fold), 4 * fold
    block = torch.arange(T) // fold
    depends = jacobian_of(flows, name, T) != 0
    assert not depends[block[:, None] <= block].any()
    assert depends[block[:, None] == block + 1].all()


@pytest.mark.parametrize("fold", [1, *FOLDS])
@pytest.mark.parametrize("stagger", [False, True])
@pytest.mark.parametrize("layers", [(1,), (1, 2), (1, 1, 1)])
def test_the_receptive_field_is_the_farthest_that_any_sample_depends_on(
    fold: int, stagger: bool, layers: tuple[int, ...]
) -> None:
    flows = stack(fold, stagger=stagger, layers=layers)
    T = flows.receptive_field + 2 * fold
    depends = jacobian_of(flows, "x", T) != 0
    distance = torch.arange(T)[:, None] - torch.arange(T)
    assert distance[depends].max() + 1 == flows.receptive_field
    if not stagger:
        assert flows.receptive_field == fold * (
            1 + sum(flow.stack.receptive_field for flow in flows.flows)
        )


@pytest.mark.parametrize("fold", FOLDS)
def test_staggered_blocks_keep_strict_causality_and_hear_inside_the_block(fold: int) -> None:
    """So x_t given z_{<t} stays one logistic: the totals never hear z_t, and the Jacobian is
    triangular.
    """
    flows, plain, T = stack(fold, stagger=True), stack(fold), 5 * fold
    assert [flow.offset for flow in flows.flows] == [0, fold // 2]
    jacobian, flowed = jacobian_of(flows, "x", T), flows(noise(T))
    assert not jacobian.triu(1).any()
    torch.testing.assert_close(jacobian.diagonal(), flowed.log_scale[0].exp())
    torch.testing.assert_close(flowed.x, flowed.z * flowed.log_scale.exp() + flowed.location)
    for name in ("location", "log_scale"):
        assert not jacobian_of(flows, name, T).triu(0).any()
    block = torch.arange(T) // fold
    inside = (block[:, None] == block) & (torch.arange(T)[:, None] > torch.arange(T))
    assert (jacobian[inside] != 0).any()
    assert not jacobian_of(plain, "x", T)[inside].any()


@pytest.mark.parametrize("fold", [1, *FOLDS])
def test_the_cost_is_counted_and_falls_with_the_fold(fold: int) -> None:
    T = 512
    flows = stack(fold, layers=(4, 4))
    # it does not see products in place
    with FlopCounterMode(display=False) as counter, force_layerwise():
        flows(noise(T))
    assert counter.get_total_flops() / 2 / T == pytest.approx(flows.macs_per_sample)
    assert flows.macs_per_sample < 1.6 * stack(1, layers=(4, 4)).macs_per_sample / fold


@pytest.mark.parametrize("fold", FOLDS)
def test_each_block_has_the_condition_of_its_own_samples(fold: int) -> None:
    flows, z = stack(fold, condition=3), noise(24)
    features = torch.randn(1, 3, 3, dtype=F64)
    changed = features.clone()
    changed[..., 1] += 1.0
    moved = (
        flows(z, FlowCondition(Condition(features, 8))).x
        != flows(z, FlowCondition(Condition(changed, 8))).x
    )[0]
    assert not moved[:8].any()
    assert moved[8:16].all()


def test_a_label_holds_for_all_blocks() -> None:
    flows, z = stack(4, condition=3), noise(24)
    label = torch.randn(1, 3, 1, dtype=F64)
    torch.testing.assert_close(
        flows(z, FlowCondition(Condition(label, 1))).x,
        flows(z, FlowCondition(Condition(label.expand(1, 3, 3), 8))).x,
    )
