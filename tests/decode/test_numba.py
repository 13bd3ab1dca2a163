"""The CPU kernels against the reference: the same law, the same draws, and the same bits however
the work is cut.
"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.decode import backend, reference
from vqwave.decode.backend import SampleRequest
from vqwave.decode.plan import Plan
from vqwave.decode.sampling import Sampling
from vqwave.distributions import (
    Gaussian,
    Head,
    LinearBins,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.errors import UserInputError
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from vqwave.decode.cpu.wavenet import decoder as fast

HEADS = [
    MuLaw(),
    MuLaw(classes=100),
    LinearBins(classes=300),
    MixtureOfLogistics(components=3),
    MixtureOfLogistics(components=1, sample_bits=10),
    MixtureOfGaussians(components=2, location_scale=0.1),
    Gaussian(),
    Logistic(),
]
SMALL = StackSpec(
    layers=6,
    dilation_cycle=3,
    kernel_size=2,
    residual_channels=16,
    gate_channels=16,
    skip_channels=32,
    hidden_channels=48,
)
ODD = StackSpec(
    layers=5,
    dilation_cycle=4,
    kernel_size=3,
    residual_channels=24,
    gate_channels=20,
    skip_channels=40,
    hidden_channels=17,
)
STACKS = [
    SMALL,
    ODD,
    dataclasses.replace(SMALL, kernel_size=1),
    dataclasses.replace(SMALL, kernel_size=4, skip_channels=0),
    StackSpec(
        layers=3,
        dilation_cycle=3,
        kernel_size=2,
        residual_channels=144,
        gate_channels=80,
        skip_channels=272,
        hidden_channels=256,
    ),
]
CONDITIONERS = [
    ConditionerSpec(channels=12),
    ConditionerSpec(channels=16, upsample=(4, 5)),
    ConditionerSpec(channels=5, upsample=(2, 3), categorical=()),
]
FRAMES, HOP = 5, 60


def wavenet(
    head: Head = HEADS[0],
    network: StackSpec = SMALL,
    conditioner: ConditionerSpec = CONDITIONERS[0],
    frames: int = FRAMES,
) -> WaveNet:
    """An untrained network whose past and condition really matter."""
    torch.manual_seed(0)
    net = WaveNetSpec(head=head, network=network, conditioner=conditioner).build(
        8000, {"speaker": ["a", "b"]}, frames, HOP
    )
    with torch.no_grad():
        net.stack.out.weight.mul_(4.0)
        if net.stack.projection is not None:
            net.stack.projection.weight.mul_(4.0)
    return net.eval()


@torch.no_grad()
def condition(net: WaveNet, streams: int, frames: int = 4) -> Condition:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(streams, FRAMES, frames, generator=generator)
    return net.condition(features, {"speaker": torch.arange(streams) % 2})


def rows(full: Condition, chosen: list[int]) -> Condition:
    return Condition(full.features[chosen], full.repeat)


@torch.no_grad()
def exact_params(net: WaveNet, x: Tensor, held: Condition | None) -> Tensor:
    """The head's parameters of the parallel pass, in float64."""
    exact = copy.deepcopy(net).double()
    shifted = torch.nn.functional.pad(x.double(), (1, 0))[:, :-1]
    held = None if held is None else Condition(held.features.double(), held.repeat)
    return exact.stack(exact.input_embedding(shifted), exact.stack.project(held)) * exact.units


def steady_draws(
    net: WaveNet, x: Tensor, held: Condition | None, u: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What the uniforms u (4, B, T) draw from the exact law after the past of x (B, T), and which
    of these draws are steady.

    A draw is steady if its class or component stays the same when u[0] moves by what rounding may
    do to a cumulative probability.
    """
    distribution, u = net.head(exact_params(net, x, held), temperature), u.double()
    moved = [distribution.sample(torch.cat([u[:1] + shift, u[1:]])) for shift in (-1e-4, 1e-4)]
    return distribution.sample(u), moved[0] == moved[1]


def assert_same_up_to_an_edge(
    net: WaveNet,
    held: Condition | None,
    x: Tensor,
    other: Tensor,
    streams: Tensor,
    *,
    seed: int = 0,
) -> None:
    """Free-running draws (B, T) of two back-ends are equal up to the first one that lies on the
    edge of a class, if any does.
    """
    _, steady = steady_draws(net, x, held, uniforms(seed, streams, 0, x.shape[1]))
    assert steady.float().mean() > 0.9
    for row, differs in enumerate(x != other):
        if differs.any():
            assert not steady[row, int(differs.int().argmax())], row


def assert_scores_agree(
    net: WaveNet, held: Condition | None, streams: int, samples: int = 300
) -> None:
    x = reference.sample_wavenet(net, held, samples, streams=torch.arange(streams))
    expected = exact_params(net, x, held)
    assert expected.std() > 1e-2
    scored = fast.score_wavenet(net, x, held, threads=1)
    torch.testing.assert_close(scored.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_teacher_forced_parameters_are_those_of_the_parallel_pass_for_every_head(
    head: Head,
) -> None:
    net = wavenet(head)
    assert_scores_agree(net, condition(net, 3), 3)


@pytest.mark.parametrize("network", STACKS)
@pytest.mark.parametrize("streams", [1, 11])
def test_teacher_forced_parameters_for_every_shape_and_tile(
    network: StackSpec, streams: int
) -> None:
    net = wavenet(network=network)
    assert_scores_agree(net, condition(net, streams), streams)


@pytest.mark.parametrize("conditioner", CONDITIONERS)
@pytest.mark.parametrize("frames", [4, 9])
def test_conditions_at_every_rate_hold_their_last_column(
    conditioner: ConditionerSpec, frames: int
) -> None:
    net = wavenet(conditioner=conditioner)
    assert_scores_agree(net, condition(net, 2, frames), 2, samples=400)


def test_a_network_without_a_condition() -> None:
    net = wavenet(conditioner=ConditionerSpec(categorical=()), frames=0)
    assert net.condition(None, {}) is None
    assert_scores_agree(net, None, 2)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_draws_are_the_references(head: Head, temperature: float) -> None:
    """From the same past, the same uniforms draw the same value: teacher-forced, so that no
    rounding can add up.
    """
    net = wavenet(head)
    held, streams = condition(net, 2), torch.tensor([5, 2 + 2**33])
    x = fast.sample_wavenet(
        net, held, 1500, streams=streams, seed=2**40 + 7, temperature=temperature, threads=1
    )
    again, steady = steady_draws(net, x, held, uniforms(2**40 + 7, streams, 0, 1500), temperature)
    assert steady.float().mean() > 0.9
    if isinstance(head, MuLaw | LinearBins):
        assert torch.equal(head.encode(again)[steady], head.encode(x)[steady])
    else:
        level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
        assert (again - x)[steady].abs().max() < 1.01 * level + 1e-4
    assert x.std() > 1e-3


@pytest.mark.parametrize("head", [MuLaw(), MixtureOfLogistics(components=3), Gaussian()])
def test_temperature_zero_takes_the_likeliest_whatever_the_seed(head: Head) -> None:
    net = wavenet(head)
    held, streams = condition(net, 2), torch.arange(2)
    x, other = (
        fast.sample_wavenet(net, held, 300, streams=streams, seed=seed, temperature=0.0, threads=1)
        for seed in (1, 2)
    )
    assert torch.equal(x, other)
    params = exact_params(net, x, held)
    ordered = head(params).logits.sort(1, descending=True).values
    clear = (ordered[:, :1] - ordered[:, 1:] > 1e-3).all(1)  # (B, T), all of a single component
    expected = head(params, 0.0).sample(torch.full((4, 2, 300), 0.5).double())
    level = 2.0 / 2**16 if isinstance(head, MixtureOfLogistics) else 0.0
    assert (x - expected)[clear].abs().max() <= level + 1e-4
    with pytest.raises(UserInputError, match="temperature -1"):
        fast.sample_wavenet(net, held, 3, streams=streams, temperature=-1.0)


def test_thousands_of_drawn_classes_are_the_references() -> None:
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    drawn = fast.sample_wavenet(net, held, 3000, streams=streams, seed=3, threads=1)
    assert_same_up_to_an_edge(
        net,
        held,
        drawn,
        reference.sample_wavenet(net, held, 3000, streams=streams, seed=3),
        streams,
        seed=3,
    )
    assert len(drawn.unique()) > 50


@pytest.mark.parametrize("weights", ["float32", "bf16"])
@pytest.mark.parametrize("head", [MuLaw(), MixtureOfLogistics(components=3)])
def test_bits_do_not_depend_on_batch_order_or_threads(head: Head, weights: str) -> None:
    net = wavenet(head, ODD)
    held, streams = condition(net, 19), torch.arange(100, 119)

    def draw(chosen: list[int], threads: int = 1) -> Tensor:
        return fast.sample_wavenet(
            net,
            rows(held, chosen),
            250,
            streams=streams[chosen],
            seed=1,
            weights=weights,
            threads=threads,
        )

    everyone = list(range(19))
    full = draw(everyone)
    order = np.random.default_rng(0).permutation(19).tolist()
    assert torch.equal(draw(everyone, threads=2), full)
    assert torch.equal(draw(order), full[order])
    for alone in (0, 7, 18):
        assert torch.equal(draw([alone])[0], full[alone])
    assert torch.equal(draw([3, 9, 4]), full[[3, 9, 4]])
    assert not torch.equal(full[0], full[2])


def test_bits_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    net = wavenet(MixtureOfLogistics(components=3), conditioner=CONDITIONERS[1])
    held, streams = condition(net, 3), torch.arange(3)
    full = fast.sample_wavenet(net, held, 400, streams=streams, threads=1)
    decoder = fast.Decoder(net, held, streams, threads=1)
    monkeypatch.setattr(fast, "CHUNK", 3 * 29)
    pieces = [chunk for count in (1, 150, 7, 0, 242) for chunk in decoder.sample(count)]
    assert len(pieces) > 12
    assert torch.equal(torch.cat(pieces, 1), full)


def test_a_prompt_comes_first() -> None:
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    full = fast.sample_wavenet(net, held, 200, streams=streams)
    assert torch.equal(
        fast.sample_wavenet(net, held, 120, streams=streams, prompt=full[:, :80]),
        full[:, 80:],
    )
    assert torch.equal(
        fast.sample_wavenet(net, held, 200, streams=streams, prompt=full[:, :0]), full
    )


def test_bf16_weights_cost_little() -> None:
    """KL to the exact law, in nats a sample."""
    net = wavenet(network=SMALL)
    held = condition(net, 2)
    x = fast.sample_wavenet(net, held, 500, streams=torch.arange(2))
    exact = exact_params(net, x, held).log_softmax(1)
    narrow = fast.score_wavenet(net, x, held, weights="bf16")
    assert not torch.equal(narrow, fast.score_wavenet(net, x, held))
    assert (exact.exp() * (exact - narrow.double().log_softmax(1))).sum(1).mean() < 1e-3


def test_progress_adds_up_and_nothing_is_nothing() -> None:
    net = wavenet()
    held, counted = condition(net, 2), []
    x = fast.sample_wavenet(
        net, held, fast.CHUNK + 1, streams=torch.arange(2), progress=counted.append
    )
    assert sum(counted) == x.shape[1] == fast.CHUNK + 1
    assert len(counted) > 1
    assert fast.sample_wavenet(net, held, 0, streams=torch.arange(2)).shape == (2, 0)


def test_memory_does_not_grow_with_time() -> None:
    """The state of a stream has one size from the first sample on."""
    decoder = fast.Decoder(wavenet(), condition(wavenet(), 1), torch.arange(1))
    before = {name: array.shape for name, array in decoder.groups[0].state._asdict().items()}
    for chunk in decoder.sample(20000):
        assert chunk.shape[1] <= fast.CHUNK
    assert {
        name: array.shape for name, array in decoder.groups[0].state._asdict().items()
    } == before
    assert decoder.groups[0].state.time.tolist() == [20000]


def test_weights_are_packed_once_without_loss() -> None:
    net = wavenet(network=SMALL)
    plan = Plan.of(net)
    layer = net.stack.layers[0]
    # every width is a multiple of 16: no padding
    taps = plan.weights[: 2 * 16 * 32].reshape(2, 16, 32)
    np.testing.assert_array_equal(taps, layer.dilated.weight.detach().permute(2, 1, 0).numpy())
    count = sum(
        p.numel()
        for name, p in net.stack.named_parameters()
        if "weight" in name and "projection" not in name
    )
    assert plan.weights.size == count
    assert plan.weights.ctypes.data % 64 == 0


def test_auto_takes_the_kernels_or_gives_the_reason() -> None:
    net = wavenet()
    assert backend.choose(net) == backend.Choice("numba")
    assert backend.choose(net, "reference").backend == "reference"
    nucleus = backend.choose(net, top_p=0.9)
    assert nucleus.backend == "reference"
    assert "top_p" in nucleus.reason
    exact = backend.choose(net.double())
    assert exact.backend == "reference"
    assert "float64" in exact.reason
    with pytest.raises(UserInputError, match="float64"):
        backend.choose(net.double(), "numba")
    with pytest.raises(UserInputError, match="did you mean numba"):
        backend.choose(net, "numbar")


def test_both_back_ends_decode_the_same() -> None:
    net = wavenet()
    held, streams = condition(net, 1), torch.tensor([4])
    both = [
        backend.sample(SampleRequest(net, held, 500, streams), Sampling(backend=name))
        for name in ("numba", "reference")
    ]
    assert_same_up_to_an_edge(net, held, *both, streams)
