r"""A toy whose answer is known: an AR(1) teacher, x_t = a x_{t-1} + e_t, distilled into flows that
can and cannot follow it.

The student's x_t is a function of its own noise z_{t-r} .. z_t. With c_k the size of the part of
x_t whose oldest noise is z_{t-k}, :math:`KL \ge \frac{1}{2 \sigma^2} [\sum_{k=1}^{r} (c_k - a
c_{k-1})^2 + a^2 c_r^2] + \frac12 (c_0^2 / \sigma^2 - 1 - \ln c_0^2 / \sigma^2)`: the teacher's mean
is off where x_{t-1} holds older noise than x_t may hear. Minimised backwards, c_r first:
:math:`V_j(c) = p_j c^2` with :math:`1 / p_j = a^{-2} (1 + 1 / p_{j-1})`, :math:`p_0 = a^2`, hence

.. math:: KL_r = \tfrac12 \ln(1 + p_r), \qquad 1 / p_r = \sum_{i=1}^{r+1} a^{-2i}

which a linear flow reaches. (Parts of different oldest noise are orthogonal, and Jensen's
inequality makes a constant scale the best, so that no other flow does better.) In a block of n
samples that hear earlier blocks alone, each sample but the last is followed by one that does not
hear its noise, as for r = 0: with a long past, :math:`\frac{n-1}{2n} \ln(1 + a^2)`.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.distributions import GaussianMixture, LogisticMixture, Mixture
from vqwave.losses import KL, ClosedGaussian, GaussLegendre, RandomisedQuantiles
from vqwave.nn.causal import shift_right
from vqwave.nn.flows import FlowStack
from vqwave.nn.wavenet import StackSpec

A, SCALE = 0.7, 0.5


def floor(past: int) -> float:
    """The smallest KL, nats a sample, of a student whose x_t depends on `past` earlier samples of
    normal noise.
    """
    return 0.5 * math.log(1 + 1 / sum(A ** (-2 * i) for i in range(1, past + 2)))


def divergence(flows: FlowStack, family: type[Mixture], kl: KL, B: int, T: int) -> Tensor:
    """KL from the AR(1) teacher for fresh noise, (B, T)."""
    flowed = flows(family.standard_sample(torch.rand(4, B, T).clamp(1e-6, 1 - 1e-6)))
    location = A * shift_right(flowed.x)[:, None]
    zero = torch.zeros_like(location)
    student = family(zero, flowed.location[:, None], flowed.log_scale[:, None])
    return kl.of(student)(family(zero, location, zero + math.log(SCALE)))


def distilled(
    family: type[Mixture], kl: KL, exact: KL, *layers: int, fold: int = 1, stagger: bool = False
) -> tuple[FlowStack, float, float]:
    """Flows trained for some seconds, their KL in nats a sample and its standard error, away from
    the silent start.
    """
    torch.manual_seed(0)
    networks = [
        StackSpec(
            layers=n,
            dilation_cycle=10,
            kernel_size=2,
            residual_channels=16,
            gate_channels=16,
            skip_channels=0,
            hidden_channels=16,
        )
        for n in layers
    ]
    flows, steps = FlowStack(networks, 0, SCALE, squeeze=fold, stagger_blocks=stagger), 140
    optimizer = torch.optim.Adam(flows.parameters(), betas=(0.9, 0.98))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = (
            0.02 * min(1.0, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        )
        optimizer.zero_grad()
        divergence(flows, family, kl, 16, 128).mean().backward()
        torch.nn.utils.clip_grad_norm_(flows.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        kls = divergence(flows, family, exact, 64, 512)[:, 64:].mean(1)
    return flows, kls.mean().item(), kls.std().item() / 8


@pytest.mark.parametrize(
    ("family", "kl", "exact"),
    [
        (GaussianMixture, ClosedGaussian(), ClosedGaussian()),
        (LogisticMixture, RandomisedQuantiles(num_samples=4), GaussLegendre(nodes=128)),
    ],
)
def test_a_flow_of_enough_past_becomes_the_teacher(
    family: type[Mixture], kl: KL, exact: KL
) -> None:
    flows, found, _ = distilled(family, kl, exact, 3)
    assert flows.receptive_field == 9
    assert 0 <= found < 0.01


@pytest.mark.parametrize("layers", [1, 2])
def test_a_flow_of_too_little_past_reaches_its_floor_and_no_less(layers: int) -> None:
    flows, found, error = distilled(GaussianMixture, ClosedGaussian(), ClosedGaussian(), layers)
    least = floor(flows.receptive_field - 1)
    assert least - 4 * error < found < least + 0.004
    assert least > 0.005


@pytest.mark.parametrize("stagger", [False, True])
def test_what_a_fold_cannot_hear_staggered_blocks_can(stagger: bool) -> None:
    """A block of two costs ln(1 + a^2) / 4; two flows whose blocks begin at different samples have
    no floor at all.
    """
    normal = ClosedGaussian()
    _, found, error = distilled(GaussianMixture, normal, normal, 2, 2, fold=2, stagger=stagger)
    least = 0.0 if stagger else math.log(1 + A**2) / 4
    assert least - 4 * error < found < least + 0.006


def test_the_floor_is_the_minimum_over_linear_students() -> None:
    """The closed form against a numerical minimum of the KL over the weights of the past noises."""
    for past in (0, 1, 3):
        c = torch.full((past + 1,), 0.3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [c], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
        )

        def loss(c: Tensor = c) -> Tensor:
            off = torch.cat([c[1:], c.new_zeros(1)]) - A * c
            return (off.square().sum() + c[0] ** 2 - 1 - (c[0] ** 2).log()) / 2

        def closure(c: Tensor = c) -> Tensor:
            (c.grad,) = torch.autograd.grad(loss(c), c)
            return loss(c)

        optimizer.step(closure)
        assert loss(c).item() == pytest.approx(floor(past), abs=1e-9)
