"""Laws of the CUDA kernel with linear prediction, on a GPU, or on a CPU with TRITON_INTERPRET=1 set
before the start: `test_triton.py` runs both, as it does `triton_laws.py`.
"""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

import vqwave
from vqwave.decode import backend, reference
from vqwave.decode.backend import SampleRequest, build_engine
from vqwave.decode.cuda import decoder as fast
from vqwave.decode.cuda.packing import Shape
from vqwave.decode.cuda.tuning import interpreted
from vqwave.decode.plan import HEAD_PLANS, PredictorPlan
from vqwave.decode.sampling import Sampling, Temperatures
from vqwave.distributions import Gaussian, Head, Logistic, MixtureOfGaussians, MixtureOfLogistics
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms

DEVICE = "cpu" if interpreted() else "cuda"
# so slow a rate that a few samples hold the longest period, and the rings go round
RATE, HOP, BANDS, FRAMES = 800, 4, 8, 12 if interpreted() else 150
T = FRAMES * HOP
MEL = LogMelSpec(bands=BANDS, window_ms=40.0, hop_ms=5.0)
NETWORK = StackSpec(
    layers=3,
    dilation_cycle=2,
    kernel_size=2,
    residual_channels=24,
    gate_channels=16,
    skip_channels=32,
    hidden_channels=48,
)
MIXTURE = MixtureOfLogistics(components=3)
APART = Temperatures(0.7, 0.4, 0.1)
slow = pytest.mark.slow


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's convolutions of the reference in float32, not in TF32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(autouse=True)
def products_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the interpreter, which takes numpy's: a library's may round a row by its place among the
    others.
    """

    def by_row(a: np.ndarray, b: np.ndarray, dtype: type | None = None) -> np.ndarray:
        return np.einsum("ik,kj->ij", a, b, dtype=dtype)

    if interpreted():
        monkeypatch.setattr(np, "matmul", by_row)


def wavenet(
    head: Head = MIXTURE,
    *,
    order: int = 5,
    taps: int = 3,
    interpolation: int = 1,
    upsample: tuple[int, ...] = (),
    network: StackSpec = NETWORK,
) -> WaveNet:
    """An untrained network whose past and condition matter; order 0: without a predictor."""
    torch.manual_seed(0)
    predictor = LinearPredictorSpec(order=order, interpolation=interpolation) if order else None
    spec = WaveNetSpec(
        head=head,
        network=network,
        conditioner=ConditionerSpec(channels=10, upsample=upsample),
        predictor=predictor,
        pitch_taps=taps,
    )
    net = spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, MEL.build(RATE))
    with torch.no_grad():
        net.stack.out.weight.mul_(4.0)
        net.stack.projection.weight.mul_(4.0)
        net.input_embedding.conv.weight.mul_(0.2)
    return net.eval().to(DEVICE)


VOICED = (torch.arange(FRAMES) % 3 > 0).float()


@torch.no_grad()
def condition(net: WaveNet, streams: int, voicing: Tensor = VOICED) -> Condition:
    """Of random spectra; frames are voiced where `voicing` (F,) is 1, of F0 over all of its
    range.
    """
    generator = torch.Generator().manual_seed(1)
    log_mel = 0.7 * torch.randn(streams, BANDS, FRAMES, generator=generator)
    log_f0 = torch.rand(streams, FRAMES, generator=generator) * np.log(8.0) - np.log(2.0)
    log_f0[:, 5], log_f0[:, 7] = 3.0, -3.0  # the shortest and the longest period
    v = voicing.expand(streams, -1)
    on_cpu = copy.deepcopy(net).cpu()
    features = log_mel
    if on_cpu.predictor is not None:
        pitch = torch.stack([v * log_f0, v], 1) if on_cpu.predictor.pitch_taps else None
        features = torch.cat([log_mel, on_cpu.predictor.analyse(log_mel, pitch)], 1)
    made = on_cpu.condition(features, {"speaker": torch.arange(streams) % 2})
    return Condition(made.features.to(DEVICE), made.repeat)


def rows(full: Condition, chosen: list[int]) -> Condition:
    return Condition(full.features[chosen], full.repeat)


@torch.no_grad()
def exact_parameters(net: WaveNet, x: Tensor, held: Condition) -> Tensor:
    """The parallel pass in float64, on the CPU."""
    exact = copy.deepcopy(net).cpu().double()
    last = torch.nn.functional.pad(x.cpu().double(), (1, 0))[:, :-1]
    projected = exact.project(Condition(held.features.cpu().double(), held.repeat))
    return exact.parameters_after(last, projected, None)


def assert_scores_agree(net: WaveNet, x: Tensor, held: Condition) -> Tensor:
    expected = exact_parameters(net, x, held)
    assert expected.std() > 1e-2
    scored = fast.score_wavenet(net, x, held, weights="float32")
    torch.testing.assert_close(scored.cpu().double(), expected, rtol=0, atol=1e-4)
    return expected


def factors(net: WaveNet, held: Condition, temperatures: Temperatures) -> float | Tensor:
    """The factor on each sample's scale, (B, T) or one for all: by whether its frame is voiced."""
    if not net.predictor.pitch_taps:
        return temperatures.scale
    voiced = held.samples()[:, -1, :T].cpu() > 0
    assert 0.2 < voiced.float().mean() < 0.9
    return torch.where(voiced, temperatures.voiced, temperatures.scale).double()


def noise(streams: int) -> Tensor:
    x = torch.rand(streams, T, generator=torch.Generator().manual_seed(2)) * 0.5 - 0.25
    return x.to(DEVICE)


def drawn(decoder: fast.Decoder, *counts: int) -> Tensor:
    return torch.cat([chunk for count in counts for chunk in decoder.sample(count, 9, APART)], 1)


@pytest.mark.parametrize(
    ("head", "taps"),
    [
        (MIXTURE, 3),
        pytest.param(Gaussian(), 3, marks=slow),
        pytest.param(MIXTURE, 0, marks=slow),
        pytest.param(MixtureOfLogistics(components=1, sample_bits=10), 1, marks=slow),
        pytest.param(MixtureOfGaussians(components=2), 5, marks=slow),
        pytest.param(Logistic(), 3, marks=slow),
    ],
)
def test_parameters_and_draws_are_those_of_the_parallel_pass(head: Head, taps: int) -> None:
    """From the same past, the same uniforms draw the same value, by the scale of its frame."""
    net, streams = wavenet(head, taps=taps), torch.tensor([5, 2])
    held = condition(net, 2)
    settings = {"streams": streams, "seed": 7, "temperature": APART, "weights": "float32"}
    x = fast.sample_wavenet(net, held, T, **settings).cpu()
    params = assert_scores_agree(net, x, held)
    law = head(params, APART.choice, factors(net, held, APART))
    u = uniforms(7, streams, 0, T).double()
    moved = [law.sample(torch.cat([u[:1] + shift, u[1:]])) for shift in (-1e-4, 0.0, 1e-4)]
    steady = moved[0] == moved[2]
    level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
    assert steady.float().mean() > 0.9
    assert (moved[1] - x)[steady].abs().max() < 1.01 * level + 1e-4
    assert x.std() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"order": 17, "taps": 5},
        pytest.param({"order": 1, "taps": 0}, marks=slow),
        pytest.param({"order": 1, "taps": 1}, marks=slow),
        pytest.param({"order": 8, "interpolation": 4}, marks=slow),
        pytest.param({"interpolation": 2, "upsample": (4,)}, marks=slow),
        pytest.param({"network": dataclasses.replace(NETWORK, skip_channels=0)}, marks=slow),
    ],
)
def test_every_order_and_rate_of_coefficients(settings: dict) -> None:
    """More streams than a tile has."""
    net = wavenet(**settings)
    assert_scores_agree(net, noise(17), condition(net, 17))


@pytest.mark.parametrize(
    ("head", "taps"),
    [
        (Gaussian(), 3),
        pytest.param(Gaussian(), 0, marks=slow),
        pytest.param(MIXTURE, 3, marks=slow),
    ],
)
def test_the_reference_draws_the_same(head: Head, taps: int) -> None:
    """Up to the first draw on the edge of a component."""
    net = wavenet(head, taps=taps)
    held, streams = condition(net, 2), torch.tensor([3, 8])
    settings = {"streams": streams, "seed": 3, "temperature": Temperatures(1.0, 0.8, 0.6)}
    x = fast.sample_wavenet(net, held, 40, weights="float32", **settings)
    expected = reference.sample_wavenet(net, held, 40, **settings)
    assert (x - expected.to(x)).abs().max() < 1e-3
    assert x.std() > 1e-2


def test_a_predictor_of_zeros_is_the_plain_model() -> None:
    """Whose samples are its residuals."""
    net, plain = wavenet(), wavenet(order=0, taps=0)
    with torch.no_grad():
        net.input_embedding.conv.weight[:, 1:] = 0.0
        state = dict(net.state_dict())
        name = "input_embedding.conv.weight"
        state[name] = state[name][:, :1]
        plain.load_state_dict(state)
    held = condition(net, 2)
    features = held.features.clone()
    features[:, net.conditioner.channels :] = 0.0
    own = Condition(features[:, : net.conditioner.channels], held.repeat)
    streams = torch.arange(2)
    with_zeros = fast.sample_wavenet(net, Condition(features, held.repeat), 20, streams=streams)
    without = fast.sample_wavenet(plain, own, 20, streams=streams)
    assert torch.equal(with_zeros, without)
    assert not torch.equal(fast.sample_wavenet(net, held, 20, streams=streams), without)


def test_a_prediction_is_float32_whatever_the_weights() -> None:
    """The network's own locations are 0 here: what is left is the prediction."""
    net = wavenet(Gaussian())
    with torch.no_grad():
        net.stack.out.weight.zero_()
        net.stack.out.bias.zero_()
    held, x = condition(net, 2), noise(2)
    narrow, wide = (
        fast.score_wavenet(net, x, held, weights=weights)[:, 0] for weights in ("bf16", "float32")
    )
    assert torch.equal(narrow, wide)
    exact = exact_parameters(net, x, held)[:, 0]
    torch.testing.assert_close(narrow.cpu().double(), exact, rtol=0, atol=2e-7)
    assert exact.std() > 1e-2


def test_voiced_frames_alone_have_the_temperature_of_their_own() -> None:
    """Here all frames from the fifth on."""
    net, first = wavenet(), 4 * HOP
    held = condition(net, 2, (torch.arange(FRAMES) >= 4).float())

    def draw(temperatures: Temperatures) -> Tensor:
        settings = {"streams": torch.arange(2), "temperature": temperatures}
        return fast.sample_wavenet(net, held, first + 8, **settings)

    base, voiced, scale = (draw(Temperatures(0.9, *each)) for each in ((1, 1), (1, 0.5), (0.5, 1)))
    assert torch.equal(voiced[:, :first], base[:, :first])
    assert (voiced[:, first:] != base[:, first:]).any(1).all()
    assert (scale[:, :first] != base[:, :first]).any(1).all()
    silence = condition(net, 2, torch.zeros(FRAMES))
    unvoiced = [
        fast.sample_wavenet(net, silence, 8, streams=torch.arange(2), temperature=each)
        for each in (Temperatures(0.9, 0.6, 0.1), Temperatures(0.9, 0.6, 1.0))
    ]
    assert torch.equal(*unvoiced)


@pytest.mark.parametrize("weights", ["bf16", pytest.param("float32", marks=slow)])
def test_bits_do_not_depend_on_batch_order_or_chunks(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on how many launches they come from."""
    net, n = wavenet(), 20
    held, streams = condition(net, 19), torch.arange(100, 119)

    def decoder(chosen: list[int]) -> fast.Decoder:
        return fast.Decoder(net, rows(held, chosen), streams[chosen], weights=weights)

    full = drawn(decoder(list(range(19))), n)
    order = torch.randperm(19, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(drawn(decoder(order), n), full[order])
    assert torch.equal(drawn(decoder([18]), n)[0], full[18])
    assert not torch.equal(full[0], full[2])
    monkeypatch.setattr(fast, "CHUNK", 5)
    assert torch.equal(drawn(decoder([3, 9, 4]), 1, 0, 7, n - 8), full[[3, 9, 4]])


def test_streams_of_different_times_end_pause_and_go_on() -> None:
    """Each has its own clock, its own columns and its own place in the rings."""
    net = wavenet()
    held, streams = condition(net, 3), torch.arange(3)
    full = drawn(fast.Decoder(net, held, streams), 40)
    decoder = fast.Decoder(net, held, streams)
    made: list[list[Tensor]] = [[], [], []]
    for lengths in ([21, 0, 7], [2, 23, 11], [17, 17, 22]):
        count = max(lengths)
        chunks = torch.cat(list(decoder.sample(count, 9, APART, torch.tensor(lengths))), 1)
        for row, length in enumerate(lengths):
            made[row].append(chunks[row, :length])
            assert not chunks[row, length:].any()
    assert torch.equal(torch.stack([torch.cat(parts) for parts in made]), full)
    assert decoder.state.time.tolist() == [40, 40, 40]


def test_a_slot_takes_another_stream() -> None:
    net = wavenet()
    held = condition(net, 3)
    full = drawn(fast.Decoder(net, held, torch.arange(3)), 36)
    decoder = fast.Decoder(net, rows(held, [0, 1]), torch.arange(2))
    before = drawn(decoder, 20)
    decoder.restart(1, 2)
    columns = torch.stack([held.features[0, :, 5:], held.features[2, :, :-5]]).transpose(1, 2)
    decoder.set_condition(columns, torch.tensor([5, 0]))
    after = drawn(decoder, 16)
    assert torch.equal(torch.cat([before[0], after[0]]), full[0])
    assert torch.equal(after[1], full[2, :16])


@pytest.mark.parametrize("weights", ["bf16", "float32"])
def test_a_stream_can_be_taken_out_and_gone_on_with(weights: str) -> None:
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    full = drawn(fast.Decoder(net, held, streams, weights=weights), 30)
    decoder = fast.Decoder(net, held, streams, weights=weights)
    drawn(decoder, 21)
    arrays = decoder.state_dict()
    assert set(arrays) == {"rings", "heard", "time", "samples", "residuals"}
    assert all(array.flags.c_contiguous for array in arrays.values())  # as files have them
    another = fast.Decoder(net, held, streams, weights=weights)
    another.load_state_dict(arrays)
    assert torch.equal(drawn(another, 9), full[:, 21:])
    plain = wavenet(order=0, taps=0)
    kept = fast.Decoder(plain, condition(plain, 2), streams, weights=weights).state_dict()
    assert set(kept) == {"rings", "heard", "time"}
    with pytest.raises(UserInputError, match="another decoder"):
        another.load_state_dict(kept)


def test_a_prompt_comes_first() -> None:
    """Gone over, it leaves the state that drawing it leaves."""
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    decoder, forced = (fast.Decoder(net, held, streams) for _ in range(2))
    full = drawn(decoder, 26)
    for first, last in pairwise((0, 1, 19, 26)):
        forced.prefill(full[:, first:last], keep=first == 1)
    for name, array in decoder.state_dict().items():
        assert np.array_equal(array, forced.state_dict()[name]), name
    assert torch.equal(drawn(forced, 8), drawn(decoder, 8))


def test_a_streaming_engine_has_the_bits_of_one_pass() -> None:
    """Columns as they come; each chunk by a new engine, restored from the arrays of the last."""
    net = wavenet(interpolation=2)
    held, sampling = condition(net, 1), Sampling(4, 0.9, backend="triton", voiced_temperature=0.5)
    full = backend.sample(SampleRequest(net, held, 36, torch.tensor([0])), sampling)[0]
    engine, parts = build_engine(net, sampling), []
    assert engine.name == "triton"
    for a, b in pairwise([0, 1, 2, 6, 9]):
        columns = held.features[..., a * HOP // held.repeat : b * HOP // held.repeat]
        parts.append(engine.sample(columns, a * HOP // held.repeat, (b - a) * HOP))
        arrays, engine = engine.state_dict(), build_engine(net, sampling)
        engine.load_state_dict(arrays)
    assert torch.equal(torch.cat(parts), full)


@pytest.mark.parametrize("taps", [0, 3, 15])
@pytest.mark.parametrize("order", [1, 15, 16, 64])
def test_a_slot_is_written_only_where_none_is_read(order: int, taps: int) -> None:
    """In one sample: threads wait for each other only between samples."""
    net = wavenet(order=order, taps=taps)
    head = HEAD_PLANS[type(net.head)](net.head)
    shape = Shape.of(net.stack.spec, head, PredictorPlan.of(net.predictor))
    for slots, longest in (
        (shape.sample_slots, order),
        (shape.residual_slots, net.predictor.memory + 1),
    ):
        assert slots & (slots - 1) == 0  # a mask takes the remainder
        assert all(lag % slots for lag in range(1, longest + 1))


@pytest.mark.parametrize("name", ["fsdd", "speech"])
def test_a_shipped_model_is_taken_on_a_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = vqwave.load(name).model.decoder.to(DEVICE)
    monkeypatch.setattr(backend, "on_gpu", lambda _decoder: True)
    assert backend.choose(decoder) == backend.Choice("triton")


@slow
@torch.no_grad()
def test_a_shipped_model_draws_as_the_reference_does() -> None:
    """From a vowel on, so that frames are voiced; the temperatures are the model's own."""
    model = vqwave.load("fsdd")
    t = torch.arange(30 * 80) / model.sample_rate
    vowel = sum(torch.sin(2 * torch.pi * 125 * k * t) / k for k in range(1, 20))
    coded = model.encode((0.05 * vowel).numpy(), model.sample_rate)
    given = model.task(coded, model.speakers[0]).condition.features
    held = Condition(given[..., 12:].contiguous(), model.decoder.conditioner.hold)
    assert (held.features[:, -1, 0] > 0).all()
    net = model.decoder.to(DEVICE)
    on_device = Condition(held.features.to(DEVICE), held.repeat)
    temperatures = Sampling().temperatures(Temperatures(1.0, 0.8, 0.6))
    settings = {"streams": torch.tensor([0]), "seed": 1, "temperature": temperatures}
    x = fast.sample_wavenet(net, on_device, 48, weights="float32", **settings).cpu()
    expected = reference.sample_wavenet(net, on_device, 48, **settings).cpu()
    assert (x - expected).abs().max() < 4 / 2**15
    assert x.std() > 1e-4
