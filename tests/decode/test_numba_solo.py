"""One stream: working ahead and two cores change nothing but the time it takes, and neither thread
waits indefinitely.
"""

from __future__ import annotations

import dataclasses
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.decode.cpu import precision
from vqwave.decode.cpu.precision import missing, numbers
from vqwave.decode.cpu.processor import has
from vqwave.decode.sampling import Temperatures
from vqwave.distributions import MixtureOfLogistics, MuLaw
from vqwave.errors import UserInputError
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import StackSpec

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from numba.core.runtime import rtsys
from numba.core.runtime._nrt_python import memsys_disable_stats, memsys_enable_stats

from vqwave.decode.cpu import processor, rates
from vqwave.decode.cpu.wavenet import decoder as wavenet_decoder
from vqwave.decode.cpu.wavenet import two_core
from vqwave.decode.cpu.wavenet.atomic_flags import wait_for
from vqwave.decode.cpu.wavenet.state import APART, SIGNALS, signals

PRECISIONS = ["float32", "bf16", "bf16-dot", "int8"]
DEEP = StackSpec(
    layers=9,
    dilation_cycle=5,
    kernel_size=2,
    residual_channels=32,
    gate_channels=16,
    skip_channels=48,
    hidden_channels=32,
)
SHAPES = [
    DEEP,
    dataclasses.replace(DEEP, kernel_size=3, residual_channels=24, gate_channels=20),
    dataclasses.replace(DEEP, kernel_size=1),
    dataclasses.replace(DEEP, kernel_size=3, skip_channels=0),
]
HOP = 40


def wavenet(shape: StackSpec = DEEP, head: MuLaw | MixtureOfLogistics = MuLaw()) -> WaveNet:  # noqa: B008
    torch.manual_seed(3)
    spec = WaveNetSpec(
        head=head, network=shape, conditioner=ConditionerSpec(channels=12, categorical=())
    )
    net = spec.build(8000, {}, 5, HOP)
    with torch.no_grad():
        net.stack.out.weight.mul_(4.0)
        net.stack.projection.weight.mul_(4.0)
    return net.eval()


@torch.no_grad()
def condition(net: WaveNet, streams: int = 1) -> Condition:
    return net.condition(torch.randn(streams, 5, 6, generator=torch.Generator().manual_seed(1)), {})


def able(precision: str) -> None:
    reason = missing(precision)
    if reason:
        pytest.skip(reason)


def decoder(
    net: WaveNet, precision: str, threads: int, streams: int = 1
) -> wavenet_decoder.Decoder:
    return wavenet_decoder.Decoder(
        net, condition(net, streams), torch.arange(streams), weights=precision, threads=threads
    )


def drawn(built: wavenet_decoder.Decoder, *counts: int) -> Tensor:
    return torch.cat([chunk for count in counts for chunk in built.sample(count, seed=9)], 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_solo_kernel_has_the_bits_of_the_batch(shape: StackSpec, precision: str) -> None:
    able(precision)
    net = wavenet(shape)
    everyone = condition(net, 11)
    together = drawn(decoder(net, precision, 1, streams=11), 300)
    first = Condition(everyone.features[:1], everyone.repeat)
    alone = wavenet_decoder.Decoder(net, first, torch.arange(1), weights=precision, threads=1)
    assert alone.groups[0].cache is not None
    assert torch.equal(drawn(alone, 300), together[:1])
    assert together[0].std() > 1e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_chunks_of_any_length_meet_in_the_middle_of_what_was_foreseen(precision: str) -> None:
    able(precision)
    net = wavenet()
    full = drawn(decoder(net, precision, 1), 260)
    assert torch.equal(drawn(decoder(net, precision, 1), 1, 2, 5, 8, 0, 13, 31, 200), full)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("head", [MuLaw(), MixtureOfLogistics(components=3)])
def test_two_cores_have_the_bits_of_one(
    head: MuLaw | MixtureOfLogistics,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    able(precision)
    monkeypatch.setattr(two_core.ThreadPolicy, "choose", lambda _policy: "together")
    net = wavenet(head=head)
    alone = drawn(decoder(net, precision, 1), 400)
    monkeypatch.setattr(wavenet_decoder, "cores", lambda: 2)
    pair = decoder(net, precision, 2)
    assert pair.groups[0].two_core is not None
    assert torch.equal(drawn(pair, 250, 150), alone)
    assert pair.groups[0].two_core.policy.together is not None


def test_a_second_thread_that_never_runs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept busy elsewhere: the first gives up, draws what it had begun, and continues alone
    with the same bits.
    """
    net = wavenet()
    expected = drawn(decoder(net, "float32", 1), 200)
    monkeypatch.setattr(wavenet_decoder, "cores", lambda: 2)
    pair, done = decoder(net, "float32", 2), threading.Event()
    blocker = two_core._second().submit(done.wait)
    try:
        assert torch.equal(drawn(pair, 200), expected)
    finally:
        done.set()
        blocker.result()


def test_a_wait_ends_when_patience_does() -> None:
    flags = signals(2)
    assert wait_for(flags, 1, 5, 1000) == 0
    flags[APART] = 7
    assert wait_for(flags, 1, 5, 1000) == 7


def test_a_consumer_without_a_producer_returns() -> None:
    built = decoder(wavenet(), "float32", 1)
    group = built.groups[0]
    nothing, sampled, params = (
        np.zeros((1, 0), np.float32),
        np.zeros((1, 4), np.float32),
        np.zeros((1, 0, 1), np.float32),
    )
    flags = signals(SIGNALS)
    draws = (group.streams, np.uint64(0), Temperatures(), nothing, sampled, params)
    network = (group.plan, group.state, group.buffers, built._condition_window(group, 4))
    assert two_core.consume(*network, flags, 0, 4, *draws) == 0
    assert group.state.time[0] == 0


def test_the_policy_takes_the_faster_way_and_asks_again() -> None:
    policy = two_core.ThreadPolicy()
    assert policy.choose() == "together"
    policy.together = 2.0
    assert policy.choose() == "alone"
    policy.alone = 1.0
    ways = [policy.choose() for _ in range(70)]
    tried = [i for i, way in enumerate(ways) if way == "together"]
    assert [b - a - 1 for a, b in pairwise([-1, *tried])] == [
        1,
        0,
        2,
        0,
        4,
        0,
        8,
        0,
        two_core.AGAIN,
        0,
        two_core.AGAIN,
        0,
        two_core.AGAIN,
        0,
    ]
    policy.together = 0.5
    assert [policy.choose() for _ in range(6)] == [
        "together",
        "alone",
        "alone",
        "together",
        "together",
        "alone",
    ]


@pytest.mark.parametrize(
    ("precision", "bound"), [("bf16", 1e-3), ("bf16-dot", 2e-3), ("int8", 5e-3)]
)
def test_narrow_numbers_cost_little(precision: str, bound: float) -> None:
    """KL from the float32 law, in nats a sample, teacher-forced."""
    able(precision)
    net = wavenet()
    x = drawn(decoder(net, "float32", 1), 600)
    exact, coarse = (
        wavenet_decoder.score_wavenet(net, x, condition(net), weights=each)
        for each in ("float32", precision)
    )
    assert not torch.equal(exact, coarse)
    exact, coarse = exact.double().log_softmax(1), coarse.double().log_softmax(1)
    assert (exact.exp() * (exact - coarse)).sum(1).mean() < bound


@pytest.mark.parametrize("streams", [1, 3])
def test_a_stream_takes_no_memory(streams: int) -> None:
    """The kernels allocate nothing, as numba counts it, and what is remembered stays of one
    size.
    """
    tiny = StackSpec(
        layers=3,
        dilation_cycle=3,
        kernel_size=2,
        residual_channels=16,
        gate_channels=16,
        skip_channels=16,
        hidden_channels=16,
    )
    built = decoder(wavenet(tiny), "float32", 1, streams)
    chunks = built.sample(50_000)
    next(chunks)
    shapes = [array.shape for array in built.groups[0].state]
    memsys_enable_stats()
    try:
        before, drawn = rtsys.get_allocation_stats(), sum(chunk.shape[1] for chunk in chunks)
        assert rtsys.get_allocation_stats() == before
    finally:
        memsys_disable_stats()
    assert drawn > 40_000
    assert [array.shape for array in built.groups[0].state] == shapes


def test_names_of_precisions() -> None:
    assert numbers("float32") == "float32"
    with pytest.raises(UserInputError, match="did you mean bf16-dot"):
        numbers("bf16dot")


@pytest.mark.parametrize("gain", [0.5, 1.1, 1.9])
def test_auto_takes_dot_products_only_where_they_are_faster(
    gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "missing", lambda _: None)
    monkeypatch.setattr(rates, "dot_gain", lambda: gain)
    monkeypatch.setattr(processor, "second_level_cache", lambda: 2 << 20)
    for streamed in (0, 2 << 20):
        assert numbers("auto", streamed) == ("bf16-dot" if gain > 1.2 else "float32")
    assert numbers("auto", 5 << 20) == "bf16-dot"  # half as many bytes to read, whatever the gain
    monkeypatch.setattr(precision, "missing", lambda _: "it is missing")
    assert [numbers("auto", streamed) for streamed in (0, 5 << 20)] == ["float32", "bf16"]


@pytest.mark.skipif(missing("bf16-dot") is not None, reason="no dot products of bfloat16 here")
def test_the_gain_of_dot_products_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the clock, not of chance: a kernel that does four times the work has a quarter."""
    rates.dot_gain.cache_clear()
    plain = rates.dot_gain()
    assert 0.2 < plain < 5
    dot = rates.MULTIPLY[rates.DOT]
    slower = {rates.DOT: lambda words, turns: dot(words, 4 * turns)}
    monkeypatch.setattr(rates, "MULTIPLY", rates.MULTIPLY | slower)
    rates.dot_gain.cache_clear()
    assert rates.dot_gain() == pytest.approx(plain / 4, rel=0.5)
    rates.dot_gain.cache_clear()


def test_an_absent_instruction_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", dict)
    assert numbers("auto") == "float32"
    with pytest.warns(UserWarning, match="AVX-512 BF16"):
        assert numbers("bf16-dot") == "bf16"


def test_the_kernels_take_the_instructions_that_numba_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NUMBA_CPU_FEATURES stands for the processor's own, for numba and for the choice of tiles and
    precisions.
    """
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    monkeypatch.setattr(
        "llvmlite.binding.get_host_cpu_features", lambda: {"avx512f": True, "avx2": False}
    )
    assert (has("avx512f"), has("avx2")) == (True, False)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "+avx2,-avx512f")
    assert (has("avx512f"), has("avx2")) == (False, True)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", "")
    assert missing("bf16-dot") is not None
