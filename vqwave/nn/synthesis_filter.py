r"""The all-pole synthesis filter of a student: what linear prediction took out, put back.

.. math:: x_t = e_t + \sum_{k=1}^{P} a_k(t)\, x_{t-k}

x and e determine each other, sample by sample, and :math:`\partial x_t / \partial e_t = 1`: the
Jacobian is unit lower triangular. If e_t given the past is a location-scale family with location
mu, x_t given the past is the same family with location mu + p_t. So a student whose flows make the
residual keeps its exact density, entropy and KL.

The filter is solved over time without a loop over samples: within a column, whose coefficients are
constant, as a triangular system; from column to column, the last P samples move by an affine map,
and maps are composed by doubling.

Reference: Markel and Gray, 1976, ch. 1; the doubling is Hillis and Steele, 1986, "Data parallel
algorithms".
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.nn.condition import Condition


def synthesise(
    residual: Tensor, columns: Condition, order: int, past: Tensor | None = None, start: int = 0
) -> Tensor:
    """residual (B, n) of times start .. start + n - 1 -> the waveform there (B, n).

    columns: (B, >= order, F), of which the first `order` channels are the coefficients, held for at
    least `order` samples each. past (B, order): the waveform before `start`; None: silence.
    Differentiable in residual and past.
    """
    with torch.autocast(residual.device.type, enabled=False):
        B, n = residual.shape
        hold = columns.repeat
        if hold < order:
            raise ValueError(f"columns of {hold} samples, expected at least the order {order}")
        past = residual.new_zeros(B, order) if past is None else past
        early = start % hold  # samples of the first column that lie before the chunk
        count = -(-(early + n) // hold)
        coefficients = _of_columns(columns, start // hold, count).to(residual.dtype)[:, :order]
        padded = F.pad(residual, (early, count * hold - early - n)).unflatten(1, (count, hold))
        system, pull = column_systems(coefficients.expand(B, -1, -1).transpose(1, 2), hold)
        before = past  # the column
        if early:
            system, pull, padded = _begin_within(system, pull, padded, past, early)
            before = F.pad(past, (early, 0))[:, :order]
        solved = torch.linalg.solve_triangular(
            system, torch.cat([padded[..., None], pull], -1), upper=False, unitriangular=True
        )
        alone, response = solved[..., 0], solved[..., 1:]  # (B, C, hold), (B, C, hold, P)
        states = column_states(response[:, :, -order:], alone[:, :, -order:], before)
        wave = alone + (response @ states[..., None])[..., 0]
        return wave.flatten(1)[:, early : early + n]


def _of_columns(columns: Condition, first: int, count: int) -> Tensor:
    """Columns number first .. first + count - 1, (B, C, count), the last one held."""
    at = torch.arange(first, first + count, device=columns.features.device)
    at = at - columns.offset // columns.repeat
    return columns.features[..., at.clamp(max=columns.features.shape[-1] - 1)]


def column_systems(coefficients: Tensor, hold: int) -> tuple[Tensor, Tensor]:
    """a (B, C, P) -> unit lower triangular systems (B, C, hold, hold), and the pull (B, C, hold, P)
    of the P samples before.
    """
    P = coefficients.shape[-1]
    rows = torch.arange(hold, device=coefficients.device)
    lag = rows[:, None] - torch.arange(-P, hold, device=coefficients.device)  # (hold, P + hold)
    inside = (lag >= 1) & (lag <= P)
    taps = coefficients[..., (lag - 1).clamp(0, P - 1)] * inside
    return torch.eye(hold).to(taps) - taps[..., P:], taps[..., :P]


def _begin_within(
    system: Tensor, pull: Tensor, padded: Tensor, past: Tensor, early: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a chunk begins within its first column, the samples of that column before it are given:
    the last of `past`.
    """
    known = min(early, past.shape[1])
    given = F.pad(past[:, past.shape[1] - known :], (early - known, 0))
    free = (torch.arange(system.shape[-1], device=system.device) >= early)[:, None]
    first = torch.where(free, system[:, 0], torch.eye(system.shape[-1]).to(system))
    system = torch.cat([first[:, None], system[:, 1:]], 1)
    pull = torch.cat([(pull[:, 0] * free)[:, None], pull[:, 1:]], 1)
    head = torch.cat([given, padded[:, 0, early:]], 1)
    return system, pull, torch.cat([head[:, None], padded[:, 1:]], 1)


def column_states(matrix: Tensor, offset: Tensor, first: Tensor) -> Tensor:
    """s_0 = first, s_{c+1} = matrix_c s_c + offset_c: matrix (B, C, P, P), offset (B, C, P) -> s_0
    .. s_{C-1}, (B, C, P).
    """
    C, reach = matrix.shape[1], 1
    while reach < C:  # each map becomes that of the `reach` columns before it and its own, composed
        later, earlier = matrix[:, reach:], matrix[:, :-reach]
        moved = (later @ offset[:, :-reach, :, None])[..., 0] + offset[:, reach:]
        matrix = torch.cat([matrix[:, :reach], later @ earlier], 1)
        offset = torch.cat([offset[:, :reach], moved], 1)
        reach *= 2
    after = (matrix @ first[:, None, :, None])[..., 0] + offset
    return torch.cat([first[:, None], after[:, :-1]], 1)
