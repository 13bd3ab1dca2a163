"""The CPU kernels with linear prediction: the reference's law, and one order of all sums."""

from __future__ import annotations

import copy
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.config import build as build_spec
from vqwave.decode import backend
from vqwave.decode.backend import SampleRequest, build_engine
from vqwave.decode.batching import DecodeRequest, decode_each
from vqwave.decode.cpu.precision import missing
from vqwave.decode.sampling import Sampling
from vqwave.distributions import Gaussian, Head, Logistic, MixtureOfGaussians, MixtureOfLogistics
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from vqwave.decode.cpu.kernel_cache import sources
from vqwave.decode.cpu.wavenet import decoder as wavenet_decoder
from vqwave.decode.cpu.wavenet import two_core

PRECISIONS = ["float32", "bf16", "bf16-dot", "int8"]
HEADS = [
    MixtureOfLogistics(components=3),
    MixtureOfLogistics(components=1, sample_bits=10),
    MixtureOfGaussians(components=2, location_scale=0.1),
    Gaussian(),
    Logistic(),
]
NETWORK = StackSpec(
    layers=6,
    dilation_cycle=3,
    kernel_size=2,
    residual_channels=24,
    gate_channels=16,
    skip_channels=32,
    hidden_channels=16,
)
RATE, HOP, BANDS, FRAMES = 8000, 40, 12, 9
T = FRAMES * HOP


def wavenet(
    head: Head = HEADS[0],
    *,
    order: int = 16,
    taps: int = 3,
    interpolation: int = 1,
    upsample: tuple[int, ...] = (),
) -> WaveNet:
    """An untrained network whose past and condition matter."""
    mel = {"kind": "log_mel", "bands": BANDS, "window_ms": 10.0, "hop_ms": 5.0}
    spectrum = build_spec(WaveNetSpec, {"features": mel}).features.build(RATE)
    torch.manual_seed(0)
    spec = WaveNetSpec(
        head=head,
        network=NETWORK,
        conditioner=ConditionerSpec(channels=10, upsample=upsample),
        predictor=LinearPredictorSpec(order=order, interpolation=interpolation),
        pitch_taps=taps,
    )
    net = spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, spectrum)
    with torch.no_grad():
        net.stack.out.weight.mul_(4.0)
        net.stack.projection.weight.mul_(4.0)
        net.input_embedding.conv.weight.mul_(0.2)
    return net.eval()


@torch.no_grad()
def condition(net: WaveNet, streams: int) -> Condition:
    """Of random spectra; frames voiced and unvoiced by turns, of F0 over all of its range."""
    generator = torch.Generator().manual_seed(1)
    log_mel = 0.7 * torch.randn(streams, BANDS, FRAMES, generator=generator)
    voicing = (torch.arange(FRAMES) % 3 > 0).float().expand(streams, -1)
    log_f0 = torch.rand(streams, FRAMES, generator=generator) * np.log(8.0) - np.log(2.0)
    log_f0[:, 5], log_f0[:, 7] = 3.0, -3.0  # the shortest and the longest period
    pitch = torch.stack([voicing * log_f0, voicing], 1) if net.predictor.pitch_taps else None
    features = torch.cat([log_mel, net.predictor.analyse(log_mel, pitch)], 1)
    return net.condition(features, {"speaker": torch.arange(streams) % 2})


def rows(full: Condition, chosen: list[int]) -> Condition:
    return Condition(full.features[chosen], full.repeat)


@torch.no_grad()
def exact_parameters(net: WaveNet, x: Tensor, held: Condition) -> Tensor:
    """The parallel pass in float64."""
    exact = copy.deepcopy(net).double()
    last = torch.nn.functional.pad(x.double(), (1, 0))[:, :-1]
    projected = exact.project(Condition(held.features.double(), held.repeat))
    return exact.parameters_after(last, projected, None)


def assert_scores_agree(net: WaveNet, streams: int) -> None:
    held = condition(net, streams)
    numbers = torch.arange(streams)
    x = wavenet_decoder.sample_wavenet(
        net, held, T + 30, streams=numbers, temperature=0.8, threads=1
    )
    expected = exact_parameters(net, x, held)
    assert expected.std() > 1e-2
    assert x.std() > 1e-3
    scored = wavenet_decoder.score_wavenet(net, x, held, threads=1)
    torch.testing.assert_close(scored.double(), expected, rtol=0, atol=1e-4)


def decoder(
    net: WaveNet,
    streams: int,
    precision: str = "float32",
    threads: int = 1,
) -> wavenet_decoder.Decoder:
    reason = missing(precision)
    if reason:
        pytest.skip(reason)
    held = rows(condition(net, 11), list(range(streams)))
    settings = {"weights": precision, "threads": threads}
    return wavenet_decoder.Decoder(net, held, torch.arange(streams), **settings)


def drawn(built: wavenet_decoder.Decoder, *counts: int) -> Tensor:
    return torch.cat([chunk for count in counts for chunk in built.sample(count, seed=9)], 1)


@pytest.mark.parametrize("head", HEADS)
def test_teacher_forced_parameters_are_those_of_the_parallel_pass(head: Head) -> None:
    assert_scores_agree(wavenet(head), 2)


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"taps": 0},
        {"taps": 1, "order": 5},
        {"taps": 5, "order": 1},
        {"interpolation": 4},
        {"interpolation": 2, "upsample": (5,)},
    ],
)
def test_every_order_and_rate_of_coefficients(settings: dict[str, object], streams: int) -> None:
    assert_scores_agree(wavenet(**settings), streams)


@pytest.mark.parametrize("head", HEADS)
def test_the_draws_are_the_references(head: Head) -> None:
    """From the same past, the same uniforms draw the same value, but for components on an edge."""
    net, streams = wavenet(head), torch.tensor([5, 2])
    held = condition(net, 2)
    settings = {"streams": streams, "seed": 7, "temperature": 0.7, "threads": 1}
    x = wavenet_decoder.sample_wavenet(net, held, 600, **settings)
    law, u = head(exact_parameters(net, x, held), 0.7), uniforms(7, streams, 0, 600).double()
    drawn = [law.sample(torch.cat([u[:1] + shift, u[1:]])) for shift in (-1e-4, 0.0, 1e-4)]
    steady = drawn[0] == drawn[2]
    level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
    assert steady.float().mean() > 0.9
    assert (drawn[1] - x)[steady].abs().max() < 1.01 * level + 1e-4


def fused(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a b + c, rounded once to float32: a tie, which float64 holds exactly, to even."""
    full = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    near = np.float32(float(full))
    around = (near, *(np.nextafter(near, np.float32(end)) for end in (-np.inf, np.inf)))
    return min(around, key=lambda candidate: abs(Fraction(float(candidate)) - full))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_prediction_is_one_chain_of_fused_multiply_adds(precision: str) -> None:
    """To the bit, in every precision: the network's own locations are 0 here."""
    net = wavenet(Gaussian(), order=5)
    with torch.no_grad():
        net.stack.out.weight.zero_()
        net.stack.out.bias.zero_()
    x = (0.5 * torch.randn(2, 90, generator=torch.Generator().manual_seed(5))).clamp(-1, 1)
    result = decoder(net, 2, precision).prefill(x, keep=True)[:, 0].numpy()
    held = condition(net, 11)
    columns = net.conditioner.split(held)[1].samples().numpy()
    past = np.pad(x.numpy(), ((0, 0), (5, 0)))
    for b in range(2):
        for t in range(90):
            p = np.float32(0.0)
            for k in range(5):
                p = fused(columns[b, k, t], past[b, t + 4 - k], p)
            assert result[b, t] == p


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("taps", [0, 3])
def test_one_stream_has_the_bits_of_the_batch(taps: int, precision: str) -> None:
    net = wavenet(taps=taps)
    together = drawn(decoder(net, 11, precision), T)
    alone = decoder(net, 1, precision)
    assert alone.groups[0].cache is not None
    assert torch.equal(drawn(alone, 1, 2, 50, 0, 13, T - 66), together[:1])
    assert together[0].std() > 1e-3


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_cores_have_the_bits_of_one(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_core.ThreadPolicy, "choose", lambda _policy: "together")
    net = wavenet()
    alone = drawn(decoder(net, 1, precision), T)
    monkeypatch.setattr(wavenet_decoder, "cores", lambda: 2)
    pair = decoder(net, 1, precision, threads=2)
    assert torch.equal(drawn(pair, 200, T - 200), alone)
    assert pair.groups[0].two_core.policy.together is not None


def test_bits_do_not_depend_on_batch_order_or_threads() -> None:
    net = wavenet()
    held, streams = condition(net, 11), torch.arange(100, 111)

    def draw(chosen: list[int], threads: int = 1) -> Tensor:
        own, numbers = rows(held, chosen), streams[chosen]
        return wavenet_decoder.sample_wavenet(net, own, 250, streams=numbers, threads=threads)

    full = draw(list(range(11)))
    assert torch.equal(draw(list(range(11)), threads=2), full)
    for chosen in ([10, 3, 4], [7], list(range(10, -1, -1))):
        assert torch.equal(draw(chosen), full[chosen])
    assert not torch.equal(full[0], full[2])


def test_given_samples_come_first() -> None:
    """Drawn on after them as in one go; and it is they that decide."""
    net = wavenet()
    held, streams = condition(net, 2), torch.arange(2)
    full = wavenet_decoder.sample_wavenet(net, held, 200, streams=streams)
    for n in (0, 1, 77):
        on = wavenet_decoder.sample_wavenet(net, held, 200 - n, streams=streams, prompt=full[:, :n])
        assert torch.equal(on, full[:, n:])


def test_a_stream_in_chunks_saved_and_restored_has_the_bits_of_one_pass() -> None:
    """Columns as they come; each chunk by a new engine, restored from the arrays of the last."""
    net = wavenet(interpolation=2)
    held, sampling = rows(condition(net, 11), [0]), Sampling(seed=4, temperature=0.9)
    request = SampleRequest(net, held, T, torch.tensor([0]))
    full = backend.sample(request, replace(sampling, backend="numba"))[0]
    engine, parts = build_engine(net, sampling), []
    assert engine.name == "numba"
    for a, b in pairwise([0, 1, 2, 6, FRAMES]):
        columns = held.features[..., a * HOP // held.repeat : b * HOP // held.repeat]
        parts.append(engine.sample(columns, a * HOP // held.repeat, (b - a) * HOP))
        arrays, engine = engine.state_dict(), build_engine(net, sampling)
        engine.load_state_dict(arrays)
    assert torch.equal(torch.cat(parts), full)


def test_a_slot_that_is_taken_again_starts_from_silence() -> None:
    net, sampling = wavenet(), Sampling(backend="numba")
    held = condition(net, 4)
    tasks = {i: DecodeRequest(rows(held, [i]), 300 + 7 * i) for i in range(4)}
    done = dict(decode_each(net, iter(tasks.items()), sampling, slots=2))
    for i, task in tasks.items():
        request = SampleRequest(net, task.condition, task.samples, torch.tensor([0]))
        expected = backend.sample(request, sampling)[0]
        assert torch.equal(done[i], expected)


def test_the_kernels_are_taken() -> None:
    assert backend.choose(wavenet()) == backend.Choice("numba")


def test_a_plain_stream_keeps_what_it_kept() -> None:
    """So that a stream that was saved before there were predictors can be restored."""
    spec = WaveNetSpec(network=NETWORK, conditioner=ConditionerSpec(categorical=()))
    plain = wavenet_decoder.Decoder(spec.build(RATE, {}).eval(), None, torch.arange(2))
    assert set(plain.state_dict()) == {"rings", "heard", "time", "streams"}
    predicting = set(decoder(wavenet(), 1).state_dict())
    assert predicting == {"rings", "heard", "time", "streams", "samples", "residuals", "prediction"}


@pytest.mark.parametrize("name", ["batch_kernel.py", "single_stream.py", "two_core_kernel.py"])
def test_compiled_kernels_are_made_anew_where_the_prediction_changes(name: str) -> None:
    file = Path(wavenet_decoder.__file__).with_name(name)
    assert file.with_name("prediction.py") in sources(file)
