"""A codebook: nearest-code search, k-means start, and the exponential moving averages that move the codes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from vqwave.nn.ranks import gather_over_ranks, sum_over_ranks

START_VECTORS = 64  # vectors a code that the k-means start looks at


def nearest_codes(x: Tensor, codes: Tensor) -> Tensor:
    """argmin_k |x - e_k| as argmin of |e|^2 - 2 x.e, one product and no gradient. x (N, D), codes (K, D) -> (N,) int64.

    Never in an autocast's precision, which would flip codes.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        return torch.addmm(codes.square().sum(1), x, codes.t(), alpha=-2).argmin(1)


def k_means(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """k-means++ and Lloyd's steps on x (N, D) -> centres (size, D) and counts (size,); no centre is ever empty."""
    points = x.double().cpu().numpy()
    if len(points) < size:  # too few to cluster: repeat them, a little apart
        rng = np.random.default_rng(0)
        points = points[np.arange(size) % len(points)]
        points = points + 1e-3 * points.std() * rng.standard_normal(points.shape)
    centres, labels = kmeans2(points, size, iter=10, minit="++", rng=np.random.default_rng(0), missing="warn")
    counts = np.bincount(labels, minlength=size).clip(1)
    return torch.from_numpy(centres).to(x), torch.from_numpy(counts).to(x)


class Codebook(nn.Module):
    r"""K codes of dimension D that follow the vectors assigned to them.

    .. math:: N_i \leftarrow \gamma N_i + (1-\gamma) n_i,\quad m_i \leftarrow \gamma m_i + (1-\gamma) \sum z,\quad e_i = m_i / N_i

    The state is (sizes, sums) alone and the codes are derived from it, so that they agree from the first step on. The
    counts are Laplace-smoothed in that quotient only. A code used less than `restart` times its fair share is moved, with
    its sum and its size, onto a vector of the batch. Statistics are summed over all ranks and the draws are keyed on a
    counter, so that every rank keeps the same codes.

    Reference: van den Oord et al., 2017, appendix A.1. arXiv:1711.00937
    """

    sums: Tensor
    sizes: Tensor
    started: Tensor
    updates: Tensor

    def __init__(self, size: int, dim: int, *, decay: float, restart: float, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.size, self.dim, self.decay, self.restart, self.epsilon = size, dim, decay, restart, epsilon
        self.register_buffer("sums", torch.randn(size, dim, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("sizes", torch.ones(size))
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("updates", torch.tensor(0))

    @property
    def codes(self) -> Tensor:
        """(K, D), derived: sums over smoothed sizes."""
        return self.sums / self._smoothed()[:, None]

    def _smoothed(self) -> Tensor:
        total = self.sizes.sum()
        return (self.sizes + self.epsilon) / (total + self.size * self.epsilon) * total

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Place the codes by k-means on the vectors x (N, D) of all ranks; each rank must call with its own, maybe none."""
        most = START_VECTORS * self.size
        padded = F.pad(x[:most], (0, 1, 0, max(0, most - len(x))))  # the last column marks what is real
        padded[: min(len(x), most), -1] = 1.0
        pool = gather_over_ranks(padded)
        pool = pool[pool[:, -1] > 0, :-1]
        if not len(pool):
            return
        centres, counts = k_means(pool, self.size)
        vectors_a_step = sum_over_ranks(torch.tensor(float(len(x)), device=x.device))
        self.sizes.copy_(counts * (vectors_a_step / counts.sum()))
        self.sums.copy_(centres * self._smoothed()[:, None])
        self.started.fill_(True)

    @torch.no_grad()
    def update(self, x: Tensor, index: Tensor) -> None:
        """Move the averages towards the vectors x (N, D) with codes index (N,), then restart what is dead. All ranks call."""
        batch = torch.zeros(self.size, self.dim + 1, dtype=self.sums.dtype, device=x.device)
        batch[:, : self.dim].index_add_(0, index, x)
        batch[:, self.dim] = torch.bincount(index, minlength=self.size)
        batch = sum_over_ranks(batch)
        self.sums.lerp_(batch[:, : self.dim], 1 - self.decay)
        self.sizes.lerp_(batch[:, self.dim], 1 - self.decay)
        self.updates += 1
        fair_share = self.sizes.sum() / self.size
        dead = self.sizes < self.restart * fair_share
        if dead.any():
            self._restart(dead, x, fair_share)

    def _restart(self, dead: Tensor, x: Tensor, fair_share: Tensor) -> None:
        """Every rank offers K vectors of its own, and all draw the same ones by the shared counter."""
        generator = torch.Generator().manual_seed(int(self.updates))
        offered = torch.zeros(self.size, self.dim + 1, dtype=x.dtype, device=x.device)
        if len(x):
            offered[:, : self.dim] = x[torch.randint(len(x), (self.size,), generator=generator).to(x.device)]
            offered[:, self.dim] = 1.0
        pool = gather_over_ranks(offered)
        pool = pool[pool[:, self.dim] > 0, : self.dim]
        if not len(pool):
            return
        chosen = pool[torch.randint(len(pool), (int(dead.sum()),), generator=torch.Generator().manual_seed(int(self.updates)))]
        self.sizes[dead] = fair_share
        self.sums[dead] = chosen.to(self.sums.dtype) * self._smoothed()[dead, None]

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.dim}, decay={self.decay}, restart={self.restart}"
