"""What people ask of a trained WaveNet beyond babble: go on from a recording, score it, speak from
given frames and vectors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.decode.sampling import Sampling
from vqwave.distributions import MuLaw
from vqwave.errors import UserInputError
from vqwave.inference.model_folder import ModelCard
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics import likelihood
from vqwave.models import WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.frontend import ConcatSpec, FilesSpec, LogMelSpec, PhonesSpec
from vqwave.nn.wavenet import StackSpec

LABELS = {"speaker": ["a", "b"], "phones": ["_", "o", "z"]}


def codec(**settings: object) -> SpeechModel:
    torch.manual_seed(0)
    conditioner = settings.pop("conditioner", ConditionerSpec(channels=4))
    network = StackSpec(
        layers=4,
        dilation_cycle=4,
        residual_channels=6,
        gate_channels=6,
        skip_channels=8,
        hidden_channels=8,
    )
    spec = WaveNetSpec(head=MuLaw(classes=32), network=network, conditioner=conditioner, **settings)
    model = spec.build(8000, LABELS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return SpeechModel(
        model, ModelCard(sample_rate=8000, labels=LABELS, spec=spec, about={"level_db": -23.0})
    )


def recording(samples: int = 700) -> Tensor:
    t = torch.arange(samples) / 8000
    return 0.1 * torch.sin(2 * torch.pi * 200 * t) + 0.01 * torch.randn(
        samples, generator=torch.Generator().manual_seed(0)
    )


def test_a_recording_is_gone_on_from() -> None:
    it, wave = codec(), recording()
    whole = it.generate(
        0.01, labels={"speaker": "b"}, prompt=wave, sampling=Sampling(backend="reference"), count=2
    )
    assert [len(x) for x in whole] == [780, 780]
    assert torch.equal(whole[0][:700], it.prepare(wave))
    assert not torch.equal(whole[0][700:], whole[1][700:])
    other = it.generate(
        0.01, labels={"speaker": "b"}, prompt=-wave, sampling=Sampling(backend="reference")
    )[0]
    assert not torch.equal(whole[0][700:], other[700:]), "the first frames must matter"


@pytest.mark.parametrize("samples", [3, 700, 16385])
def test_a_score_is_the_mean_cost_of_the_parallel_pass(samples: int) -> None:
    it, wave = codec(), recording(samples)
    score, x = it.log_likelihood(wave, labels={"speaker": "a"}), it.prepare(wave)[None]
    with torch.no_grad():
        expected = likelihood.bits(
            it.model.head, it.model(x, {"speaker": torch.tensor([0])}), x
        ).mean()
    assert score.samples == samples
    assert score.bits == pytest.approx(float(expected), rel=1e-5)
    assert score.unit == "bits per sample of 32 classes"


def test_a_voice_is_a_vector() -> None:
    it = codec(conditioner=ConditionerSpec(channels=4, categorical=(), embeddings={"voice": 3}))
    drawn = [
        it.generate(0.01, embeddings={"voice": v}, sampling=Sampling(backend="reference"))[0]
        for v in ([9.0, 0, 0], np.array([0, 9.0, 0]))
    ]
    assert not torch.equal(*drawn)
    with pytest.raises(UserInputError, match="'voice' is not given"):
        it.generate(0.01)
    with pytest.raises(UserInputError, match="did you mean voice"):
        it.generate(0.01, embeddings={"voise": [1.0, 2.0, 3.0]})


def test_speech_from_given_frames_is_as_long_as_they_are() -> None:
    it = codec(features=FilesSpec(channels=3, hop_ms=10))
    mel = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    drawn = [
        it.synthesize({"mel": m}, labels={"speaker": "a"}, sampling=Sampling(backend="reference"))
        for m in (mel, 5 - mel)
    ]
    assert len(drawn[0]) == 320
    assert not torch.equal(*drawn)
    with pytest.raises(UserInputError, match=r"\(2, 4\), expected \(3, F\)"):
        it.synthesize({"mel": mel[:2]}, labels={"speaker": "a"})


def test_speech_from_phones_needs_a_length() -> None:
    it = codec(features=PhonesSpec(hop_ms=10))
    phones = [[0, "_"], [100, "z"], [300, "o"]]
    assert (
        len(
            it.synthesize(
                {"phones": phones},
                0.05,
                labels={"speaker": "a"},
                sampling=Sampling(backend="reference"),
            )
        )
        == 400
    )
    with pytest.raises(UserInputError, match="seconds"):
        it.synthesize({"phones": phones}, labels={"speaker": "a"})
    with pytest.raises(UserInputError, match="phone 'x'"):
        it.synthesize({"phones": [[0, "x"]]}, 0.05, labels={"speaker": "a"})


def test_a_model_conditioned_on_a_recording_needs_one() -> None:
    it = codec(features=ConcatSpec(parts=(LogMelSpec(bands=8, fmax=4000), PhonesSpec(hop_ms=10))))
    with pytest.raises(UserInputError, match="recording"):
        it.synthesize({"phones": [[0, "z"]]}, 0.05, labels={"speaker": "a"})
    wave = recording()
    copy = it.reconstruct(
        wave,
        labels={"speaker": "a"},
        features={"phones": [[0, "z"]]},
        sampling=Sampling(backend="reference"),
    )
    assert copy.shape == wave.shape
