"""Temperatures of a draw's parts: what each does, in every decoder; equal ones are one number."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.cli import parser
from vqwave.cli.arguments import sampling_of
from vqwave.decode import reference
from vqwave.decode.backend import SampleRequest, build_engine, sample
from vqwave.decode.batching import DecodeRequest, decode_each
from vqwave.decode.sampling import Sampling, Temperatures, temperatures_of
from vqwave.distributions import (
    Gaussian,
    Head,
    Logistic,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.models import Student, StudentSpec, WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms

NUMBA = pytest.mark.skipif(
    importlib.util.find_spec("numba") is None, reason="numba is not installed"
)
BACKENDS = ["reference", pytest.param("numba", marks=NUMBA)]
RATE, HOP, BANDS, FRAMES, ORDER = 8000, 40, 12, 6, 8
T = FRAMES * HOP
MEL = LogMelSpec(bands=BANDS, window_ms=10.0, hop_ms=5.0)
NETWORK = StackSpec(
    layers=4,
    dilation_cycle=2,
    kernel_size=2,
    residual_channels=8,
    gate_channels=8,
    skip_channels=8,
    hidden_channels=8,
)
HEADS = [MixtureOfLogistics(components=3), MixtureOfGaussians(components=2), Gaussian(), Logistic()]
VOICED = torch.tensor([0, 1, 1, 0, 1, 0]) > 0
APART = Temperatures(0.9, 0.6, 0.2)


def wavenet(head: Head = HEADS[0], taps: int = 3) -> WaveNet:
    torch.manual_seed(0)
    spec = WaveNetSpec(
        head=head,
        network=NETWORK,
        conditioner=ConditionerSpec(channels=6),
        predictor=LinearPredictorSpec(order=ORDER) if head.continuous else None,
        pitch_taps=taps if head.continuous else 0,
    )
    net = spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, MEL.build(RATE)).eval()
    with torch.no_grad():
        net.stack.out.weight.mul_(4.0)
        if head.continuous:
            net.input_embedding.conv.weight.mul_(0.2)
    return net


def student(taps: int = 3) -> Student:
    torch.manual_seed(0)
    spec = StudentSpec(
        flows=(2, 2),
        network=replace(NETWORK, layers=2, skip_channels=0),
        conditioner=ConditionerSpec(channels=4),
        predictor=LinearPredictorSpec(order=ORDER) if taps else None,
        pitch_taps=taps,
    )
    return spec.build(RATE, {"speaker": ["a", "b"]}, BANDS, HOP, MEL.build(RATE)).eval()


@torch.no_grad()
def condition(net: WaveNet | Student, streams: int = 2) -> Condition:
    """Of random spectra; voiced where `VOICED` says, shifted by a frame from stream to stream."""
    generator = torch.Generator().manual_seed(1)
    frames = 0.7 * torch.randn(streams, BANDS, FRAMES, generator=generator)
    if net.conditioner.predictor is not None:
        v = torch.stack([VOICED.roll(b) for b in range(streams)]).float()
        frames = torch.cat(
            [frames, net.conditioner.predictor.analyse(frames, torch.stack([0 * v, v], 1))], 1
        )
    return net.condition(frames, {"speaker": torch.arange(streams) % 2})


def factors(temperatures: Temperatures, streams: int = 2) -> Tensor:
    """The factor on the scale of each sample, (B, T) in float64."""
    voiced = torch.stack([VOICED.roll(b) for b in range(streams)]).repeat_interleave(HOP, 1)
    scale, own = (torch.tensor(f, dtype=torch.float64) for f in temperatures[1:])
    return torch.where(voiced, own, scale)


def one(held: Condition, row: int) -> Condition:
    return Condition(held.features[[row]], held.repeat)


# ------------------------------------------------------------------ which numbers hold


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (0.9, 0.8, 0.6)),
        ({"temperature": 0.7}, (0.7, 0.7, 0.7)),
        ({"temperature": 0.7, "voiced_temperature": 0.1}, (0.7, 0.7, 0.1)),
        ({"scale_temperature": 0.5}, (0.9, 0.5, 0.6)),
        ({"voiced_temperature": 0.0}, (0.9, 0.8, 0.0)),
        ({"temperature": 1.0}, (1.0, 1.0, 1.0)),
    ],
)
def test_what_is_given_comes_before_the_models_own(given: dict, expected: tuple) -> None:
    own = temperatures_of({"temperature": {"choice": 0.9, "scale": 0.8, "voiced": 0.6}})
    resolved = Sampling(seed=3, **given).resolved(own)
    assert resolved.temperatures() == expected
    assert resolved.resolved(Temperatures(0.3, 0.3, 0.3)) == resolved
    assert resolved.seed == 3


def test_a_card_without_a_temperature_has_1() -> None:
    assert temperatures_of({"corpus": "x"}) == Sampling().temperatures() == (1.0, 1.0, 1.0)
    assert temperatures_of({"temperature": {"voiced": 0.5}}) == (1.0, 1.0, 0.5)


@pytest.mark.parametrize(
    "card", [0.9, {"chioce": 0.9}, {"choice": "hot"}, {"scale": -0.1}, {"voiced": float("nan")}]
)
def test_a_card_that_cannot_be_read_is_named(card: object) -> None:
    with pytest.raises(UserInputError, match="temperature"):
        temperatures_of({"temperature": card})


@pytest.mark.parametrize("part", ["temperature", "scale_temperature", "voiced_temperature"])
def test_each_part_is_checked_by_name(part: str) -> None:
    with pytest.raises(UserInputError, match=part.replace("_", " ")):
        Sampling(**{part: -0.1})


@pytest.mark.parametrize(
    "command",
    [
        ["decode", "m", "in.vqw"],
        ["convert", "m", "in.wav", "--speaker", "a"],
        ["generate", "m", "--out", "x.wav"],
        ["synthesize", "m", "--features", "mel=x.npy", "--out", "x.wav"],
        ["evaluate", "m"],
    ],
)
def test_every_command_that_decodes_has_the_options(command: list[str]) -> None:
    def asked(*flags: str) -> Sampling:
        return sampling_of(parser().parse_args([*command, *flags]))

    assert asked() == Sampling()
    assert asked("--temperature", "0.8").temperatures(APART) == (0.8, 0.8, 0.8)
    flags = ("--scale-temperature", "0.5", "--voiced-temperature", "0.4")
    assert asked(*flags).temperatures(APART) == (0.9, 0.5, 0.4)
    assert asked("--postfilter", "0.3").postfilter == 0.3


# ------------------------------------------------------------------ heads


def parameters(head: Head, n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(2, head.channels, n, generator=generator, dtype=torch.float64)
    u = torch.rand(4, 2, n, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    return head.initial_bias().double()[:, None] + 0.3 * noise, u


@pytest.mark.parametrize("head", [HEADS[1], MixtureOfGaussians(components=4)])
def test_a_choice_of_0_takes_the_likeliest_component_and_leaves_its_scale(head: Head) -> None:
    params, u = parameters(head)
    law = head(params)
    best = law.logits.argmax(1, keepdim=True)
    place, scale = (part.gather(1, best)[:, 0] for part in (law.location, law.log_scale.exp()))
    expected = (place + 0.5 * scale * law.standard_sample(u)).clamp(-1, 1)
    torch.testing.assert_close(head(params, 0.0, 0.5).sample(u), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", HEADS[1:])
def test_a_scale_of_0_gives_the_location_of_the_component_that_is_drawn(head: Head) -> None:
    params, u = parameters(head)
    law = head(params)
    cdf = law.logits.softmax(1).cumsum(1)
    drawn = (cdf <= u[:1].transpose(0, 1)).sum(1, keepdim=True).clamp(max=head.components - 1)
    expected = law.location.gather(1, drawn)[:, 0].clamp(-1, 1)
    torch.testing.assert_close(head(params, 1.0, 0.0).sample(u), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scale_may_differ_from_sample_to_sample(head: Head, dtype: torch.dtype) -> None:
    params, u = (part.to(dtype) for part in parameters(head))
    scales = torch.tensor([0.3, 0.8], dtype=torch.float64).repeat(20)[None]
    result = head(params, 0.7, scales).sample(u)
    for column, scale in enumerate(scales[0, :2].tolist()):
        expected = head(params, 0.7, scale).sample(u)[:, column::2]
        torch.testing.assert_close(result[:, column::2], expected, rtol=0, atol=1e-6)
    assert torch.equal(head(params, 0.7).sample(u), head(params, 0.7, 0.7).sample(u))


# ------------------------------------------------------------------ decoders


@pytest.mark.parametrize("head", HEADS)
def test_voiced_samples_have_a_scale_of_their_own(head: Head) -> None:
    """Every sample is that of its law, whose scale is `voiced` or `scale`, by given uniforms."""
    net, streams = wavenet(head).double(), torch.tensor([4, 2])
    held = condition(wavenet(head))
    held = Condition(held.features.double(), held.repeat)
    x = reference.sample_wavenet(net, held, T, streams=streams, seed=5, temperature=APART)
    last = torch.nn.functional.pad(x, (1, 0))[:, :-1]
    with torch.no_grad():
        params = net.parameters_after(last, net.project(held), None)
    law = head(params, APART.choice, factors(APART))
    expected = law.sample(uniforms(5, streams, 0, T).double())
    level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
    assert (x - expected).abs().max() <= 1.01 * level + 1e-8
    assert (x - expected).abs().mean() < 1e-6


@NUMBA
@pytest.mark.parametrize("head", HEADS)
def test_the_kernels_draw_as_the_reference_does(head: Head) -> None:
    """From the same past, but for components on an edge."""
    from vqwave.decode.cpu.wavenet import decoder as wavenet_decoder

    net, streams = wavenet(head), torch.tensor([4, 2])
    held, settings = condition(net), {"streams": streams, "seed": 5}
    x = wavenet_decoder.sample_wavenet(net, held, T, **settings, temperature=APART, threads=1)
    last = torch.nn.functional.pad(x.double(), (1, 0))[:, :-1]
    exact, doubled = net.double(), Condition(held.features.double(), held.repeat)
    with torch.no_grad():
        params = exact.parameters_after(last, exact.project(doubled), None)
    law, u = head(params, APART.choice, factors(APART)), uniforms(5, streams, 0, T).double()
    low, middle, high = (law.sample(torch.cat([u[:1] + a, u[1:]])) for a in (-1e-4, 0.0, 1e-4))
    steady = low == high
    level = 2.0 / 2**head.sample_bits if isinstance(head, MixtureOfLogistics) else 0.0
    assert steady.float().mean() > 0.9
    assert (x - middle)[steady].abs().max() < 1.01 * level + 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("net", [wavenet(), wavenet(MuLaw(classes=32)), wavenet(taps=0), student()])
def test_equal_temperatures_are_one_number(net: WaveNet | Student, backend: str) -> None:
    request, own = (
        SampleRequest(net, condition(net), T, torch.arange(2)),
        Temperatures(0.7, 0.7, 0.7),
    )
    alone = sample(request, Sampling(seed=3, backend=backend, temperature=0.7))
    three = sample(request, Sampling(seed=3, backend=backend).resolved(own))
    assert torch.equal(three, alone)
    assert alone.std() > 1e-3


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("net", [wavenet(taps=0), student(0)])
def test_where_voicing_is_unknown_the_scale_holds(net: WaveNet | Student, backend: str) -> None:
    request = SampleRequest(net, condition(net), T, torch.arange(2))
    sampled = [
        sample(request, Sampling(3, backend=backend).resolved(Temperatures(0.9, scale, voiced)))
        for scale, voiced in ((0.6, 0.6), (0.6, 0.1), (0.3, 0.6))
    ]
    assert torch.equal(sampled[0], sampled[1])
    assert not torch.equal(sampled[0], sampled[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_0_of_every_part_does_not_depend_on_the_seed(backend: str) -> None:
    net = wavenet()
    request, likeliest = (
        SampleRequest(net, condition(net), 80, torch.arange(2)),
        Temperatures(0.0, 0.0, 0.0),
    )
    first, other = (
        sample(request, Sampling(seed, backend=backend).resolved(likeliest)) for seed in (1, 2)
    )
    assert torch.equal(first, other)


@NUMBA
def test_streams_batches_and_two_cores_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from vqwave.decode.cpu.wavenet import decoder as wavenet_decoder
    from vqwave.decode.cpu.wavenet import two_core

    net, streams = wavenet(), torch.arange(3)
    held = condition(net, 3)
    settings = {"seed": 9, "temperature": APART}
    full = wavenet_decoder.sample_wavenet(net, held, T, streams=streams, threads=1, **settings)
    monkeypatch.setattr(two_core.ThreadPolicy, "choose", lambda _policy: "together")
    monkeypatch.setattr(wavenet_decoder, "cores", lambda: 2)
    for row in range(3):
        for threads in (1, 2):
            built = wavenet_decoder.Decoder(net, one(held, row), streams[[row]], threads=threads)
            parts = [part for n in (1, 90, T - 91) for part in built.sample(n, **settings)]
            assert torch.equal(torch.cat(parts, 1)[0], full[row])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tile_draws_each_as_alone(backend: str) -> None:
    net = wavenet()
    held = condition(net, 3)
    sampling = Sampling(4, 0.9, backend=backend, scale_temperature=0.6, voiced_temperature=0.2)
    tasks = {row: DecodeRequest(one(held, row), T - 7 * row) for row in range(3)}
    done = dict(decode_each(net, iter(tasks.items()), sampling, slots=2))
    for row, task in tasks.items():
        request = SampleRequest(net, task.condition, task.samples, torch.tensor([0]))
        assert torch.equal(done[row], sample(request, sampling)[0])


@pytest.mark.parametrize("net", [wavenet(), student()])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_in_chunks_draws_as_in_one_pass(
    net: WaveNet | Student, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "BLOCK_OF_STUDENT", HOP)
    held = one(condition(net), 0)
    sampling = Sampling(4, 0.9, backend=backend, scale_temperature=0.6, voiced_temperature=0.2)
    full = sample(SampleRequest(net, held, T, torch.tensor([0])), sampling)[0]
    engine, parts = build_engine(net, sampling), []
    chunks = [(n, n + 1) for n in range(FRAMES)]
    if backend == "numba":  # a student's reference has blocks of one length
        chunks = [(0, 1), (1, 2), (2, 5), (5, FRAMES)]
    for first, last in chunks:
        columns = held.features[..., first:last]
        parts.append(engine.sample(columns, first, (last - first) * HOP))
    assert torch.equal(torch.cat(parts), full)


def test_a_students_noise_is_narrowed_by_voicing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, each sample by the factor of its own frame."""
    monkeypatch.setattr(reference, "BLOCK_OF_STUDENT", 2 * HOP)
    net, streams = student().double(), torch.tensor([4, 2])
    held = condition(student())
    held = Condition(held.features.double(), held.repeat)
    x = reference.sample_student(net, held, T, streams=streams, seed=5, temperature=APART)
    z = factors(APART) * net.noise(uniforms(5, streams, 0, T).double())
    with torch.no_grad():
        expected = net.transform(z, held).x.clamp(-1, 1)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-9)


@NUMBA
def test_the_kernels_narrow_a_students_noise_by_voicing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reference does, and with the same bits in tiles, in chunks and alone."""
    from vqwave.decode.cpu.flow import decoder as flow_decoder

    net, streams = student(), torch.tensor([4, 2])
    held, settings = condition(net), {"streams": streams, "seed": 5, "temperature": APART}
    result = flow_decoder.sample_student(net, held, T, **settings)
    expected = reference.sample_student(net, held, T, **settings)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)
    assert expected.std() > 1e-3
    monkeypatch.setattr(flow_decoder, "tile_columns", lambda _plans: 48)
    for row in range(2):
        built = flow_decoder.StudentDecoder(net, one(held, row), streams[[row]], threads=1)
        parts = [part for n in (1, 90, T - 91) for part in built.sample(n, 5, APART)]
        assert torch.equal(torch.cat(parts, 1)[0], result[row])


def test_guidance_scales_by_voicing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two copies of each utterance, the first half."""
    net = wavenet()
    held = condition(net, 2)
    guided = reference.Guided(net, held, 1.0)
    plain = guided.scales(APART, 3, T - 3)
    assert torch.equal(plain, factors(APART)[:, 3:])
    monkeypatch.setattr(
        net.conditioner, "null_condition", lambda: Condition(torch.zeros(1, 6, 1), HOP)
    )
    assert torch.equal(reference.Guided(net, held, 2.0).scales(APART, 3, T - 3), plain)


def test_numbers_of_a_card_are_json() -> None:
    text = json.dumps({"temperature": APART._asdict()})
    assert temperatures_of(json.loads(text)) == APART
    assert str(APART) == "0.9 (choice), 0.6 (scale), 0.2 (voiced)"
    assert str(Temperatures(0.9, 0.9, 0.9)) == "0.9"
    assert np.isfinite(APART).all()
