"""`vqwave bench train`: each step runs and learns, its rows are complete, its count is that
of the layers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
import torch
from small_models import stack
from torch.utils.flop_counter import FlopCounterMode

from vqwave.bench import train
from vqwave.nn.wavenet import StackSpec, force_layerwise

TINY = replace(
    train.SIZES["small"],
    teacher=stack(4),
    flows=(1, 2),
    flow=StackSpec(
        dilation_cycle=2,
        kernel_size=2,
        residual_channels=4,
        gate_channels=4,
        skip_channels=0,
        hidden_channels=4,
    ),
    samples=320,
)


@pytest.mark.parametrize("name", train.STEPS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_runs_and_learns(name: str, precision: str) -> None:
    torch.manual_seed(0)
    trained, loss = train.STEPS[name](TINY, torch.device("cpu"))
    step = train.optimized(trained, loss, torch.device("cpu"), precision)
    before = {key: p.detach().clone() for key, p in trained.named_parameters()}
    step()
    moved = [
        key
        for key, p in trained.named_parameters()
        if p.requires_grad and not torch.equal(p, before[key])
    ]
    assert any("stack.layers" in key for key in moved)
    assert any("stack.out" in key for key in moved)
    assert all(torch.isfinite(p).all() for p in trained.parameters())


def test_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(train.SIZES, "small", TINY)
    wanted = argparse.Namespace(
        sizes=["small"], steps=["teacher"], precision="fp32", plain=True, seconds=0.0
    )
    speed, memory = train.rows(wanted)
    assert (speed.unit, memory.unit) == ("samples/s", "MiB")
    assert speed.times_real_time == pytest.approx(speed.value / 8000)
    assert speed.floor_share > 0
    assert speed.reference_ratio > 0
    assert memory.value > 0


def test_the_products_are_counted_layer_by_layer() -> None:
    """Within `force_layerwise` the counter sees what the layers must multiply at least; at once,
    only what is around them.
    """
    step = train.optimized(*train.teacher(TINY, torch.device("cpu")), torch.device("cpu"), "fp32")
    with FlopCounterMode(display=False) as counter, force_layerwise():
        step()
    spec, samples = TINY.teacher, TINY.clips * TINY.samples
    layers = spec.layers * (
        spec.kernel_size * spec.residual_channels * 2 * spec.gate_channels
        + spec.gate_channels * spec.skip_channels
    )
    forward = (
        layers
        + (spec.layers - 1) * spec.gate_channels * spec.residual_channels
        + spec.skip_channels * spec.hidden_channels
        + spec.hidden_channels * 256
    )
    assert counter.get_total_flops() == pytest.approx(6 * forward * samples, rel=0.05)
