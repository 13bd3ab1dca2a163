"""Frame features: librosa's numbers, shapes, alignment, laws of the deltas, gradients, precision,
errors.
"""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vqwave.errors import UserInputError
from vqwave.features import (
    FeatureSpec,
    LogMelSpec,
    MFCCSpec,
    deltas,
    hz_to_mel,
    mel_filters,
    mel_to_hz,
)

RATE = 8000
SPECS = [LogMelSpec(), LogMelSpec.tacotron2(), MFCCSpec()]

# From librosa 0.11.0 on the chirp below, padded with zeros as `MelBands` pads:
# filters.mel(sr=8000, n_fft=256, n_mels=40, fmin=50, fmax=4000), and again with htk=True,
# norm=None;
# log(maximum(feature.melspectrogram(n_fft=256, win_length=200, hop_length=80, center=False,
# power=1.0, ...), 1e-5));
# feature.mfcc(S=power_to_db(melspectrogram(power=2.0, fmin=20, ...), top_db=None)).
SLANEY = {
    (0, 2): 0.00399204995,
    (5, 10): 0.0,
    (20, 40): 0.0115369456,
    (30, 70): 0.00411984185,
    (39, 127): 6.39083271e-4,
}
HTK = {
    (0, 2): 0.364067942,
    (5, 10): 0.300233275,
    (20, 40): 0.658598959,
    (30, 70): 0.114132285,
    (39, 127): 0.151888803,
}
LOG_MEL = {
    (3, 0): -1.219953,
    (3, 7): -9.794314,
    (17, 0): -6.46535,
    (17, 7): -6.645247,
    (39, 19): -5.907965,
}
CEPSTRA_DB = {
    (0, 0): -242.37238,
    (0, 7): -411.59528,
    (1, 0): 100.09509,
    (1, 19): -16.73594,
    (12, 7): 3.57471,
}


def chirp() -> Tensor:
    """From 200 to 1800 Hz in 0.2 s at 8 kHz, amplitude 0.3."""
    t = torch.arange(1600, dtype=torch.float64) / RATE
    return (0.3 * torch.sin(2 * math.pi * (200 * t + 4000 * t**2))).float()[None]


@pytest.mark.parametrize(
    ("scale", "known", "area"), [("slaney", SLANEY, 1.2799618), ("htk", HTK, 122.55373)]
)
def test_filters_are_librosas(scale: str, known: dict[tuple[int, int], float], area: float) -> None:
    filters = mel_filters(RATE, 256, 40, 50.0, 4000.0, scale=scale)
    assert {place: filters[place].item() for place in known} == pytest.approx(known, rel=1e-6)
    assert filters.sum().item() == pytest.approx(area, rel=1e-6)


def test_log_mel_is_librosas() -> None:
    features = LogMelSpec(bands=40, fmin=50.0, fmax=4000.0).build(RATE)(chirp())[0]
    assert features.shape == (40, 20)
    assert {place: features[place].item() for place in LOG_MEL} == pytest.approx(LOG_MEL, abs=2e-3)
    assert features[39, 7].item() == pytest.approx(math.log(1e-5))  # below the floor


def test_cepstra_are_librosas_in_nepers() -> None:
    features = MFCCSpec(deltas=0).build(RATE)(chirp())[0] * 10 / math.log(10)
    assert {place: features[place].item() for place in CEPSTRA_DB} == pytest.approx(
        CEPSTRA_DB, abs=0.02
    )


@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_mel_scale_is_inverted(scale: str) -> None:
    hz = torch.tensor([0.0, 100.0, 999.0, 1000.0, 1001.0, 7600.0], dtype=torch.float64)
    torch.testing.assert_close(mel_to_hz(hz_to_mel(hz, scale), scale), hz)
    assert hz_to_mel(hz, scale)[3].item() == pytest.approx(
        15.0 if scale == "slaney" else 1000.0, rel=1e-4
    )


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 48000])
@pytest.mark.parametrize("spec", SPECS)
def test_frames_tile_the_waveform(spec: FeatureSpec, rate: int) -> None:
    module = spec.build(rate)
    assert module.hop == round(spec.hop_ms * rate / 1000)
    for frames in (1, 2, 7):
        assert module(torch.rand(3, frames * module.hop) - 0.5).shape == (
            3,
            module.channels,
            frames,
        )


@pytest.mark.parametrize("spec", [LogMelSpec(), LogMelSpec(hop_ms=9.875)])
def test_frame_is_centred_in_its_hop(spec: LogMelSpec) -> None:
    """A click in the middle of a hop is loudest in that hop's frame, and its two neighbours hear it
    equally.
    """
    module = spec.build(RATE)
    wave = torch.zeros(1, 9 * module.hop)
    wave[0, 4 * module.hop + module.hop // 2] = 1.0
    bands = module.mel(wave)[0]
    assert bands.sum(0).argmax() == 4
    torch.testing.assert_close(bands[:, 3], bands[:, 5])


def test_deltas_of_a_line_are_its_slope() -> None:
    line = torch.arange(12, dtype=torch.float64).mul(0.75)[None, None]
    slopes = deltas(line)
    torch.testing.assert_close(slopes[..., 2:-2], torch.full((1, 1, 8), 0.75, dtype=torch.float64))
    # frame 0, ends held: (1 (c1 - c0) + 2 (c2 - c0)) / 10 = (0.75 + 3) / 10
    assert slopes[0, 0, 0].item() == pytest.approx(0.375)


def test_mfcc_stacks_orders_of_deltas() -> None:
    features = MFCCSpec().build(RATE)(chirp())
    assert features.shape == (1, 39, 20)
    torch.testing.assert_close(features[:, 13:26], deltas(features[:, :13]))
    torch.testing.assert_close(features[:, 26:], deltas(deltas(features[:, :13])))


def test_gain_moves_log_mel_by_its_logarithm_and_only_c0_of_the_cepstra() -> None:
    torch.manual_seed(0)
    wave = torch.rand(1, 1600) - 0.5
    log_mel, mfcc = LogMelSpec().build(RATE), MFCCSpec(deltas=0).build(RATE)
    torch.testing.assert_close(log_mel(wave / 2), log_mel(wave) - math.log(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(mfcc(wave / 2)[:, 1:], mfcc(wave)[:, 1:], atol=1e-3, rtol=0)


@pytest.mark.parametrize("spec", SPECS)
def test_gradient_is_finite_in_silence_and_right_elsewhere(spec: FeatureSpec) -> None:
    module = spec.build(RATE).double()
    silence = torch.zeros(1, 4 * module.hop, dtype=torch.float64, requires_grad=True)
    module(silence).sum().backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()
    torch.manual_seed(0)
    wave = (torch.rand(1, 4 * module.hop, dtype=torch.float64) - 0.5).requires_grad_()
    direction = torch.randn_like(wave)
    (slope,) = torch.autograd.grad(module(wave).sum(), wave)
    step = 1e-6 * direction
    numeric = (module(wave + step) - module(wave - step)).sum() / 2e-6
    assert (slope * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_autocast_changes_nothing(spec: FeatureSpec) -> None:
    module, wave = (
        spec.build(RATE),
        torch.rand(2, 800, generator=torch.Generator().manual_seed(0)) - 0.5,
    )
    plain = module(wave)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = module(wave)
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_spec_is_chosen_by_kind_and_refuses_unknown_keys() -> None:
    adapter = TypeAdapter(FeatureSpec)
    assert adapter.validate_python({"kind": "mfcc", "deltas": 1}).build(RATE).channels == 26
    assert adapter.validate_python({"kind": "log_mel", "bands": 40}).build(RATE).channels == 40
    with pytest.raises(ValidationError, match="hop"):
        adapter.validate_python({"kind": "log_mel", "hop": 80})


def test_fmax_is_limited_to_half_the_rate() -> None:
    assert torch.equal(
        LogMelSpec().build(RATE).mel.filters, LogMelSpec(fmax=4000.0).build(RATE).mel.filters
    )


@pytest.mark.parametrize(
    ("spec", "rate", "message"),
    [
        (LogMelSpec(), 22050, "hop_ms: 10 ms is 220.5 samples at 22050 Hz.*9.97732 or 10.0227"),
        (LogMelSpec(window_ms=5.0), 8000, "window_ms: 5 is shorter than hop_ms 10"),
        (LogMelSpec(fmin=5000.0), 8000, "mel bands from 5000 to 4000 Hz"),
        (
            LogMelSpec(bands=300),
            8000,
            "300 mel bands at 8000 Hz: .* hold no bin of a 256-point FFT",
        ),
        (MFCCSpec(coefficients=50), 8000, "coefficients: 50 cepstra of 40 mel bands"),
    ],
)
def test_impossible_settings_are_named(spec: FeatureSpec, rate: int, message: str) -> None:
    with pytest.raises(UserInputError, match=message):
        spec.build(rate)


@pytest.mark.parametrize("shape", [(1, 801), (800,), (1, 0)])
def test_wrong_lengths_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserInputError, match=r"expected .* multiple of 80 samples"):
        LogMelSpec().build(RATE)(torch.zeros(shape))
