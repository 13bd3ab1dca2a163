"""The reference decoders: sampling is the parallel law read backwards, repeatable alone, in a
batch, prompted, permuted.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.decode import reference
from vqwave.decode.backend import SampleRequest, sample
from vqwave.decode.reference import sample_student, sample_wavenet
from vqwave.decode.sampling import Sampling
from vqwave.distributions import (
    Gaussian,
    Head,
    LinearBins,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.errors import UserInputError
from vqwave.models import Student, StudentSpec, WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms

F64 = torch.float64
HEADS = [
    MuLaw(),
    LinearBins(classes=64),
    MixtureOfLogistics(components=3),
    MixtureOfGaussians(components=2),
    Gaussian(),
]
CONDITIONER = ConditionerSpec(channels=4, upsample=(2,))
NETWORK = StackSpec(
    layers=4,
    dilation_cycle=2,
    kernel_size=3,
    residual_channels=6,
    gate_channels=5,
    skip_channels=8,
    hidden_channels=16,
)
T = 50
STREAMS = torch.tensor([3, 8, 5])


def wavenet(head: Head) -> WaveNet:
    """A network whose past and condition really matter, float64."""
    torch.manual_seed(0)
    net = (
        WaveNetSpec(head=head, network=NETWORK, conditioner=CONDITIONER)
        .build(8000, {"speaker": ["a", "b"]}, 3, 8)
        .double()
    )
    with torch.no_grad():
        net.stack.out.weight.mul_(5.0)
    return net.eval()


def student() -> Student:
    torch.manual_seed(0)
    return (
        StudentSpec(flows=(2, 3), network=NETWORK, conditioner=CONDITIONER)
        .build(8000, {"speaker": ["a", "b"]}, 3, 8)
        .double()
    )


def condition(decoder: WaveNet | Student, rows: list[int]) -> Condition:
    frames = torch.randn(3, 3, 6, dtype=F64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return decoder.condition(frames[rows], {"speaker": torch.tensor([0, 1, 1])[rows]})


def draw(
    decoder: WaveNet | Student, rows: list[int], samples: int = T, **settings: object
) -> Tensor:
    """Some of three utterances, each with its own condition and stream."""
    sampler = sample_student if isinstance(decoder, Student) else sample_wavenet
    return sampler(
        decoder, condition(decoder, rows), samples, streams=STREAMS[rows], **{"seed": 4} | settings
    )


@pytest.mark.parametrize("head", HEADS)
def test_samples_are_inverse_cdf_draws_from_the_parallel_law(head: Head) -> None:
    """Teacher forcing what was drawn gives distributions from which the same uniforms draw it
    again.
    """
    net = wavenet(head)
    x = draw(net, [0, 1, 2], temperature=0.8)
    with torch.no_grad():
        predicted = net.predict(x, condition(net, [0, 1, 2]), temperature=0.8)
    torch.testing.assert_close(
        predicted.sample(uniforms(4, STREAMS, 0, T).double()), x, rtol=0, atol=1e-9
    )
    assert x.abs().max() <= 1
    assert x.std() > 1e-2


@pytest.mark.parametrize("decoder", [wavenet(head) for head in HEADS] + [student()])
def test_alone_in_a_batch_and_permuted(decoder: WaveNet | Student) -> None:
    together = draw(decoder, [0, 1, 2])
    for rows in ([0], [1], [2], [2, 0, 1], [1, 1]):
        torch.testing.assert_close(draw(decoder, rows), together[rows], rtol=0, atol=1e-9)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("decoder", [wavenet(MixtureOfLogistics(components=3)), student()])
def test_a_seed_a_stream_and_a_temperature_matter(decoder: WaveNet | Student) -> None:
    x = draw(decoder, [0])
    assert torch.equal(draw(decoder, [0]), x)
    assert not torch.equal(draw(decoder, [0], seed=5), x)
    assert draw(decoder, [0], temperature=0.1).std() < x.std()
    sampler = sample_student if isinstance(decoder, Student) else sample_wavenet
    assert not torch.equal(
        sampler(decoder, condition(decoder, [0]), T, streams=torch.tensor([0]), seed=4), x
    )


@pytest.mark.parametrize("decoder", [wavenet(MixtureOfLogistics(components=3)), student()])
def test_less_is_the_beginning_of_more(decoder: WaveNet | Student) -> None:
    torch.testing.assert_close(
        draw(decoder, [0, 1], 20), draw(decoder, [0, 1])[:, :20], rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("n", [0, 1, 7, 30])
def test_priming_goes_on_where_the_prime_ends(head: Head, n: int) -> None:
    """Continued from, the same audio as in one go; and it depends on the prompt."""
    net = wavenet(head)
    x = draw(net, [0, 1])
    prompted = draw(net, [0, 1], T - n, prompt=x[:, :n])
    torch.testing.assert_close(prompted, x[:, n:], rtol=0, atol=1e-9)
    if n > 1:
        assert not torch.equal(draw(net, [0, 1], T - n, prompt=-x[:, :n]), prompted)


def test_blocks_of_uniforms_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    net, counted = wavenet(Gaussian()), []
    x = draw(net, [0, 1])
    monkeypatch.setattr(reference, "BLOCK", 7)
    assert torch.equal(draw(net, [0, 1], progress=counted.append), x)
    assert sum(counted) == T


def test_nothing_asked_nothing_drawn() -> None:
    assert draw(wavenet(Gaussian()), [0, 1], 0).shape == (2, 0)


def test_the_student_draws_g_of_z() -> None:
    net = student()
    with torch.no_grad():
        flowed = net.transform(
            net.noise(uniforms(4, STREAMS, 0, T).double(), 0.7), condition(net, [0, 1, 2])
        )
    torch.testing.assert_close(
        draw(net, [0, 1, 2], temperature=0.7), flowed.x.clamp(-1, 1), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("decoder", [wavenet(MuLaw()), student()])
def test_sample_calls_the_reference(decoder: WaveNet | Student) -> None:
    request = SampleRequest(decoder, condition(decoder, [0]), T, STREAMS[:1])
    through = sample(request, Sampling(seed=4, backend="reference"))
    assert torch.equal(through, draw(decoder, [0]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"backend": "refrence"}, "did you mean reference"), ({"temperature": -0.5}, "or above")],
)
def test_unknown_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        sample(SampleRequest(student(), None, 3, STREAMS), Sampling(**settings))
