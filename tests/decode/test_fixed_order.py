"""The condition's kernels: a library's convolution and linear prediction up to rounding, and the
same bits for any number of columns.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import vqwave

pytest.importorskip("numba", reason="numba is not installed")

from vqwave.decode.cpu.fixed_order import (
    FixedOrderConv1d,
    FixedOrderPredictor,
    with_fixed_order,
)
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.models import VQVAE, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.finite import check_finite
from vqwave.nn.linear_prediction import LinearPredictorSpec, SpectralPredictor
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.nn.tensor_state import PerState
from vqwave.nn.wavenet import StackSpec


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("taps", [1, 3, 4, 5])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 2), (20, 70), (64, 256)])
def test_a_convolution_is_torch_s(taps: int, inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(inputs, outputs, taps, padding="same", bias=outputs != 70)
    x = random(2, inputs, 23)
    expected = conv.double()(x.double())
    mine = FixedOrderConv1d(conv.float())(x)
    torch.testing.assert_close(mine.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("taps", [1, 5])
def test_a_column_s_bits_depend_on_its_receptive_field_alone(taps: int) -> None:
    """Whatever the number of columns, and wherever the column is among them."""
    torch.manual_seed(0)
    conv = FixedOrderConv1d(nn.Conv1d(20, 70, taps, padding="same"))
    x, around = random(1, 20, 41), taps // 2
    whole = conv(x)
    for length in range(2 * around + 1, 30):
        for first in (0, 3, 41 - length):
            part = conv(x[..., first : first + length])[..., around : length - around]
            assert torch.equal(part, whole[..., first + around : first + length - around])


@pytest.mark.parametrize("interpolation", [1, 2])
@pytest.mark.parametrize("bands", [16, 64])
def test_a_predictor_is_torch_s(interpolation: int, bands: int) -> None:
    """Through the filters' power: coefficients of a steep spectrum are ill-conditioned."""
    features = LogMelSpec(bands=bands).build(16000)
    spec = LinearPredictorSpec(order=16, interpolation=interpolation)
    predictor = SpectralPredictor(spec, features, 16000)
    log_mel = 2 * random(2, bands, 7).double() - 3
    mine, expected = FixedOrderPredictor(predictor)(log_mel), predictor(log_mel)
    assert mine.shape == expected.shape == (2, 16, 7 * interpolation)
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-8)
    single = FixedOrderPredictor(predictor)(log_mel[:1, :, 2:3].float())
    if interpolation == 1:
        rows = FixedOrderPredictor(predictor)(log_mel[:1].float())
        assert torch.equal(single[..., 0], rows[..., 2])


def model(**conditioner: object) -> VQVAE:
    torch.manual_seed(0)
    spec = VQVAESpec(
        encoder=WaveformEncoderSpec(strides=(4, 4), channels=8, latent_dim=4),
        quantizer=EMAQuantizerSpec(codebook_size=16),
        decoder=WaveNetSpec(
            network=StackSpec(layers=2, dilation_cycle=2, residual_channels=8, gate_channels=8),
            conditioner=ConditionerSpec(channels=6, **conditioner),
        ),
    )
    return spec.build(8000, {"speaker": ["a", "b"]}).eval()


def test_kernels_follow_the_weights() -> None:
    own, speaker = model(), {"speaker": torch.tensor([1])}
    codes = torch.randint(16, (1, 1, 9), generator=torch.Generator().manual_seed(0))
    kept = with_fixed_order(own)
    assert kept is with_fixed_order(own)
    frames = own.decoder.conditioner.frames
    with torch.no_grad():
        frames.weight.mul_(2.0)
        expected = own.condition(codes, speaker).features
        mine = with_fixed_order(own).condition(codes, speaker).features
        before = kept.condition(codes, speaker).features
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
        assert (before - expected).abs().max() > 1e-3
        frames.weight = nn.Parameter(frames.weight / 2)
        again = with_fixed_order(own).condition(codes, speaker).features
        assert torch.equal(again, before)


def test_what_has_no_kernel_stays_with_torch() -> None:
    assert with_fixed_order(model(upsample=(4,))) is None
    assert with_fixed_order(model().double()) is None
    assert with_fixed_order(model(kernel_size=5)) is not None


def test_what_is_made_of_tensors_is_made_again_after_a_change() -> None:
    calls: list[float] = []
    total = PerState(lambda module: calls.append(module.weight.sum().item()) or len(calls))
    layer = nn.Linear(2, 2)
    assert [total(layer), total(layer)] == [1, 1]
    with torch.no_grad():
        layer.weight[0, 0] = 3.0
    assert total(layer) == 2
    layer.weight = nn.Parameter(torch.ones(2, 2))
    assert total(layer) == 3
    with torch.inference_mode():  # such tensors count no writes: nothing is kept
        other = nn.Linear(2, 2)
    assert [total(other), total(other)] == [4, 5]
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(UserInputError, match="this layer: 1 of 4 values of weight are NaN"):
        check_finite(layer, "this layer")


def test_a_model_that_is_loaded_in_inference_mode_keeps_its_kernels() -> None:
    """As one that is loaded outside: else each decoding would make them again."""
    with torch.inference_mode():
        student = vqwave.load("fsdd-student").model
        assert isinstance(student, VQVAE)
        assert with_fixed_order(student) is with_fixed_order(student)
