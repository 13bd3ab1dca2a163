"""The synthesis filter: scipy's, the inverse of prediction, unit Jacobian, the same in chunks as at
once.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from vqwave.features import LogMelSpec
from vqwave.nn.condition import Condition
from vqwave.nn.linear_prediction import LinearPredictor, LinearPredictorSpec
from vqwave.nn.synthesis_filter import synthesise

F64 = torch.float64
RATE, HOLD, ORDER = 8000, 40, 8


def predictor() -> LinearPredictor:
    features = LogMelSpec(bands=20, window_ms=20.0, hop_ms=5.0).build(RATE)
    return LinearPredictorSpec(order=ORDER).build(features, RATE, 0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def columns(frames: int, batch: int = 2) -> Condition:
    own = predictor()
    return Condition(own.columns(own.analyse(random(batch, 20, frames) * 2)), HOLD)


def test_one_column_is_scipys_filter() -> None:
    held, e = columns(1), random(2, 300)
    found = synthesise(e, held, ORDER)
    for b in range(2):
        expected = lfilter([1.0], [1.0, *-held.features[b, :, 0].numpy()], e[b].numpy())
        np.testing.assert_allclose(found[b].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("samples", [1, 7, HOLD, 3 * HOLD + 5, 9 * HOLD])
def test_it_inverts_the_prediction(samples: int) -> None:
    """Coefficients change from column to column; the last one is held."""
    held, wave = columns(6), random(2, samples)
    last = torch.cat([torch.zeros(2, 1, dtype=F64), wave[:, :-1]], 1)
    residual = wave - predictor()(last, held.at(0, samples)).location
    torch.testing.assert_close(synthesise(residual, held, ORDER), wave, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", [(1, 1, 3, 35, 200, 3, 77), (160, 160), (39, 1, 280), (5, 315)])
def test_chunks_give_the_same_as_the_whole(sizes: tuple[int, ...]) -> None:
    held, e = columns(6), random(2, sum(sizes))
    whole, past, parts, start = synthesise(e, held, ORDER), torch.zeros(2, ORDER, dtype=F64), [], 0
    for size in sizes:
        first = start // HOLD  # a stream keeps the columns from its present on
        window = Condition(held.features[..., min(first, 5) :], HOLD, min(first, 5) * HOLD)
        parts.append(synthesise(e[:, start : start + size], window, ORDER, past, start))
        past, start = torch.cat([past, parts[-1]], 1)[:, -ORDER:], start + size
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-10)


def test_the_jacobian_is_unit_lower_triangular() -> None:
    held, e = columns(3, 1), random(1, 2 * HOLD + 9)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: synthesise(e[None], held, ORDER)[0], e[0]
    )
    assert torch.equal(jacobian.triu(1), torch.zeros_like(jacobian))
    torch.testing.assert_close(
        jacobian.diagonal(), torch.ones(len(jacobian), dtype=F64), rtol=0, atol=1e-12
    )


def test_gradients() -> None:
    held, e, past = (
        columns(3),
        random(2, 70).requires_grad_(),
        random(2, ORDER, seed=1).requires_grad_(),
    )
    assert torch.autograd.gradcheck(
        lambda e, past: synthesise(e, held, ORDER, past, 25).square().sum(), (e, past)
    )


def test_a_column_is_at_least_the_order() -> None:
    with pytest.raises(ValueError, match="columns of 4 samples, expected at least the order 8"):
        synthesise(random(1, 8), Condition(columns(1, 1).features, 4), ORDER)
