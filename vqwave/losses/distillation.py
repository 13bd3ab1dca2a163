r"""Probability density distillation: the KL of a student from its teacher, a time step at a time.

.. math:: D_{KL}(P_S \| P_T) = \sum_t E_{x_{<t} \sim P_S} \big[ H(p_S(x_t | x_{<t}), p_T(x_t |
x_{<t})) - H(p_S(x_t | x_{<t})) \big]

The student's one-step conditional is one logistic or normal, so its entropy is known; the
cross-entropy is an integral over one number, for which there are four ways (`KL`, chosen by
`kind`). Only densities enter: mass against density would be off by a constant. Gradients flow
through x_t and through the teacher's parameters, which depend on the student's past.

Reference: van den Oord et al., 2018 (Parallel WaveNet), eq. 6 to 13. arXiv:1711.10433
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.distributed.collectives import masked_mean
from vqwave.distributions import Distribution, GaussianMixture, Head, Mixture
from vqwave.errors import UserInputError
from vqwave.rng.keyed import uniforms

Divergence = Callable[[Distribution], Tensor]
"""The KL of one student from a teacher, nats a time step, (B, T).

Two teachers are compared with the same draws.
"""


@dataclass(frozen=True)
class Distilled:
    """One batch as losses see it: samples x = g(z) and recordings y, silent where `mask` is false,
    all (B, T).

    `student` and `teacher` are given the same past, x; `divergence` is the student's. `predict`
    yields the teacher when it is asked for, `contrast` the teacher under a wrong condition,
    `redraw` an independent sample (B, T) of the same clips: each costs a pass.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    student: Mixture
    predict: Callable[[], Distribution]
    divergence: Divergence
    contrast: Callable[[], Distribution]
    redraw: Callable[[], Tensor]

    @cached_property
    def teacher(self) -> Distribution:
        return self.predict()

    @property
    def kl(self) -> Tensor:
        return masked_mean(self.divergence(self.teacher), self.mask)


def randomised_quantiles(
    draws: int, shape: torch.Size, *, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(n + xi) / N for n = 0 ..

    N - 1 with one uniform xi a time step: unbiased, and 32 of them beat 100 i.i.d. draws.

    -> (N, *shape) in (0, 1).
    """
    xi = uniforms(*shape, like=torch.empty((), device=device, dtype=dtype))
    n = torch.arange(draws, device=device, dtype=dtype).view(-1, *[1] * len(shape))
    return ((n + xi) / draws).clamp(1e-6, 1 - 1e-6)


def cross_entropy(
    student: Mixture, teacher: Distribution, u: Tensor, weights: Tensor | None = None
) -> Tensor:
    r"""H(P_S, P_T) a time step, :math:`-\int p_S(x_t | x_{<t}) \ln p_T(x_t | x_{<t}) dx_t`, as a
    mean over quantiles u (N, B, T).

    `weights` (N,) of the quantiles sum to one; none: all alike. Both distributions are given the
    same past.
    """
    total = torch.zeros_like(u[0])
    for level, weight in zip(
        u, torch.ones(len(u)).to(u) / len(u) if weights is None else weights, strict=True
    ):
        total = total - weight * teacher.log_density(student.quantile(level))
    return total


def distillation_kl(
    student: Mixture, teacher: Distribution, u: Tensor, mask: Tensor | None = None
) -> Tensor:
    """KL(P_S || P_T), nats a time step: cross-entropy by the draws u (N, B, T), less the student's
    entropy in closed form.
    """
    return masked_mean(cross_entropy(student, teacher, u) - student.entropy, mask)


@spec
class Quadrature:
    r"""What the estimators by quantiles share: :math:`E_{x \sim P_S} h(x) = \int_0^1 h(q_S(u))\,
    du`, for any teacher and base.
    """

    def check(self, base: str, head: Head) -> None:
        """Any base and any continuous head will do."""

    @abstractmethod
    def nodes_like(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x (B, T) -> quantiles u (N, B, T) and their weights (N,)."""

    def of(self, student: Mixture) -> Divergence:
        """The divergence of this student, with its draws made once."""
        u, weights = self.nodes_like(student.location[:, 0])
        return lambda teacher: cross_entropy(student, teacher, u, weights) - student.entropy


@spec
class RandomisedQuantiles(Quadrature):
    """Equidistant quantiles, shifted by one random number a time step: unbiased, error near 1 /
    N.
    """

    kind: Literal["quantiles"] = "quantiles"
    num_samples: Annotated[int, Field(ge=1)] = option(default=8, help="quantiles a time step")

    def nodes_like(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return randomised_quantiles(self.num_samples, x.shape, device=x.device, dtype=x.dtype), None


@spec
class IndependentDraws(Quadrature):
    r"""Independent draws of x_t, as in the paper: unbiased, error near :math:`1 / \sqrt{N}`."""

    kind: Literal["monte_carlo"] = "monte_carlo"
    num_samples: Annotated[int, Field(ge=1)] = option(default=100, help="draws a time step")

    def nodes_like(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return (
            uniforms(len(x), self.num_samples, *x.shape[1:], like=x)
            .transpose(0, 1)
            .clamp(1e-6, 1 - 1e-6),
            None,
        )


@spec
class GaussLegendre(Quadrature):
    """Gauss-Legendre nodes on (0, 1): no noise, but a bias that grows as the teacher becomes more
    peaked than the student.
    """

    kind: Literal["gauss_legendre"] = "gauss_legendre"
    nodes: Annotated[int, Field(ge=1)] = option(default=16, help="nodes a time step")

    def nodes_like(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        at, weights = (
            torch.from_numpy(values).to(x) for values in np.polynomial.legendre.leggauss(self.nodes)
        )
        return ((at + 1) / 2).view(-1, 1, 1).expand(-1, *x.shape), weights / 2


@spec
class ClosedGaussian:
    r"""The KL of two normals in closed form, both log-scales clamped from below first (else 1 /
    scale^2 reaches 1e7):

    .. math:: \ln\frac{\sigma_T}{\sigma_S} + \frac{\sigma_S^2 - \sigma_T^2 + (\mu_T - \mu_S)^2}{2
    \sigma_T^2}

    The clamp has no gradient below it; the loss `spread` (ClariNet's regulariser, lambda = 4 as its
    weight) works there.

    Reference: Ping et al., 2019 (ClariNet), eq. 7 and appendix A. arXiv:1807.07281
    """

    kind: Literal["gaussian"] = "gaussian"
    floor: float = option(default=-7.0, help="clamp of both log-scales before the KL")

    def check(self, base: str, head: Head) -> None:
        """Raises UserInputError unless student and teacher are normal."""
        if base != "gaussian" or head.kind != "gaussian":
            raise UserInputError(
                f"kl.kind: gaussian, with a {base} student of a {head.kind} teacher, expected"
                " gaussian and gaussian"
            )

    def of(self, student: Mixture) -> Divergence:
        """Raises UserInputError if a distribution is not one normal."""
        location, log_scale = one_normal(student)

        def divergence(teacher: Distribution) -> Tensor:
            wanted, wanted_log_scale = one_normal(teacher)
            log_ratio = log_scale.clamp(min=self.floor) - wanted_log_scale.clamp(min=self.floor)
            distance = (location - wanted) * (-wanted_log_scale.clamp(min=self.floor)).exp()
            return 0.5 * (torch.expm1(2 * log_ratio) + distance.square()) - log_ratio

        return divergence


@dataclass(frozen=True)
class FixedQuantiles:
    """Given quantiles u (N, B, T): for an evaluation that is the same every time."""

    u: Tensor

    def of(self, student: Mixture) -> Divergence:
        return lambda teacher: cross_entropy(student, teacher, self.u) - student.entropy


KL = Annotated[
    RandomisedQuantiles | IndependentDraws | GaussLegendre | ClosedGaussian,
    Field(discriminator="kind"),
]


def one_normal(distribution: Distribution) -> tuple[Tensor, Tensor]:
    """Location and log-scale, each (B, T). Raises UserInputError for anything but one normal."""
    if not isinstance(distribution, GaussianMixture) or distribution.location.shape[1] != 1:
        raise UserInputError(
            f"kl.kind: gaussian, with a {type(distribution).__name__}, expected one normal a sample"
        )
    return distribution.location[:, 0], distribution.log_scale[:, 0]


def spread(student: Mixture, teacher: Distribution, mask: Tensor | None = None) -> Tensor:
    r"""Mean :math:`(\ln s_T - \ln s_S)^2` of one-component distributions, on unclamped log-scales;
    ClariNet weighs it with 4.

    It keeps the gradient sane while both are peaked, and is zero where the scales agree, so that
    the minimum stays the KL's. Raises UserInputError for a teacher of several components. Ping et
    al., 2019, eq. 8. arXiv:1807.07281
    """
    if not isinstance(teacher, Mixture) or teacher.log_scale.shape[1] != 1:
        raise UserInputError(
            "losses.log_scale_regularizer: the teacher has several components, expected a gaussian"
            " or logistic head"
        )
    return masked_mean((teacher.log_scale[:, 0] - student.log_scale[:, 0]).square(), mask)


@spec
class ContrastiveSpec:
    r"""The second term of :math:`KL(P_S(c_1) \| P_T(c_1)) - \gamma\, KL(P_S(c_1) \| P_T(c_2))`:
    `losses.contrastive` is -gamma.

    The paper's gamma of 0.3 is a weight of -0.3. The student must not sound right under a wrong
    condition, which it would if it ignored its own. The term is unbounded: `cap` leaves out time
    steps that are already that far away.

    Reference: van den Oord et al., 2018, sec. 4.4. arXiv:1711.10433
    """

    other: Literal["frames", "labels", "both"] = option(
        default="frames", help="what the wrong condition takes from another clip or speaker"
    )
    cap: Annotated[float, Field(gt=0)] | None = option(
        default=None, help="nats a time step beyond which the term no longer grows"
    )

    def wrong(
        self,
        frames: Tensor | None,
        labels: Mapping[str, Tensor],
        other_labels: Mapping[str, Tensor],
    ) -> tuple[Tensor | None, Mapping[str, Tensor]]:
        """frames (B, D, F) of the clip before in the batch, labels of somebody else, or both.

        Raises UserInputError where there is no other clip, or nothing to take from it.
        """
        if self.other == "labels":
            return frames, other_labels
        if frames is None or len(frames) < 2:
            given = "a teacher without any" if frames is None else "one clip a process"
            raise UserInputError(
                f"contrastive.other: {self.other}, with {given}, expected two clips or more with"
                " frames, or labels"
            )
        return frames.roll(1, 0), labels if self.other == "frames" else other_labels

    def loss(self, divergence: Tensor, mask: Tensor | None = None) -> Tensor:
        """divergence (B, T) from the teacher under the wrong condition -> its mean, capped."""
        return masked_mean(divergence if self.cap is None else divergence.clamp(max=self.cap), mask)
