"""Codebooks: nearest-code search, k-means start, restart of dead codes; codes that follow averages,
or learn by a loss.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.distributed.collectives import gather_over_ranks, rank, sum_over_ranks

START_VECTORS = 64  # vectors a code that the k-means start looks at
SCORES = 1 << 18  # distances held at once, in the search


def centred_scores(x: Tensor, codes: Tensor) -> Tensor:
    """|x - e_k|^2 less a constant of each x, by one product.

    It is |c|^2 - 2 y.c with e = c + m, x = y + m, m the mean code.

    Without m the squares would cancel where vectors lie far from the origin: the rounding of a
    score is that of |x| |e|, and only with m that of the distances which are compared. x (N, D),
    codes (K, D) -> (N, K).
    """
    origin = codes.detach().mean(0)
    centred = codes - origin
    return torch.addmm(centred.square().sum(1), x - origin, centred.t(), alpha=-2)


def nearest_codes(x: Tensor, codes: Tensor) -> Tensor:
    """argmin_k |x - e_k|, by `centred_scores`, with no gradient.

    x (N, D), codes (K, D) -> (N,) int64.

    Never in an autocast's precision, which would flip codes; in chunks, so that N x K scores are
    never held at once.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if len(x) * len(codes) <= SCORES:  # also the only way that can become a graph
            return centred_scores(x, codes).argmin(1)
        chunks = x.split(max(1, SCORES // len(codes)))
        index = torch.empty(len(x), dtype=torch.int64, device=x.device)
        for chunk, part in zip(chunks, index.split(max(1, SCORES // len(codes))), strict=True):
            torch.argmin(centred_scores(chunk, codes), 1, out=part)
        return index


def k_means(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """k-means++ and Lloyd's steps on x (N, D) -> centres (size, D) and counts (size,); no centre is
    ever empty.
    """
    from scipy.cluster.vq import kmeans2  # a third of a second, and for training alone

    points = x.double().cpu().numpy()
    if len(points) < size:  # too few to cluster: repeat them, a little apart
        rng = np.random.default_rng(0)
        points = points[np.arange(size) % len(points)]
        points = points + 1e-3 * points.std() * rng.standard_normal(points.shape)
    middle = points.mean(0)  # the squares of the distances lose nothing far from the origin
    centres, labels = kmeans2(
        points - middle, size, iter=10, minit="++", rng=np.random.default_rng(0), missing="warn"
    )
    counts = np.bincount(labels, minlength=size).clip(1)
    return torch.from_numpy(centres + middle).to(x), torch.from_numpy(counts).to(x)


class Codebook(nn.Module, ABC):
    """K codes of dimension D, started by k-means, restarted when dead.

    `sizes` counts the vectors of a step that fall to each code, as a moving average. A code used
    less than `dead_code_threshold` times its fair share is moved onto a vector of the batch.
    Statistics are summed over all ranks and the draws are keyed on a counter, so that every rank
    keeps the same codes. `l2_normalize` keeps vectors and codes on the sphere of radius sqrt(D),
    where the nearest code is that of the largest cosine and a channel has unit power.
    """

    by_loss: ClassVar[bool]
    """Whether the codes learn by a loss."""
    sizes: Tensor
    started: Tensor
    updates: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        decay: float,
        dead_code_threshold: float,
        epsilon: float = 1e-5,
        l2_normalize: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.dim, self.decay, self.epsilon = size, dim, decay, epsilon
        self.dead_code_threshold, self.l2_normalize = dead_code_threshold, l2_normalize
        self.register_buffer("sizes", torch.ones(size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("updates", torch.tensor(0))

    @property
    @abstractmethod
    def codes(self) -> Tensor:
        """(K, D)."""

    @abstractmethod
    def _put(self, where: Tensor, vectors: Tensor) -> None:
        """Codes where (K,) holds become vectors (n, D); their sizes are already what they shall
        be.
        """

    @abstractmethod
    def _average(self, x: Tensor, index: Tensor) -> None:
        """Move the moving averages towards x (N, D) with codes index (N,)."""

    def normalize(self, x: Tensor, dim: int) -> Tensor:
        """x with its vectors along `dim` as this book compares them: on the sphere, if so set."""
        return F.normalize(x, dim=dim) * math.sqrt(self.dim) if self.l2_normalize else x

    def _smoothed(self) -> Tensor:
        total = self.sizes.sum()
        return (self.sizes + self.epsilon) / (total + self.size * self.epsilon) * total

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """Place the codes by k-means on the vectors x (N, D) of all ranks; each rank must call with
        its own, maybe none.
        """
        most = START_VECTORS * self.size
        # the last column marks what is real
        padded = F.pad(x[:most], (0, 1, 0, max(0, most - len(x))))
        padded[: min(len(x), most), -1] = 1.0
        pool = gather_over_ranks(padded)
        pool = pool[pool[:, -1] > 0, :-1][:most]
        if not len(pool):
            return
        centres, counts = k_means(pool, self.size)
        vectors_a_step = sum_over_ranks(torch.tensor(float(len(x)), device=x.device))
        self.sizes.copy_(counts * (vectors_a_step / counts.sum()))
        self._put(torch.ones_like(self.sizes, dtype=torch.bool), centres)
        self.started.fill_(1)

    @torch.no_grad()
    def update(self, x: Tensor, index: Tensor) -> None:
        """Move the averages towards the vectors x (N, D) with codes index (N,), then restart what
        is dead. All ranks call.
        """
        self._average(x, index)
        self.updates += 1
        fair_share = self.sizes.sum() / self.size
        dead = self.sizes < self.dead_code_threshold * fair_share
        if dead.any():
            self._restart(dead, x, fair_share)

    def _restart(self, dead: Tensor, x: Tensor, fair_share: Tensor) -> None:
        """Draw vectors among those of all ranks, in the order of the ranks: the same ones as if all
        lay on one.
        """
        counts = gather_over_ranks(torch.tensor([len(x)], device=x.device)).tolist()
        if not sum(counts):
            return
        generator = torch.Generator().manual_seed(int(self.updates))
        sampled = torch.randint(sum(counts), (int(dead.sum()),), generator=generator).to(
            x.device
        ) - sum(counts[: rank()])
        local = (sampled >= 0) & (sampled < len(x))
        chosen = torch.zeros(len(sampled), self.dim, dtype=x.dtype, device=x.device)
        chosen[local] = x[sampled[local]]
        self.sizes[dead] = fair_share
        self._put(dead, sum_over_ranks(chosen))

    def extra_repr(self) -> str:
        return (
            f"size={self.size}, dim={self.dim}, decay={self.decay},"
            f" dead_code_threshold={self.dead_code_threshold}, l2_normalize={self.l2_normalize}"
        )


class EMACodebook(Codebook):
    r"""Codes that follow the vectors assigned to them.

    .. math:: N_i \leftarrow \gamma N_i + (1-\gamma) n_i,\quad m_i \leftarrow \gamma m_i +
    (1-\gamma) \sum z,\quad e_i = m_i / N_i

    The state is (sizes, sums) alone and the codes are derived from it, so that they agree from the
    first step on. The counts are Laplace-smoothed in that quotient only.

    Reference: van den Oord et al., 2017, appendix A.1. arXiv:1711.00937
    """

    by_loss = False
    sums: Tensor

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        decay: float,
        dead_code_threshold: float,
        epsilon: float = 1e-5,
        l2_normalize: bool = False,
    ) -> None:
        super().__init__(
            size,
            dim,
            decay=decay,
            dead_code_threshold=dead_code_threshold,
            epsilon=epsilon,
            l2_normalize=l2_normalize,
        )
        self.register_buffer(
            "sums", torch.randn(size, dim, generator=torch.Generator().manual_seed(0))
        )

    @property
    def codes(self) -> Tensor:
        """(K, D), derived: sums over smoothed sizes."""
        return self.normalize(self.sums / self._smoothed()[:, None], 1)

    def _put(self, where: Tensor, vectors: Tensor) -> None:
        self.sums[where] = vectors.to(self.sums.dtype) * self._smoothed()[where, None]

    def _average(self, x: Tensor, index: Tensor) -> None:
        batch = torch.zeros(self.size, self.dim + 1, dtype=self.sums.dtype, device=x.device)
        batch[:, : self.dim].index_add_(0, index, x)
        batch[:, self.dim] = torch.bincount(index, minlength=self.size)
        batch = sum_over_ranks(batch)
        self.sums.lerp_(batch[:, : self.dim], 1 - self.decay)
        self.sizes.lerp_(batch[:, self.dim], 1 - self.decay)


class GradientCodebook(Codebook):
    """Codes that are parameters, with `lr_scale` times the network's learning rate: Adam's step
    does not depend on a loss's weight.

    References: van den Oord et al., 2017, eq. 3. arXiv:1711.00937; a rate of 10: Łańcucki et al.,
    2020. arXiv:2005.08520
    """

    by_loss = True

    def __init__(
        self,
        size: int,
        dim: int,
        *,
        decay: float,
        dead_code_threshold: float,
        l2_normalize: bool = False,
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__(
            size,
            dim,
            decay=decay,
            dead_code_threshold=dead_code_threshold,
            l2_normalize=l2_normalize,
        )
        self.lr_scale = lr_scale
        self.weight = nn.Parameter(
            torch.randn(size, dim, generator=torch.Generator().manual_seed(0)) / lr_scale
        )

    @property
    def codes(self) -> Tensor:
        """(K, D), with gradient."""
        return self.normalize(self.weight * self.lr_scale, 1)

    def _put(self, where: Tensor, vectors: Tensor) -> None:
        self.weight[where] = vectors.to(self.weight.dtype) / self.lr_scale

    def _average(self, x: Tensor, index: Tensor) -> None:  # noqa: ARG002 - of all codebooks
        counts = torch.bincount(index, minlength=self.size).to(self.sizes.dtype)
        self.sizes.lerp_(sum_over_ranks(counts), 1 - self.decay)
