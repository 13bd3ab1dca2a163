"""Linear prediction: exact for an all-pole process, stable for any spectrum, and the same in chunks
as at once.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import solve_toeplitz
from scipy.signal import lfilter
from torch import Tensor

from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.nn.condition import Condition
from vqwave.nn.linear_prediction import LinearPredictor, LinearPredictorSpec, levinson

F64 = torch.float64
RATE, HOP = 8000, 80
POLES = [0.95 * np.exp(2j * np.pi * f / RATE) for f in (500, 1500, 2500)]
ALL_POLE = -np.real(np.poly([*POLES, *np.conj(POLES)]))[1:]  # a_1 .. a_6 of a stable filter


def predictor(pitch_taps: int = 3, **settings: object) -> LinearPredictor:
    features = LogMelSpec(bands=32, window_ms=20.0).build(RATE)
    return LinearPredictorSpec(**settings).build(features, RATE, pitch_taps)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def conditions(own: LinearPredictor, frames: int, batch: int = 2) -> Condition:
    """Columns of random spectra, of voiced and unvoiced frames."""
    f0 = torch.linspace(60, 390, frames, dtype=F64).expand(batch, -1)
    voicing = (torch.arange(frames) % 4 != 2).to(F64).expand(batch, -1)
    pitch = torch.stack([voicing * (f0 / 100).log(), voicing], 1)
    packed = own.analyse(random(batch, 32, frames), pitch)
    return Condition(own.columns(packed), HOP // own.analysis.interpolation)


def test_levinson_solves_the_normal_equations() -> None:
    """Against scipy's Toeplitz solver."""
    r = np.stack([np.correlate(x, x, "full")[199:212] for x in random(5, 200).numpy()])
    expected = np.stack([solve_toeplitz(row[:-1], row[1:]) for row in r])
    np.testing.assert_allclose(levinson(torch.from_numpy(r)).numpy(), expected, atol=1e-10)


def test_an_all_pole_process_is_predicted_exactly() -> None:
    """From its true autocorrelation: the innovation is what is left."""
    impulse = lfilter([1.0], [1.0, *-ALL_POLE], np.eye(1, 4000)[0])
    r = np.array([impulse[: len(impulse) - k] @ impulse[k:] for k in range(7)])
    a = levinson(torch.from_numpy(r))
    np.testing.assert_allclose(a.numpy(), ALL_POLE, atol=1e-9)
    innovation = random(1, 400)
    wave = torch.from_numpy(lfilter([1.0], [1.0, *-a.numpy()], innovation.numpy()))
    own = predictor(0, order=6)
    last = torch.cat([torch.zeros(1, 1, dtype=F64), wave[:, :-1]], 1)
    location = own(last, a[None, :, None].expand(-1, -1, 400)).location
    torch.testing.assert_close(wave - location, innovation, rtol=0, atol=1e-12)


def test_frames_of_an_all_pole_process_give_nearly_its_predictor() -> None:
    """Log-mel smears the spectrum: within 2 dB of the gain of the true coefficients."""
    wave = torch.from_numpy(lfilter([1.0], [1.0, *-ALL_POLE], random(1, 16000).numpy() * 0.01))
    own = predictor(0, order=16)
    mel = LogMelSpec(bands=32, window_ms=20.0).build(RATE).double()
    a = own.columns(own.analyse(mel(wave)))
    last = torch.cat([torch.zeros(1, 1, dtype=F64), wave[:, :-1]], 1)
    residual = wave - own(last, Condition(a, HOP).samples()).location
    gain = 10 * math.log10(wave.square().mean() / residual.square().mean())
    best = 10 * math.log10(wave.square().mean() / 1e-4)
    assert best > 9
    assert abs(gain - best) < 2


@pytest.mark.parametrize("interpolation", [1, 4])
def test_any_spectrum_gives_a_stable_filter(interpolation: int) -> None:
    """Also silence, one loud band, and steps of 100 dB from frame to frame."""
    own = predictor(0, interpolation=interpolation)
    frames = torch.full((1, 32, 8), math.log(1e-5), dtype=F64)
    frames[0, 3, 1], frames[..., 2:4] = 2.0, random(1, 32, 2) * 6
    frames[..., 5] = 3.0
    for a in own.columns(own.analyse(frames))[0].t():
        assert np.abs(np.roots([1.0, *-a.numpy()])).max() < 1


def test_coefficients_do_not_depend_on_the_level() -> None:
    own, frames = predictor(0), random(1, 32, 5)
    torch.testing.assert_close(own.analyse(frames + 3.0), own.analyse(frames), rtol=0, atol=1e-9)


@pytest.mark.parametrize("taps", [0, 1, 3])
def test_inputs_are_residuals_at_their_times(taps: int) -> None:
    """Each against its definition, sample by sample."""
    own, T, B = predictor(taps, order=5), 6 * HOP, 2
    columns, wave = conditions(own, 6), random(2, T) * 0.1
    last = torch.cat([torch.zeros(B, 1, dtype=F64), wave[:, :-1]], 1)
    held = columns.samples()
    found = own(last, held)
    e = torch.zeros(B, T, dtype=F64)
    for b in range(B):
        for t in range(T):
            p = sum(
                (held[b, k, t] * wave[b, t - 1 - k] for k in range(5) if t > k),
                torch.zeros((), dtype=F64),
            )
            torch.testing.assert_close(found.location[b, t], p, rtol=0, atol=1e-12)
            e[b, t] = wave[b, t] - p
            expected = [e[b, t - 1] if t else 0.0]
            for d in range(-(taps // 2), taps // 2 + 1) if taps else ():
                lag = int(held[b, 5, t])
                expected.append(e[b, t - lag + d] if lag and t - lag + d >= 0 else 0.0)
            assert found.inputs[b, :, t].tolist() == pytest.approx(
                [float(x) for x in expected], abs=1e-12
            )


def test_periods_lie_within_the_memory() -> None:
    own = predictor(3)
    periods = own.columns(
        own.analyse(
            random(1, 32, 3), torch.tensor([[[-9.0, 9.0, 0.0], [1.0, 1.0, 0.0]]], dtype=F64)
        )
    )
    assert periods[0, -1].tolist() == [own.longest, own.shortest, 0.0]
    assert own.shortest > own.pitch_taps // 2


@pytest.mark.parametrize("interpolation", [1, 2])
def test_chunks_give_the_same_as_the_whole(interpolation: int) -> None:
    own = predictor(3, interpolation=interpolation)
    columns, last = conditions(own, 7), random(2, 7 * HOP)
    whole, state, start = own(last, columns.samples()), own.silent(last), 0
    for count in (1, 1, 2, 77, 200, 1, 278):
        part = own(last[:, start : start + count], columns.at(start, count), state)
        torch.testing.assert_close(
            part.location, whole.location[:, start : start + count], rtol=0, atol=1e-13
        )
        torch.testing.assert_close(
            part.inputs, whole.inputs[..., start : start + count], rtol=0, atol=1e-13
        )
        start += count
    assert start == last.shape[1]


def test_interpolated_spectra_lie_between_the_frames() -> None:
    own = predictor(0, interpolation=4)
    ramp = torch.arange(5, dtype=F64)[None, None]
    inner = own.analysis.subframes(ramp)[0, 0, 2:-2]
    torch.testing.assert_close(inner, torch.arange(16, dtype=F64) / 4 + 0.125, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        own.analysis.subframes(ramp).mean(-1), ramp.mean(-1), rtol=0, atol=1e-12
    )


def test_analysis_stays_in_float64() -> None:
    own = predictor(0).to(torch.bfloat16).float()
    assert {buffer.dtype for buffer in own.analysis.buffers()} == {F64}


def test_refusals() -> None:
    with pytest.raises(UserInputError, match="pitch_taps: 2, expected 0 or an odd number"):
        predictor(2)
    with pytest.raises(UserInputError, match="carry no pitch"):
        predictor(3).analyse(random(1, 32, 2))
