"""The rows of the CUDA kernel: what they measure against is the reference's own step."""

from __future__ import annotations

import pytest
import torch

from vqwave.bench import decode_cuda
from vqwave.distributions import Gaussian, Head, MuLaw
from vqwave.features import LogMelSpec
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.models.wavenet import WaveNetState
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec
from vqwave.rng.philox import uniforms


def wavenet(head: Head | None = None, pitch_taps: int = 0) -> WaveNet:
    """pitch_taps: above 0, those of a linear predictor."""
    torch.manual_seed(0)
    sizes = StackSpec(
        layers=3,
        dilation_cycle=3,
        residual_channels=8,
        gate_channels=8,
        skip_channels=16,
        hidden_channels=16,
    )
    spec = WaveNetSpec(
        head=head or MuLaw(),
        network=sizes,
        conditioner=ConditionerSpec(channels=4),
        predictor=LinearPredictorSpec(order=4) if pitch_taps else None,
        pitch_taps=pitch_taps,
    )
    spectrum = LogMelSpec(bands=12, window_ms=10.0, hop_ms=5.0).build(8000)
    net = spec.build(8000, {"speaker": ["a", "b"]}, 12, 40, spectrum)
    with torch.no_grad():
        net.stack.out.weight.mul_(20.0)
    return net.eval()


@pytest.mark.parametrize(("head", "pitch_taps"), [(MuLaw(), 0), (Gaussian(), 3)])
@torch.inference_mode()
def test_the_recorded_step_is_the_networks(head: Head, pitch_taps: int) -> None:
    net = wavenet(head, pitch_taps)
    features = torch.randn(2, net.conditioner.width, 1)
    if pitch_taps:
        features[:, net.conditioner.channels :] *= 0.1
        features[:, -1] = 15.0  # samples, so that the taps read what the step has put aside
    conditions = Condition(features, 40)
    replayed = decode_cuda.Replayed(net, conditions, 2)
    state, last, u = WaveNetState(), torch.zeros(2, 1), uniforms(0, torch.arange(2), 0, 1)
    steps = []
    for _ in range(20):
        replayed.advance()
        last = net.step(last, net.project(conditions), state).sample(u)
        assert torch.equal(replayed.last, last)
        steps.append(last)
    assert len(torch.cat(steps).unique()) > 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_there_are_no_rows() -> None:
    assert list(decode_cuda.rows("P", wavenet(), None, 8000)) == []


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_batch_has_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_cuda, "STREAMS", (1, 16))
    rows = list(decode_cuda.rows("P", wavenet(), None, 8000))
    assert len(rows) == 6
    assert all(row.value > 0 for row in rows)
