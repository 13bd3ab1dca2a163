"""Causal convolutions and the stack of gated layers: causality, exact receptive field, streaming,
equations.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vqwave.nn.causal import CausalConv1d, dilation_cycle, receptive_field, shift_right
from vqwave.nn.condition import Condition
from vqwave.nn.wavenet import GatedLayer, Stack, StackSpec, StackState

F64 = torch.float64
STACKS = [  # wide enough that no output hangs on one ReLU
    StackSpec(
        layers=3,
        dilation_cycle=3,
        kernel_size=2,
        residual_channels=4,
        gate_channels=3,
        skip_channels=9,
        hidden_channels=16,
    ),
    StackSpec(
        layers=6,
        dilation_cycle=3,
        kernel_size=2,
        residual_channels=3,
        gate_channels=4,
        skip_channels=8,
        hidden_channels=16,
    ),
    StackSpec(
        layers=4,
        dilation_cycle=2,
        kernel_size=3,
        residual_channels=4,
        gate_channels=3,
        skip_channels=9,
        hidden_channels=16,
    ),
    StackSpec(
        layers=4,
        dilation_cycle=2,
        kernel_size=3,
        residual_channels=8,
        gate_channels=3,
        skip_channels=0,
        hidden_channels=16,
    ),
    StackSpec(
        layers=1,
        dilation_cycle=1,
        kernel_size=1,
        residual_channels=2,
        gate_channels=2,
        skip_channels=8,
        hidden_channels=16,
    ),
]
CHUNKS = [[1] * 29, [29], [7, 1, 1, 12, 8], [2, 27], [28, 1]]


def influence(network: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Which of the inputs x (B, C, T) reach which outputs (B, C', T'), (T', T) bool, by autograd;
    B, so that no ReLU hides one.
    """
    x = x.clone().requires_grad_()
    y = network(x)
    rows = [
        torch.autograd.grad(y[..., t].abs().sum(), x, retain_graph=True)[0]
        for t in range(y.shape[-1])
    ]
    return torch.stack([row.abs().sum((0, 1)) > 0 for row in rows])


def band(T: int, nearest: int, farthest: int) -> Tensor:
    """(T, T) bool: output t depends on inputs t - farthest .. t - nearest."""
    distance = torch.arange(T)[:, None] - torch.arange(T)
    return (distance >= nearest) & (distance <= farthest)


def build(spec: StackSpec, condition_channels: int = 0) -> Stack:
    torch.manual_seed(0)
    return spec.build(4, condition_channels).double()


@pytest.mark.parametrize(
    ("kernel", "dilations", "samples"),
    [
        (2, dilation_cycle(10, 10), 1024),
        (2, dilation_cycle(20, 10), 2047),
        (2, dilation_cycle(50, 10), 5116),
        (3, dilation_cycle(30, 10), 6139),
        (3, dilation_cycle(12, 6), 253),
        (3, dilation_cycle(60, 10), 12277),
    ],
)
def test_receptive_fields_of_the_papers(kernel: int, dilations: list[int], samples: int) -> None:
    assert receptive_field(kernel, dilations) == samples


@pytest.mark.parametrize("spec", STACKS)
def test_the_receptive_field_is_exact(spec: StackSpec) -> None:
    """Nothing from outside it, and every sample inside reaches the output, the farthest
    included.
    """
    T = spec.receptive_field + 5
    x = torch.randn(
        6, spec.residual_channels, T, dtype=F64, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(influence(build(spec), x), band(T, 0, spec.receptive_field - 1))


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (2, 4), (3, 2)])
def test_causal_convolution_is_its_equation(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = CausalConv1d(3, 2, kernel, dilation).double()
    x = torch.randn(2, 3, 11, dtype=F64)
    y, past = conv(x)
    for t in range(11):
        expected = conv.bias.expand(2, 2)
        for i in range(kernel):
            at = t - (kernel - 1 - i) * dilation
            if at >= 0:
                expected = expected + x[..., at] @ conv.weight[..., i].t()
        torch.testing.assert_close(y[..., t], expected)
    assert past.shape == (2, 3, conv.span)
    assert torch.equal(past, x[..., 11 - conv.span :])


def test_shift_right_is_strict() -> None:
    x = torch.arange(1.0, 6.0)[None]
    assert shift_right(x).tolist() == [[0, 1, 2, 3, 4]]
    assert shift_right(x, torch.tensor([[9.0]])).tolist() == [[9, 1, 2, 3, 4]]
    assert torch.equal(influence(shift_right, torch.randn(1, 1, 6)), band(6, 1, 1))


@pytest.mark.parametrize("spec", STACKS)
@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("columns", [0, 1, 4, 11])
def test_chunked_equals_whole(spec: StackSpec, chunks: list[int], columns: int) -> None:
    """For any chunking, unconditioned, with one column, with columns that run out (the last holds),
    and with enough.
    """
    stack = build(spec, 3 if columns else 0)
    x = torch.randn(2, spec.residual_channels, 29, dtype=F64)
    condition = (
        stack.project(Condition(torch.randn(2, 3, columns, dtype=F64), 3)) if columns else None
    )
    whole, state, start, parts = stack(x, condition), StackState(), 0, []
    for count in chunks:
        parts.append(stack(x[..., start : start + count], condition, state))
        start += count
        assert state.time == start
    torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=0, atol=1e-12)
    assert [past.shape[-1] for past in state.pasts] == [
        (spec.kernel_size - 1) * d for d in spec.dilations
    ]


def test_a_forgotten_past_would_show() -> None:
    """The test above can fail: without the state the chunks differ from the whole."""
    stack, x = build(STACKS[0]), torch.randn(1, 4, 20, dtype=F64)
    parts = torch.cat([stack(x[..., :9]), stack(x[..., 9:])], -1)
    assert (parts - stack(x)).abs().max() > 1e-4


def test_a_gated_layer_is_its_equation() -> None:
    torch.manual_seed(0)
    layer = GatedLayer(4, 3, 5, 2, 2).double()
    x, h = torch.randn(2, 4, 9, dtype=F64), torch.randn(2, 6, 9, dtype=F64)
    out = layer(x, Condition(h, 1))
    a, _ = layer.dilated(x)
    z = torch.tanh(a[:, :3] + h[:, :3]) * torch.sigmoid(a[:, 3:] + h[:, 3:])
    torch.testing.assert_close(out.residual, x + layer.residual(z))
    torch.testing.assert_close(out.skip, layer.skip(z))
    assert layer.residual.weight.shape != layer.skip.weight.shape


@pytest.mark.parametrize("spec", STACKS)
def test_gradient_reaches_every_parameter(spec: StackSpec) -> None:
    stack = build(spec, 3)
    condition = Condition(torch.randn(2, 3, 5, dtype=F64), 4)
    stack(
        torch.randn(2, spec.residual_channels, 20, dtype=F64), stack.project(condition)
    ).square().sum().backward()
    assert [
        name for name, p in stack.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ] == []


@pytest.mark.parametrize("spec", STACKS[:3])
def test_each_layer_adds_its_own_part_of_the_condition(spec: StackSpec) -> None:
    """A condition through the projection of one layer alone changes the output, whichever layer it
    is.
    """
    stack, x = build(spec, 2), torch.randn(1, spec.residual_channels, 12, dtype=F64)
    plain, width = stack(x), 2 * spec.gate_channels
    for i in range(spec.layers):
        features = torch.zeros(1, spec.layers * width, 1, dtype=F64)
        features[:, i * width : (i + 1) * width] = 1.0
        assert (stack(x, Condition(features, 1)) - plain).abs().max() > 1e-6
    torch.testing.assert_close(
        stack(x, Condition(torch.zeros(1, spec.layers * width, 1, dtype=F64), 1)), plain
    )
