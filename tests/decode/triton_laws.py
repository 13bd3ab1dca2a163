"""Laws of the CUDA kernel, on a GPU, or on a CPU with TRITON_INTERPRET=1 set before the start:
`test_triton.py` runs both.

Not collected by its own name: the interpreter must be chosen before Triton is imported.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from vqwave.decode import backend, reference
from vqwave.decode.backend import SampleRequest, build_engine
from vqwave.decode.cuda import decoder as fast
from vqwave.decode.cuda.tuning import interpreted
from vqwave.decode.sampling import Sampling, Temperatures
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
from vqwave.nn.wavenet import ContextSpec, StackSpec
from vqwave.rng.philox import uniforms

DEVICE = "cpu" if interpreted() else "cuda"
SAMPLES = 16 if interpreted() else 600
FRAMES, HOP = 5, 10
SMALL = StackSpec(
    layers=3,
    dilation_cycle=2,
    kernel_size=2,
    residual_channels=16,
    gate_channels=16,
    skip_channels=32,
    hidden_channels=48,
)
ODD = StackSpec(
    layers=4,
    dilation_cycle=3,
    kernel_size=3,
    residual_channels=24,
    gate_channels=20,
    skip_channels=40,
    hidden_channels=17,
)
PLAIN = ConditionerSpec(channels=12)
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's convolutions of the reference in float32, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def wavenet(
    head: Head | None = None,
    network: StackSpec = SMALL,
    conditioner: ConditionerSpec = PLAIN,
    frames: int = FRAMES,
) -> WaveNet:
    """An untrained network whose past and condition really matter."""
    torch.manual_seed(0)
    spec = WaveNetSpec(head=head or MuLaw(), network=network, conditioner=conditioner)
    net = spec.build(8000, {"speaker": ["a", "b"]}, frames, HOP)
    with torch.no_grad():
        net.stack.out.weight.mul_(4.0)
        if net.stack.projection is not None:
            net.stack.projection.weight.mul_(4.0)
    return net.eval().to(DEVICE)


@torch.no_grad()
def condition(net: WaveNet, streams: int, frames: int = 2) -> Condition:
    """Shorter than the samples: the last column holds."""
    features = torch.randn(streams, FRAMES, frames, generator=torch.Generator().manual_seed(1))
    return net.condition(features.to(DEVICE), {"speaker": (torch.arange(streams) % 2).to(DEVICE)})


def rows(full: Condition, chosen: list[int]) -> Condition:
    return Condition(full.features[chosen], full.repeat)


@torch.no_grad()
def exact_params(net: WaveNet, x: Tensor, held: Condition | None) -> Tensor:
    """The head's parameters of the parallel pass, in float64, on the CPU."""
    exact = copy.deepcopy(net).cpu().double()
    shifted = torch.nn.functional.pad(x.cpu().double(), (1, 0))[:, :-1]
    held = None if held is None else Condition(held.features.cpu().double(), held.repeat)
    return exact.stack(exact.input_embedding(shifted), exact.stack.project(held))


def steady_draws(
    net: WaveNet,
    x: Tensor,
    held: Condition | None,
    u: Tensor,
    temperature: float = 1.0,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What the uniforms u (4, B, T) draw from the exact law after the past of x (B, T), and which
    of these draws are steady.

    A draw is steady if its class or component stays the same when u[0] moves by what rounding may
    do to a cumulative probability.
    """
    distribution, u = net.head(exact_params(net, x, held), temperature, scale), u.double()
    moved = [distribution.sample(torch.cat([u[:1] + shift, u[1:]])) for shift in (-1e-4, 1e-4)]
    return distribution.sample(u), moved[0] == moved[1]


def assert_scores_agree(net: WaveNet, x: Tensor, held: Condition | None) -> Tensor:
    expected = exact_params(net, x, held)
    assert expected.std() > 1e-2
    scored = fast.score_wavenet(net, x, held, weights="float32")
    torch.testing.assert_close(scored.cpu().double(), expected, rtol=0, atol=1e-4)
    return expected


def sound(streams: int) -> Tensor:
    x = torch.rand(streams, SAMPLES, generator=torch.Generator().manual_seed(2)) * 0.5 - 0.25
    return x.to(DEVICE)


@pytest.mark.parametrize(
    "head",
    [
        MuLaw(),
        MixtureOfLogistics(components=3),
        pytest.param(MuLaw(classes=100), marks=slow),
        pytest.param(LinearBins(classes=300), marks=slow),
        pytest.param(MixtureOfLogistics(components=1, sample_bits=10), marks=slow),
        pytest.param(MixtureOfGaussians(components=2), marks=slow),
        pytest.param(Gaussian(), marks=slow),
        pytest.param(Logistic(), marks=slow),
    ],
)
def test_parameters_and_draws_are_those_of_the_parallel_pass(head: Head) -> None:
    """From the same past, the same uniforms draw the same value: teacher-forced, so that no
    rounding can add up.
    """
    net = wavenet(head)
    held, streams = condition(net, 16), torch.arange(16) * 3 + 2 + 2**33
    settings = {"seed": 2**40 + 7, "temperature": Temperatures(0.7, 0.4, 0.1), "weights": "float32"}
    x = fast.sample_wavenet(net, held, SAMPLES, streams=streams, **settings)
    assert_scores_agree(net, x, held)
    again, steady = steady_draws(
        net, x, held, uniforms(2**40 + 7, streams, 0, SAMPLES), 0.7, scale=0.4
    )
    assert steady.float().mean() > 0.9
    if isinstance(head, MuLaw | LinearBins):
        assert torch.equal(head.encode(again)[steady], head.encode(x.cpu())[steady])
    else:
        level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
        assert (again - x.cpu())[steady].abs().max() < 1.01 * level + 1e-4
    assert x.std() > 1e-3


@pytest.mark.parametrize(
    "network",
    [
        ODD,
        dataclasses.replace(SMALL, kernel_size=4, skip_channels=0),
        pytest.param(dataclasses.replace(SMALL, kernel_size=1), marks=slow),
        pytest.param(
            StackSpec(
                layers=2,
                dilation_cycle=2,
                kernel_size=2,
                residual_channels=72,
                gate_channels=80,
                skip_channels=136,
                hidden_channels=96,
            ),
            marks=slow,
        ),
    ],
)
def test_every_shape(network: StackSpec) -> None:
    net = wavenet(network=network)
    assert_scores_agree(net, sound(17), condition(net, 17))


@pytest.mark.parametrize(
    ("conditioner", "frames"),
    [
        (ConditionerSpec(channels=16, upsample=(5, 2)), 2),
        pytest.param(PLAIN, 9, marks=slow),
        pytest.param(ConditionerSpec(channels=5, upsample=(2,), categorical=()), 3, marks=slow),
    ],
)
def test_conditions_at_every_rate_hold_their_last_column(
    conditioner: ConditionerSpec, frames: int
) -> None:
    net = wavenet(conditioner=conditioner)
    assert_scores_agree(net, sound(2), condition(net, 2, frames))


@slow
def test_one_condition_for_all_and_none_at_all() -> None:
    net = wavenet()
    one, x = condition(net, 1), sound(3)
    every = Condition(one.features.expand(3, -1, -1), one.repeat)
    assert torch.equal(fast.score_wavenet(net, x, one), fast.score_wavenet(net, x, every))
    deaf = wavenet(conditioner=ConditionerSpec(categorical=()), frames=0)
    assert deaf.condition(None, {}) is None
    assert_scores_agree(deaf, x, None)


def test_the_reference_draws_the_same() -> None:
    net = wavenet()
    held, streams = condition(net, 16), torch.arange(16)
    drawn = fast.sample_wavenet(net, held, 2 * SAMPLES, streams=streams, seed=3, weights="float32")
    expected = reference.sample_wavenet(net, held, 2 * SAMPLES, streams=streams, seed=3)
    _, steady = steady_draws(net, drawn, held, uniforms(3, streams, 0, 2 * SAMPLES))
    # equal up to the first draw on the edge of a class
    for row, differs in enumerate((drawn != expected.to(drawn)).cpu()):
        assert not differs.any() or not steady[row, int(differs.int().argmax())], row
    assert len(drawn.unique()) > 20


@pytest.mark.parametrize("weights", ["bf16", pytest.param("float32", marks=slow)])
def test_bits_do_not_depend_on_batch_order_or_chunks(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, n = wavenet(MixtureOfLogistics(components=3), ODD), SAMPLES // 2
    held, streams = condition(net, 19), torch.arange(100, 119)

    def draw(chosen: list[int]) -> Tensor:
        return fast.sample_wavenet(
            net, rows(held, chosen), n, streams=streams[chosen], seed=1, weights=weights
        )

    everyone = list(range(19))
    full = draw(everyone)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(draw(order), full[order])
    assert torch.equal(draw([18])[0], full[18])
    assert torch.equal(draw([3, 9, 4]), full[[3, 9, 4]])
    assert not torch.equal(full[0], full[2])
    monkeypatch.setattr(fast, "CHUNK", 5)
    decoder = fast.Decoder(net, held, streams, weights=weights)
    pieces = [chunk for count in (1, 0, 6, n - 7) for chunk in decoder.sample(count, 1)]
    assert len(pieces) >= 4
    assert torch.equal(torch.cat(pieces, 1), full)


def test_bf16_weights_cost_little() -> None:
    """KL to the exact law, in nats a sample."""
    net = wavenet()
    held, x = condition(net, 16), sound(16)
    exact = exact_params(net, x, held).log_softmax(1)
    narrow = fast.score_wavenet(net, x, held, weights="bf16")
    assert not torch.equal(narrow, fast.score_wavenet(net, x, held, weights="float32"))
    assert (exact.exp() * (exact - narrow.cpu().double().log_softmax(1))).sum(1).mean() < 1e-3


def test_streams_end_where_their_lengths_say() -> None:
    net, n = wavenet(), SAMPLES // 2
    held, streams = condition(net, 3), torch.arange(3)
    full = fast.sample_wavenet(net, held, n, streams=streams)
    cut = fast.sample_wavenet(net, held, n, streams=streams, lengths=torch.tensor([n, 0, 5]))
    assert torch.equal(cut[0], full[0])
    assert torch.equal(cut[2, :5], full[2, :5])
    assert not cut[1].any()
    assert not cut[2, 5:].any()


def test_a_stream_that_pauses_carries_on() -> None:
    """Each stream has its own clock."""
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    full = fast.sample_wavenet(net, held, 12, streams=streams)
    decoder = fast.Decoder(net, held, streams)
    first = torch.cat(list(decoder.sample(8, lengths=torch.tensor([8, 3]))), 1)
    second = torch.cat(list(decoder.sample(9, lengths=torch.tensor([4, 9]))), 1)
    assert decoder.state.time.tolist() == [12, 12]
    assert torch.equal(torch.cat([first[0], second[0, :4]]), full[0])
    assert torch.equal(torch.cat([first[1, :3], second[1]]), full[1])


def test_a_slot_takes_another_stream() -> None:
    net = wavenet()
    held = condition(net, 3)
    full = fast.sample_wavenet(net, held, 10, streams=torch.arange(3))
    decoder = fast.Decoder(net, rows(held, [0, 1]), torch.arange(2))
    before = torch.cat(list(decoder.sample(6)), 1)
    decoder.restart(1, 2)
    decoder.set_condition(held.features[[0, 2]].transpose(1, 2), torch.zeros(2))
    after = torch.cat(list(decoder.sample(4)), 1)
    assert torch.equal(torch.cat([before[0], after[0]]), full[0])
    assert torch.equal(before[1], full[1, :6])
    assert torch.equal(after[1], full[2, :4])


@pytest.mark.parametrize("weights", ["bf16", "float32"])
def test_a_stream_can_be_taken_out_and_gone_on_with(weights: str) -> None:
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    decoder = fast.Decoder(net, held, streams, weights=weights)
    next(decoder.sample(5))
    arrays, following = decoder.state_dict(), next(decoder.sample(4))
    another = fast.Decoder(net, held, streams, weights=weights)
    another.load_state_dict(arrays)
    assert torch.equal(next(another.sample(4)), following)
    with pytest.raises(UserInputError, match="another decoder"):
        fast.Decoder(net, rows(held, [0]), streams[:1], weights=weights).load_state_dict(arrays)


def test_a_streaming_engine_draws_the_same() -> None:
    net = wavenet()
    held = condition(net, 1)
    engine = build_engine(net, Sampling(seed=3, backend="triton"))
    assert engine.name == "triton"
    pieces = [
        engine.sample(held.features[..., :1], 0, 4),
        engine.sample(held.features, 0, 7),
        engine.sample(held.features[..., 1:], 1, 3),
    ]
    full = fast.sample_wavenet(net, held, 14, streams=torch.arange(1), seed=3)
    assert torch.equal(torch.cat(pieces), full[0])


def test_a_prompt_comes_first() -> None:
    net, n = wavenet(), SAMPLES // 2
    held, streams = condition(net, 2), torch.arange(2)
    counted: list[int] = []
    full = fast.sample_wavenet(net, held, n, streams=streams, progress=counted.append)
    assert sum(counted) == n
    assert torch.equal(
        fast.sample_wavenet(net, held, n - 7, streams=streams, prompt=full[:, :7]),
        full[:, 7:],
    )
    assert fast.sample_wavenet(net, held, 0, streams=streams).shape == (2, 0)
    assert fast.sample_wavenet(net, rows(held, []), 5, streams=streams[:0]).shape == (0, 5)


def test_what_cannot_fit_is_named() -> None:
    net = wavenet(
        network=StackSpec(
            layers=1,
            dilation_cycle=1,
            kernel_size=2,
            residual_channels=512,
            gate_channels=512,
            skip_channels=16,
            hidden_channels=16,
        )
    )
    with pytest.raises(UserInputError, match=r"residual 512.*shared memory"):
        fast.sample_wavenet(net, condition(net, 1), 1, streams=torch.arange(1))


def test_triton_is_taken_or_gives_the_reason() -> None:
    net = wavenet()
    assert backend.choose(net, "triton") == backend.Choice("triton")
    assert "top_p" in str(backend.choose(net, "triton", top_p=0.9).reason)
    longer = wavenet(
        network=dataclasses.replace(
            SMALL, context=ContextSpec(stride=4, layers=1, residual_channels=4, channels=4)
        )
    )
    with pytest.raises(UserInputError, match="context"):
        backend.choose(longer, "triton")
    with pytest.raises(UserInputError, match="float64"):
        backend.choose(net.double(), "triton")


def test_sample_calls_the_kernel() -> None:
    net = wavenet()
    held, streams = condition(net, 1), torch.tensor([4])
    through = backend.sample(SampleRequest(net, held, 9, streams), Sampling(backend="triton"))
    assert torch.equal(through, fast.sample_wavenet(net, held, 9, streams=streams))
