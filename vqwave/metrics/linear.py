"""A linear probe: what a straight line can read from the mean and the spread of a representation
over time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vqwave.audio import Wave
from vqwave.features import MFCCSpec


def time_statistics(frames: Sequence[Tensor]) -> Tensor:
    """Frames (D, F_i) of each utterance -> (N, 2 D): mean and standard deviation over time."""
    return torch.stack(
        [torch.cat([item.float().mean(1), item.float().std(1, correction=0)]) for item in frames]
    )


def cepstra(waves: Sequence[Wave], sample_rate: int) -> list[Tensor]:
    """Waveforms (T_i,) -> cepstra 1 to 19 and their slopes (38, F_i), each 10 ms; level, which c0
    holds, is left out.
    """
    mfcc = MFCCSpec(coefficients=20, deltas=1, floor=1e-6).build(sample_rate)
    result = []
    for wave in waves:
        x = torch.from_numpy(np.asarray(wave, np.float32))
        c = mfcc(F.pad(x, (0, -len(x) % mfcc.hop))[None])[0]
        result.append(torch.cat([c[1:20], c[21:]]))
    return result


class LinearProbe:
    """Multinomial logistic regression on standardised features, with a weak pull to zero, fitted by
    L-BFGS.
    """

    def __init__(
        self, x: Tensor, labels: Tensor, classes: int, *, decay: float = 1e-3, steps: int = 200
    ) -> None:
        """x (N, D), labels (N,) from 0, below `classes`."""
        self.mean, self.deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
        self.weight = torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
        inputs = self._inputs(x)
        optimizer = torch.optim.LBFGS([self.weight], max_iter=steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            cost = (
                F.cross_entropy(inputs @ self.weight.T, labels)
                + decay * self.weight[:, :-1].square().sum()
            )
            cost.backward()
            return cost

        with torch.enable_grad():
            optimizer.step(loss)
        self.weight = self.weight.detach()

    def _inputs(self, x: Tensor) -> Tensor:
        scaled = ((x - self.mean) / self.deviation).double()
        return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], 1)

    def named(self, x: Tensor) -> NDArray[np.int64]:
        """x (N, D) -> the likeliest class of each, (N,)."""
        return (self._inputs(x) @ self.weight.T).argmax(1).numpy()
