r"""A harmonic source: a pulse train at the pitch period, for flows, which have no past samples to
take the period from.

.. math:: s_t = \sqrt{2 / K} \sum_{k=1}^{K} \cos(2 \pi k \varphi_t), \qquad \varphi_{t+1} =
\varphi_t + 1 / T_0(t), \qquad K = \lfloor T_0 / 2 \rfloor

All harmonics below half the sample rate, with equal amplitudes and unit power; 0 where unvoiced,
where the phase stands still. The sum has a closed form (Dirichlet's kernel). It is a function of
the pitch period alone, which the predictor's columns carry: known before any sample, so that flows
may depend on it at any time and keep their Jacobian.

Phases are integers, in units of :math:`2^{-40}` of a period: they add up exactly, so that a stream
has the bits of the utterance.

Reference: Wang, Takaki and Yamagishi, 2019 (neural source-filter), sec. 2. arXiv:1904.12088; the
pulse train is that of LPC vocoders: Markel and Gray, 1976, ch. 10
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.errors import UserInputError
from vqwave.nn.condition import Condition

TURN = 2**40  # of a phase


def steps(period: Tensor) -> Tensor:
    """period (B, F) in samples, 0 where unvoiced -> what a sample adds to the phase, (B, F)
    int64.
    """
    voiced = period > 0
    step = (TURN / period.double().clamp_min(1)).round().long()
    return torch.where(voiced, step, 0)


def phases(period: Tensor, hold: int, first: Tensor | None = None) -> Tensor:
    """The phase at the beginning of each column and after the last, (B, F + 1) int64; first (B,):
    at the beginning.
    """
    moved = F.pad(torch.cumsum(steps(period) * hold, 1), (1, 0))
    return (moved if first is None else first[:, None] + moved) % TURN


def pulses(period: Tensor, hold: int, first: Tensor | None = None) -> Tensor:
    """period (B, F) in samples, each of `hold` samples, 0 where unvoiced -> s (B, F hold) float32.

    first (B,): the phase at the beginning, of `phases`; None: 0.
    """
    step, begin = steps(period)[..., None], phases(period, hold, first)[:, :-1, None]
    turn = (begin + step * torch.arange(hold, device=period.device)) % TURN
    angle = turn.double() * (2 * math.pi / TURN)
    harmonics = (period.double() / 2).floor().clamp_min(1)[..., None]
    half = (angle / 2).sin()
    at_pulse = half.abs() < 1e-9
    kernel = ((harmonics + 0.5) * angle).sin() / (2 * torch.where(at_pulse, 1.0, half)) - 0.5
    train = torch.where(at_pulse, harmonics, kernel) * (2 / harmonics).sqrt()
    return torch.where(period[..., None] > 0, train, 0.0).flatten(1).float()


@dataclass
class SourceState:
    """The state between chunks: the number of the first column of the last chunk's, and the phase
    at the beginning of each of them and after the last, (B, F + 1).
    """

    column: int = 0
    phases: Tensor | None = None

    def phase(self, column: int) -> Tensor | None:
        """The phase at the beginning of a column of the last chunk's, (B,); None: before any.

        Raises UserInputError for a column that neither belongs to that chunk nor follows it.
        """
        if self.phases is None:
            return None
        at = column - self.column
        if self.phases.ndim != 2 or not 0 <= at < self.phases.shape[1]:
            reason = f"harmonic source: its state begins at column {self.column}"
            raise UserInputError(f"{reason}, expected one that reaches column {column}")
        return self.phases[:, at]


def harmonic_source(period: Condition, squeeze: int, state: SourceState | None = None) -> Condition:
    """The pitch period (B, 1, F) of held columns -> the source of blocks (B, squeeze, blocks), each
    held for one block.

    A state, if given, is read and moved on in place: a chunk begins with a column of the chunk
    before, or the one after it.
    """
    columns, hold = period.features[:, 0], period.repeat
    number = period.offset // hold
    first = None if state is None else state.phase(number)
    if state is not None:
        state.column, state.phases = number, phases(columns, hold, first)
    train = pulses(columns, hold, first)
    blocks = train.unflatten(1, (-1, squeeze)).transpose(1, 2)
    return Condition(blocks, 1, period.offset // squeeze)
