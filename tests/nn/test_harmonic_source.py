"""The pulse train: its harmonics, its power, its phase over columns and chunks."""

from __future__ import annotations

import math

import pytest
import torch

from vqwave.nn.condition import Condition
from vqwave.nn.harmonic_source import SourceState, harmonic_source, pulses

HOLD = 160


def periods(*values: float) -> torch.Tensor:
    return torch.tensor([values])


@pytest.mark.parametrize("period", [27, 80, 319])
def test_the_closed_form_is_the_sum_of_harmonics(period: int) -> None:
    hold, harmonics = 3 * period, period // 2
    t = torch.arange(hold, dtype=torch.float64)
    terms = [(2 * math.pi * k * t / period).cos() for k in range(1, harmonics + 1)]
    expected = torch.stack(terms).sum(0) * math.sqrt(2 / harmonics)
    torch.testing.assert_close(
        pulses(periods(period), hold)[0].double(), expected, rtol=0, atol=1e-5
    )


def test_odd_periods_have_unit_power_and_no_mean() -> None:
    train = pulses(periods(81.0), 81 * 4)[0].double()
    assert float(train.square().mean()) == pytest.approx(1.0, abs=1e-6)
    assert float(train.mean()) == pytest.approx(0.0, abs=1e-6)


def test_unvoiced_columns_are_silent_and_keep_the_phase() -> None:
    train = pulses(periods(100, 0, 100), HOLD)[0].unflatten(0, (3, HOLD))
    assert not train[1].any()
    joined = pulses(periods(100, 100), HOLD)[0].unflatten(0, (2, HOLD))
    assert torch.equal(train[0], joined[0])
    assert torch.equal(train[2], joined[1])


def test_the_phase_goes_on_where_the_period_changes() -> None:
    """Pulses are one period apart on either side; across the change, between the two periods."""
    train = pulses(periods(50, 64, 64, 40), HOLD)[0]
    peaks = [
        t
        for t in range(1, len(train) - 1)
        if train[t] > 3 and train[t] >= train[t - 1] and train[t] > train[t + 1]
    ]
    gaps = torch.tensor(peaks).diff()
    assert len(gaps) >= 9
    assert int(gaps.min()) >= 39
    assert int(gaps.max()) <= 65


def test_chunks_have_the_bits_of_the_utterance() -> None:
    generator = torch.Generator().manual_seed(0)
    period = torch.randint(27, 320, (2, 1, 40), generator=generator).float()
    period[:, :, 5::7] = 0.0
    whole, state = harmonic_source(Condition(period, HOLD), 8).features, SourceState()
    for first, last in ((0, 4), (3, 20), (19, 20), (20, 40)):
        chunk = Condition(period[..., first:last], HOLD, first * HOLD)
        blocks = harmonic_source(chunk, 8, state)
        assert blocks.offset == first * HOLD // 8
        assert torch.equal(blocks.features, whole[..., first * HOLD // 8 : last * HOLD // 8])
