"""Context stacks: causal, their receptive field exact, streamed equal to parallel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.distributions import Gaussian
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.models.wavenet import WaveNetState
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import ContextSpec, StackSpec

F64 = torch.float64


def build(
    context: ContextSpec | None, labels: tuple[str, ...] = (), layers: int = 3, kernel: int = 2
) -> WaveNet:
    torch.manual_seed(0)
    network = StackSpec(
        layers=layers,
        dilation_cycle=2,
        kernel_size=kernel,
        residual_channels=5,
        gate_channels=4,
        skip_channels=6,
        hidden_channels=6,
        context=context,
    )
    spec = WaveNetSpec(
        head=Gaussian(),
        network=network,
        conditioner=ConditionerSpec(channels=3, categorical=labels),
    )
    return spec.build(8000, {"speaker": ["a", "b"]}).double().eval()


def wave(T: int, B: int = 2) -> Tensor:
    return 0.3 * torch.randn(B, T, dtype=F64, generator=torch.Generator().manual_seed(1))


CONTEXTS = [
    ContextSpec(stride=4, layers=2, residual_channels=5, channels=3),
    ContextSpec(stride=3, layers=1, kernel_size=3, residual_channels=4, channels=2),
    ContextSpec(stride=7, layers=1, kernel_size=1, residual_channels=4, channels=2),
]


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("labels", [(), ("speaker",)])
def test_streamed_equals_parallel(context: ContextSpec, labels: tuple[str, ...]) -> None:
    """In float64 to 1e-9, one sample a step, and in chunks that begin and end anywhere in a
    block.
    """
    wavenet, T = build(context, labels), 47
    x, condition = wave(T), wavenet.condition(None, {"speaker": torch.tensor([0, 1])})
    whole = wavenet.predict(x, condition).location
    projected, before = (
        wavenet.project(condition),
        torch.cat([torch.zeros(2, 1, dtype=F64), x[:, :-1]], 1),
    )
    for chunks in ([1] * T, [4, 4, 4, 35], [1, 6, 11, 2, 27], [46, 1]):
        state, start, parts = WaveNetState(), 0, []
        for count in chunks:
            parts.append(wavenet.step(before[:, start : start + count], projected, state).location)
            start += count
        torch.testing.assert_close(torch.cat(parts, -1), whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize(("layers", "kernel"), [(1, 2), (3, 2), (3, 3)])
def test_a_prediction_depends_on_the_past_alone_as_far_as_stated(
    context: ContextSpec, layers: int, kernel: int
) -> None:
    """By autograd: nothing at or after t, something at the receptive field for some t, nothing
    beyond it for any.
    """
    wavenet = build(context, layers=layers, kernel=kernel)
    R, stride = wavenet.receptive_field, context.stride
    T = R + 2 * stride + 2
    x = wave(T, 4).requires_grad_()
    out = wavenet.predict(x, None).location
    reach = []
    for t in range(T):
        used = (
            torch.autograd.grad(out[..., t].sum(), x, retain_graph=True)[0]
            .abs()
            .sum(0)
            .nonzero()
            .flatten()
        )
        if len(used):
            assert int(used.max()) < t
            reach.append(t - int(used.min()))
    assert max(reach) == R
    assert build(None, layers=layers, kernel=kernel).receptive_field < R


def test_without_a_context_nothing_is_added() -> None:
    wavenet = build(None)
    assert not [name for name, _ in wavenet.named_parameters() if "context" in name]


def test_gradient_reaches_every_parameter_of_the_context() -> None:
    wavenet, x = build(CONTEXTS[0]), wave(40)
    wavenet.predict(x, None).log_prob(x).sum().backward()
    assert [
        name
        for name, p in wavenet.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ] == []


def test_a_context_carries_what_lies_beyond_the_main_stack() -> None:
    """Samples that differ only before the main stack's reach change the prediction through the
    context.
    """
    wavenet, plain, x = build(CONTEXTS[0]), build(None), wave(24)
    y = x.clone()
    y[:, 10] += 1.0
    assert torch.equal(
        plain.predict(x, None).location[..., -1], plain.predict(y, None).location[..., -1]
    )
    assert not torch.equal(
        wavenet.predict(x, None).location[..., -1], wavenet.predict(y, None).location[..., -1]
    )
