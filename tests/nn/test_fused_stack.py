"""The layers of a whole clip at once against the same layers one by one: values and all first
derivatives.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vqwave.nn import fused_stack
from vqwave.nn.condition import Condition
from vqwave.nn.wavenet import ContextSpec, Stack, StackSpec, StackState, force_layerwise

F64 = torch.float64
STACKS = {
    "skips": StackSpec(
        layers=6,
        dilation_cycle=3,
        kernel_size=2,
        residual_channels=3,
        gate_channels=4,
        skip_channels=8,
        hidden_channels=16,
    ),
    "no skips": StackSpec(
        layers=4,
        dilation_cycle=2,
        kernel_size=3,
        residual_channels=8,
        gate_channels=3,
        skip_channels=0,
        hidden_channels=16,
    ),
    "one tap": StackSpec(
        layers=2,
        dilation_cycle=1,
        kernel_size=1,
        residual_channels=2,
        gate_channels=2,
        skip_channels=8,
        hidden_channels=16,
    ),
    "one layer": StackSpec(
        layers=1,
        dilation_cycle=1,
        kernel_size=2,
        residual_channels=2,
        gate_channels=2,
        skip_channels=8,
        hidden_channels=16,
    ),
    "one layer, no skips": StackSpec(
        layers=1,
        dilation_cycle=1,
        kernel_size=2,
        residual_channels=4,
        gate_channels=2,
        skip_channels=0,
        hidden_channels=16,
    ),
    "farther than the clip": StackSpec(
        layers=8,
        dilation_cycle=8,
        kernel_size=3,
        residual_channels=3,
        gate_channels=4,
        skip_channels=8,
        hidden_channels=16,
    ),
    "context": StackSpec(
        layers=3,
        dilation_cycle=3,
        residual_channels=3,
        gate_channels=4,
        skip_channels=8,
        context=ContextSpec(stride=4, layers=2, residual_channels=5, channels=3),
    ),
}
T = 29


def build(spec: StackSpec, condition_channels: int, dtype: torch.dtype = F64) -> Stack:
    torch.manual_seed(0)
    return spec.build(4, condition_channels).to(dtype)


def derivatives(
    stack: Stack, x: Tensor, features: Tensor | None, hold: int, *, whole: bool
) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of a fixed sum of it: of x, of the condition, of every
    parameter that the output depends on.
    """
    x = x.clone().requires_grad_()
    features = None if features is None else features.clone().requires_grad_()
    projected = None if features is None else stack.project(Condition(features, hold))
    y = stack(x, projected, None if whole else StackState())
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y)
    wanted = [
        p
        for name, p in stack.named_parameters()
        if features is not None or name != "projection.weight"
    ]
    return y, list(
        torch.autograd.grad(
            (y * weights).sum(), [x, *([] if features is None else [features]), *wanted]
        )
    )


@pytest.mark.parametrize("spec", STACKS.values(), ids=STACKS)
@pytest.mark.parametrize("columns", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("hold", [1, 4])
def test_all_at_once_is_one_after_another(spec: StackSpec, columns: int, hold: int) -> None:
    """Float64: without a condition, with one column, with columns that run out (the last one
    holds), with more than the output depends on.
    """
    stack = build(spec, 5 if columns else 0)
    x = torch.randn(2, spec.residual_channels, T, dtype=F64)
    features = torch.randn(2, 5, columns, dtype=F64) if columns else None
    expected, expected_gradients = derivatives(stack, x, features, hold, whole=False)
    found, gradients = derivatives(stack, x, features, hold, whole=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-11, atol=1e-12)


def test_one_condition_for_all_clips_gets_the_gradient_of_all() -> None:
    spec = STACKS["skips"]
    stack, x = build(spec, 5), torch.randn(3, spec.residual_channels, T, dtype=F64)
    features = torch.randn(1, 5, 4, dtype=F64)
    _, expected = derivatives(stack, x, features, 4, whole=False)
    _, found = derivatives(stack, x, features, 4, whole=True)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("spec", [STACKS["skips"], STACKS["no skips"]])
@pytest.mark.parametrize("clips", [2, 3, 5])
def test_threads_that_take_whole_clips_find_the_same_and_the_same_again(
    spec: StackSpec, clips: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_stack, "WORTH_A_THREAD", 1)
    stack, x, features = (
        build(spec, 5),
        torch.randn(clips, spec.residual_channels, T, dtype=F64),
        torch.randn(clips, 5, 4, dtype=F64),
    )
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected, gradients = derivatives(stack, x, features, 4, whole=True)
        torch.set_num_threads(2)
        assert fused_stack.Groups.of(x).workers == 2
        found, others = derivatives(stack, x, features, 4, whole=True)
        again, once_more = derivatives(stack, x, features, 4, whole=True)
        with torch.inference_mode():
            torch.testing.assert_close(
                stack(x, stack.project(Condition(features, 4))), expected, rtol=0, atol=1e-13
            )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close([found, *others], [expected, *gradients], rtol=1e-11, atol=1e-12)
    assert all(
        torch.equal(a, b) for a, b in zip([found, *others], [again, *once_more], strict=True)
    )


@pytest.mark.parametrize("spec", STACKS.values(), ids=STACKS)
def test_checkpointing_gives_the_same_bit_for_bit_and_keeps_less(spec: StackSpec) -> None:
    stack, x, features = (
        build(spec, 5),
        torch.randn(2, spec.residual_channels, T, dtype=F64),
        torch.randn(2, 5, 4, dtype=F64),
    )
    kept, results = [], []
    for stack.checkpointing in (False, True):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t.numel()) or t, lambda t: t
        ):
            y, gradients = derivatives(stack, x, features, 4, whole=True)
        results.append([y, *gradients])
        kept.append(-1)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    between = kept.index(-1)
    assert (
        sum(kept[:between]) - sum(kept[between + 1 : -1])
        >= spec.layers * 2 * 2 * spec.gate_channels * T
    )


@pytest.mark.parametrize("spec", [STACKS["skips"], STACKS["no skips"]])
def test_a_frozen_stack_passes_the_same_gradients_on(spec: StackSpec) -> None:
    stack, x = build(spec, 5), torch.randn(2, spec.residual_channels, T, dtype=F64)
    features = torch.randn(2, 5, 4, dtype=F64, requires_grad=True)

    def gradients() -> tuple[Tensor, ...]:
        inputs = x.clone().requires_grad_()
        return torch.autograd.grad(
            stack(inputs, stack.project(Condition(features, 4))).square().sum(), [inputs, features]
        )

    learning = gradients()
    stack.requires_grad_(False)
    for mine, theirs in zip(gradients(), learning, strict=True):
        assert torch.equal(mine, theirs)


def test_float32_is_as_near_to_the_truth_as_the_layers_one_by_one() -> None:
    """At a working size, against float64: the error may be at most twice that of the plain
    definition.
    """
    spec = StackSpec(
        layers=20,
        dilation_cycle=10,
        residual_channels=32,
        gate_channels=32,
        skip_channels=64,
        hidden_channels=64,
    )
    truth, single = build(spec, 5), build(spec, 5, torch.float32)
    x, features = (
        torch.randn(1, spec.residual_channels, 400, dtype=F64),
        torch.randn(1, 5, 10, dtype=F64),
    )
    expected, expected_gradients = derivatives(truth, x, features, 40, whole=False)

    def errors(whole: bool) -> tuple[float, float]:
        y, gradients = derivatives(single, x.float(), features.float(), 40, whole=whole)
        pairs = zip(gradients, expected_gradients, strict=True)
        return float((y - expected).abs().max()), max(
            float((g - e).norm() / e.norm()) for g, e in pairs
        )

    plain, fast = errors(whole=False), errors(whole=True)
    assert fast[0] < 2 * plain[0] < 1e-4
    assert fast[1] < 2 * plain[1] < 1e-3


def test_it_takes_the_same_dtype_road_under_autocast() -> None:
    """bfloat16 products: near to float32, closer or as close as the plain layers are, and with
    gradients in float32.
    """
    spec = StackSpec(
        layers=10,
        dilation_cycle=5,
        residual_channels=32,
        gate_channels=32,
        skip_channels=64,
        hidden_channels=64,
    )
    stack = build(spec, 5, torch.float32)
    x, features = torch.randn(2, spec.residual_channels, 300), torch.randn(2, 5, 5)
    exact, exact_gradients = derivatives(stack, x, features, 60, whole=False)

    def errors(whole: bool) -> tuple[float, float]:
        with torch.autocast("cpu", torch.bfloat16):
            y, gradients = derivatives(stack, x, features, 60, whole=whole)
        assert all(g.dtype == torch.float32 for g in gradients)
        pairs = zip(gradients, exact_gradients, strict=True)
        return float((y - exact).norm() / exact.norm()), max(
            float((g - e).norm() / e.norm()) for g, e in pairs
        )

    plain, fast = errors(whole=False), errors(whole=True)
    assert fast[0] < 1.5 * plain[0] < 0.1
    assert fast[1] < 1.5 * plain[1] < 0.4


def test_without_gradients_nothing_is_kept_and_nothing_changes() -> None:
    stack, x = build(STACKS["skips"], 0), torch.randn(2, 3, T, dtype=F64)
    before = x.clone()
    with torch.no_grad():
        quiet = stack(x)
    assert torch.equal(x, before)
    assert torch.equal(quiet, stack(x))


def test_a_second_derivative_is_refused_at_once_and_there_layer_by_layer() -> None:
    stack, x = build(STACKS["skips"], 0), torch.randn(1, 3, T, dtype=F64, requires_grad=True)
    (first,) = torch.autograd.grad(stack(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()
    with force_layerwise():
        (first,) = torch.autograd.grad(stack(x).square().sum(), x, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), x)[0].abs().max() > 0


def test_a_condition_may_begin_before_the_clip() -> None:
    """An origin before the first sample takes the plain road; it must not be taken for one that
    begins with the clip.
    """
    spec = replace(STACKS["skips"], layers=2)
    stack, x = build(spec, 5), torch.randn(1, 3, T, dtype=F64)
    held = stack.project(Condition(torch.randn(1, 5, 9, dtype=F64), 4))
    early = Condition(held.features, held.repeat, -3)
    torch.testing.assert_close(stack(x, early), stack(x, early, StackState()))
    assert not torch.allclose(stack(x, early), stack(x, held))
