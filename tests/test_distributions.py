"""Heads: masses sum to one, densities integrate to one, samples follow them, and all are comparable
in bits.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.distributions import (
    Categorical,
    DiscretisedLogisticMixture,
    Gaussian,
    GaussianMixture,
    Head,
    LinearBins,
    Logistic,
    LogisticMixture,
    Mixture,
    MixtureOfGaussians,
    MixtureOfLogistics,
    MuLaw,
)
from vqwave.errors import UserInputError
from vqwave.metrics.likelihood import bits_per_sample

HEADS = [
    MuLaw(),
    MuLaw(classes=37),
    LinearBins(classes=100),
    MixtureOfLogistics(),
    MixtureOfLogistics(components=1),
    MixtureOfLogistics(components=3, sample_bits=8),
    MixtureOfGaussians(components=3),
    Gaussian(),
    Logistic(),
]
CONTINUOUS = [head for head in HEADS if head.continuous]


def params(head: Head, T: int = 1, seed: int = 0) -> Tensor:
    """Random float64 parameters (1, C, T) near the head's own start."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, head.channels, T, generator=generator, dtype=torch.float64)
    return head.initial_bias().double()[:, None] + 0.3 * noise


def levels(bits: int) -> Tensor:
    """Every level of the grid, (1, 2^bits) float64."""
    return (torch.arange(2**bits, dtype=torch.float64) * 2.0 ** (1 - bits) - 1)[None]


def logistic(
    location: float, scale: float, bits: int, dtype: torch.dtype = torch.float64
) -> DiscretisedLogisticMixture:
    shaped = [torch.tensor(v, dtype=dtype).view(1, 1, 1) for v in (0.0, location, math.log(scale))]
    return DiscretisedLogisticMixture(*shaped, bits=bits)


@pytest.mark.parametrize(
    "head",
    [MuLaw(classes=k) for k in (2, 3, 37, 256, 1001)]
    + [LinearBins(classes=k) for k in (2, 7, 256)],
)
def test_classes_tile_the_amplitudes_and_sum_to_one(head: MuLaw | LinearBins) -> None:
    K = head.classes
    codes = torch.arange(K)
    assert torch.equal(head.encode(head.decode(codes)), codes)
    masses = head(params(head).expand(1, K, K)).log_prob(head.decode(codes)[None].double()).exp()
    assert masses.sum().item() == pytest.approx(1, abs=1e-12)
    widths = head.widths()
    assert widths.dtype == torch.float64
    assert widths.sum().item() == pytest.approx(2, abs=1e-12)
    edges = widths.cumsum(0)[:-1] - 1
    just = 1e-3 * torch.minimum(widths[:-1], widths[1:])
    assert torch.equal(head.encode(edges - just), codes[:-1])
    assert torch.equal(head.encode(edges + just), codes[1:])
    assert torch.equal(head.encode(torch.tensor([-1.0, 1.0])), codes[[0, -1]])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [0.002, 0.05, math.exp(-9), 1.0])
@pytest.mark.parametrize("location", [0.0, 0.9, -0.9, -0.9995, 1.2])
def test_levels_sum_to_one(bits: int, location: float, scale: float) -> None:
    assert logistic(location, scale, bits).log_prob(
        levels(bits)
    ).exp().sum().item() == pytest.approx(1, abs=2e-8)


@pytest.mark.parametrize(("location", "scale", "total"), [(0.9, 0.05, 4.8), (-0.9995, 0.002, 17.0)])
def test_the_usual_edge_test_would_not_sum_to_one(
    location: float, scale: float, total: float
) -> None:
    """What the test above guards against: |x| > 0.999 as "edge" sweeps in 33 levels a side at 16
    bit.
    """
    x, half = levels(16), 2.0**-16
    below, above = (
        ((x - location + half) / scale).sigmoid(),
        ((x - location - half) / scale).sigmoid(),
    )
    usual = torch.where(x < -0.999, below, torch.where(x > 0.999, 1 - above, below - above))
    assert usual.sum().item() == pytest.approx(total, rel=0.02)


@pytest.mark.parametrize("scale", [0.001, 0.003, 0.01])
def test_a_coarse_grid_is_a_distribution_over_its_cells(scale: float) -> None:
    """Of samples on a finer grid, each has the mass of its cell: they cost what the cells cost."""
    law, fine = logistic(0.0037, scale, 8), levels(16)
    log_p = law.log_prob(fine)
    cells = (fine * 128).round().clamp(-128, 127)
    assert torch.equal(log_p, law.log_prob(cells / 128))
    one_each = torch.stack([log_p[cells == cell].max() for cell in cells.unique()])
    assert one_each.exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("levels_", [8, 16])
def test_a_mixture_on_a_grid_sums_to_one(levels_: int) -> None:
    head = MixtureOfLogistics(sample_bits=levels_)
    assert head(params(head)).log_prob(levels(levels_)).exp().sum().item() == pytest.approx(
        1, abs=2e-8
    )


@pytest.mark.parametrize("head", CONTINUOUS)
def test_densities_integrate_to_one_and_have_their_mean(head: Head) -> None:
    distribution = head(params(head))
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)[None]
    density = distribution.log_density(x).exp()
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=1e-7)
    assert torch.trapezoid(density * x, x).item() == pytest.approx(
        distribution.mean.item(), abs=1e-7
    )


@pytest.mark.parametrize("head", [MuLaw(), LinearBins(classes=100)])
def test_mean_of_classes(head: MuLaw | LinearBins) -> None:
    distribution = head(params(head))
    values = head.decode(torch.arange(head.classes)).double()
    assert distribution.mean.item() == pytest.approx(
        (distribution.logits.softmax(1)[0, :, 0] * values).sum().item()
    )


@pytest.mark.parametrize("log_scale", [-9.0, -7.0, -4.0, -2.0, 0.0])
def test_float32_masses_are_those_of_float64(log_scale: float) -> None:
    """From the mode to the far tails, where subtracting two float32 sigmoids is off by more than 10
    nats.
    """
    at = torch.linspace(-12, 12, 2001, dtype=torch.float64) * math.exp(log_scale)
    x = ((at * 32768).round() / 32768).clamp(-1, 1 - 2.0**-15)[None]
    exact = logistic(0.0, math.exp(log_scale), 16).log_prob(x)
    assert (
        logistic(0.0, math.exp(log_scale), 16, torch.float32).log_prob(x.float()) - exact
    ).abs().max() < 3e-4


def test_float32_masses_in_the_far_tail() -> None:
    s, x = math.exp(-9), torch.linspace(-1, 1 - 2.0**-15, 4001, dtype=torch.float64)[None]
    x = (x * 32768).round() / 32768
    exact = logistic(0.0, s, 16).log_prob(x)
    mine = logistic(0.0, s, 16, torch.float32).log_prob(x.float())
    assert exact.min() < -8000
    assert ((mine - exact).abs() / exact.abs().clamp(min=1)).max() < 1e-6
    half = 2.0**-16
    naive = (
        (((x + half) / s).float().sigmoid() - ((x - half) / s).float().sigmoid())
        .clamp(min=1e-12)
        .log()
    )
    assert (naive - exact).abs().max() > 10


@pytest.mark.parametrize("head", HEADS)
def test_density_is_mass_over_width(head: Head) -> None:
    grid = levels(8)[:, 1:-1]
    distribution = head(params(head).expand(1, head.channels, grid.shape[1]))
    if isinstance(distribution, Categorical):
        width = head.widths()[head.encode(grid)]
    elif isinstance(distribution, DiscretisedLogisticMixture):
        width = torch.tensor(2.0 ** (1 - head.bits), dtype=torch.float64)
    else:
        width = torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(
        distribution.log_density(grid),
        distribution.log_prob(grid) - width.log(),
        rtol=0,
        atol=1e-11,
    )


@pytest.mark.parametrize("head", [MuLaw(), LinearBins(classes=100)])
def test_class_samples_follow_the_masses(head: Head) -> None:
    N = 100_000
    u = torch.full((4, 1, N), 0.5, dtype=torch.float64)
    u[0] = (torch.arange(N) + 0.5) / N
    distribution = head(params(head).expand(1, head.channels, N))
    counts = torch.bincount(head.encode(distribution.sample(u))[0], minlength=head.classes)
    assert (counts / N - distribution.logits[0, :, 0].softmax(0)).abs().max() < 1.5 / N


def test_level_samples_follow_the_masses() -> None:
    """Two components of weights 1/4 and 3/4, of which one leans on the upper edge; equidistant
    uniforms.
    """
    weights, N = torch.tensor([0.25, 0.75], dtype=torch.float64), 50_000
    shaped = [
        torch.tensor(v, dtype=torch.float64).view(1, 2, 1).expand(1, 2, 4 * N)
        for v in ([0.98, -0.3], [-4.0, -3.0])
    ]
    distribution = DiscretisedLogisticMixture(
        weights.log().view(1, 2, 1).expand(1, 2, 4 * N), *shaped, bits=8
    )
    u = torch.full((4, 1, 4 * N), 0.5, dtype=torch.float64)
    u[0] = ((torch.arange(4) + 0.5) / 4).repeat_interleave(N)
    u[1] = ((torch.arange(N) + 0.5) / N).repeat(4)
    index = (distribution.sample(u)[0] * 128 + 128).round().long()
    frequencies = torch.bincount(index, minlength=256) / (4 * N)
    masses = (
        DiscretisedLogisticMixture(
            weights.log().view(1, 2, 1), *(v[..., :1] for v in shaped), bits=8
        )
        .log_prob(levels(8))
        .exp()
    )
    assert masses[0, -1] > 0.01  # the edge holds its tail
    assert (frequencies - masses[0]).abs().max() < 2 / N


@pytest.mark.parametrize("family", [GaussianMixture, LogisticMixture])
def test_continuous_samples_follow_the_density(family: type[Mixture]) -> None:
    """Kolmogorov's distance between equidistant draws and the integral of the density."""
    side = 700
    first, second = torch.meshgrid(
        *[(torch.arange(side, dtype=torch.float64) + 0.5) / side] * 2, indexing="ij"
    )
    u = torch.stack([torch.full_like(first, 0.5), first, second, first]).view(4, 1, -1)
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    one = family(zero, zero + 0.1, zero - 3.0)
    draws = (
        family(*(v.expand(1, 1, side**2) for v in (zero, zero + 0.1, zero - 3.0)))
        .sample(u)[0]
        .sort()
        .values
    )
    x = torch.linspace(-0.9, 0.9, 20_001, dtype=torch.float64)
    cdf = torch.cumulative_trapezoid(one.log_density(x[None]).exp()[0], x)
    assert (torch.searchsorted(draws, x[1:]) / len(draws) - cdf).abs().max() < 3e-3


@pytest.mark.parametrize("head", HEADS)
def test_temperature_sharpens(head: Head) -> None:
    raw, N = params(head, seed=3), 20_001
    u = torch.full((4, 1, N), 0.5, dtype=torch.float64)
    u[0], u[1] = (torch.arange(N) + 0.5) / N, ((torch.arange(N) * 7919) % N + 0.5) / N
    u[2] = ((torch.arange(N) * 104729) % N + 0.5) / N
    spread = [
        head(raw.expand(1, head.channels, N), t).sample(u).std().item() for t in (1.0, 0.5, 0.05)
    ]
    assert spread[0] > spread[1] > spread[2]
    if not head.continuous:
        sharp, plain = head(raw, 0.5).logits.softmax(1), head(raw).logits.softmax(1)
        torch.testing.assert_close(sharp, plain**2 / (plain**2).sum(1, keepdim=True))


@pytest.mark.parametrize("head", HEADS)
def test_temperature_zero_takes_the_likeliest(head: Head) -> None:
    """The class of the largest logit, or the location of the likeliest component; every lower
    temperature is refused.
    """
    raw = params(head, 40, seed=3).float()
    u = torch.rand(4, 1, 40, generator=torch.Generator().manual_seed(1)).clamp(1e-6, 1 - 1e-6)
    found, law = head(raw, 0.0).sample(u), head(raw)
    best = law.logits.argmax(1)
    if head.continuous:
        location = law.location.gather(1, best[:, None])[:, 0].clamp(-1, 1)
        room = 0.51 * law.delta if isinstance(head, MixtureOfLogistics) else 0.0
        assert (found - location).abs().max() <= room + 1e-6
    else:
        assert torch.equal(head.encode(found), best)
    for cold in (-0.1, math.nan, math.inf):
        with pytest.raises(UserInputError, match="temperature"):
            head(raw, cold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_log_scales_have_a_finite_gradient(dtype: torch.dtype) -> None:
    """Wide components weigh delta / 4s at each level; below, the form and its series meet."""
    head = MixtureOfLogistics(components=2)
    raw = torch.zeros(1, 6, 7, dtype=dtype)
    raw[:, 4:] = torch.tensor([-7.0, -2.0, 3.0, 20.0, 60.0, 90.0, 1000.0], dtype=dtype)
    raw.requires_grad_()
    law, x = head(raw), torch.full((1, 7), 0.3, dtype=dtype)
    for cost in (law.log_prob, law.log_density):
        (grad,) = torch.autograd.grad(cost(x).sum(), raw, retain_graph=True)
        assert grad.isfinite().all()
        torch.testing.assert_close(
            grad[0, 4:, 3:], torch.full((2, 4), -0.5, dtype=dtype), rtol=1e-5, atol=1e-5
        )
    expected = math.log(law.delta / 4) - raw[0, 4, 3:].detach()
    torch.testing.assert_close(law.log_prob(x)[0, 3:].detach(), expected, rtol=1e-6, atol=0)


def test_the_width_of_a_level_is_the_formula_on_both_sides_of_its_series() -> None:
    """In float64, where 1 - exp(-y) has lost 12 of its 16 digits at the smallest y."""
    y = torch.logspace(-4, 3, 200, dtype=torch.float64)
    log_scale = (math.log(2 / 2**16) - y.log())[None, None]
    law = DiscretisedLogisticMixture(
        torch.zeros_like(log_scale), torch.zeros_like(log_scale), log_scale, bits=16
    )
    found = law._log_width((-log_scale).exp())[0, 0]
    torch.testing.assert_close(found, (-torch.expm1(-y)).log(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("family", [GaussianMixture, LogisticMixture])
@pytest.mark.parametrize("log_scale", [-4.0, 0.3])
def test_entropy_and_quantile(family: type[Mixture], log_scale: float) -> None:
    """Entropy by quadrature over the quantiles; the quantile's slope is one over the density."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(800))
    p = ((nodes + 1) / 2)[None].requires_grad_()
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    one = family(zero, zero + 0.2, zero + log_scale)
    x = one.quantile(p)
    (slope,) = torch.autograd.grad(x.sum(), p)
    torch.testing.assert_close(slope.log(), -one.log_density(x), rtol=0, atol=1e-9)
    assert (weights / 2 * -one.log_density(x)).sum().item() == pytest.approx(
        one.entropy.item(), abs=1e-4
    )


def test_logistic_entropy_is_ln_s_plus_2() -> None:
    zero = torch.zeros(1, 1, 1)
    assert LogisticMixture(zero, zero, zero - 1.5).entropy.item() == pytest.approx(0.5)


@pytest.mark.parametrize("head", HEADS)
def test_initial_bias_is_a_distribution_near_speech(head: Head) -> None:
    bias = head.initial_bias()
    assert bias.shape == (head.channels,)
    distribution = head(bias.view(1, -1, 1))
    assert abs(distribution.mean.item()) < 1e-2
    if head.continuous:
        assert distribution.log_scale.unique().tolist() == [head.initial_log_scale]
        assert distribution.logits.shape == (1, head.components, 1)
    else:
        cost = -distribution.log_prob(torch.zeros(1, 1)) / math.log(2)
        assert cost.item() == pytest.approx(head.bits, abs=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_gradient_reaches_every_parameter(head: Head) -> None:
    x = torch.linspace(-0.6, 0.6, 50, dtype=torch.float64)[None]
    raw = params(head, 50).requires_grad_()
    head(raw).log_prob(x).sum().backward()
    touched = raw.grad.abs().sum((0, 2)) > 0
    assert touched.all()


@pytest.mark.parametrize("head", CONTINUOUS)
def test_density_is_smooth_in_the_sample_and_the_parameters(head: Head) -> None:
    x = torch.tensor([[-0.21, 0.03, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, p: head(p).log_density(x), (x, params(head, 3).requires_grad_())
    )


def test_the_log_scale_has_a_floor_for_likelihood_and_sampling() -> None:
    head = Gaussian(min_log_scale=-5.0)
    floored, there = (head(torch.tensor([0.0, v]).view(1, 2, 1)) for v in (-20.0, -5.0))
    assert torch.equal(floored.log_prob(torch.zeros(1, 1)), there.log_prob(torch.zeros(1, 1)))
    u = torch.full((4, 1, 1), 0.2)
    assert torch.equal(floored.sample(u), there.sample(u))


@pytest.mark.parametrize("head", HEADS)
def test_likelihoods_never_run_below_float32(head: Head) -> None:
    x = torch.tensor([[0.25]])
    assert head(params(head).bfloat16()).log_prob(x).dtype == torch.float32
    assert head(params(head)).log_prob(x.double()).dtype == torch.float64


def test_bits_do_not_depend_on_the_kind_of_head() -> None:
    """One density, described by mu-law classes, linear classes, 16-bit levels and a continuous
    head: the same bits.
    """
    location, scale = 0.05, 0.03
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    truth = LogisticMixture(zero, zero + location, zero + math.log(scale))
    x = truth.quantile(((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)[None]).clamp(
        -0.999, 0.999
    )

    def of_classes(head: MuLaw | LinearBins) -> Categorical:
        edges = torch.cat([torch.tensor([-1.0], dtype=torch.float64), head.widths()]).cumsum(0)
        masses = ((edges - location) / scale).sigmoid().diff().clamp(min=1e-300)
        return head(masses.log().view(1, -1, 1).expand(1, head.classes, x.shape[1]))

    expected = bits_per_sample(truth, x).mean().item()
    assert 8 < expected < 16
    for distribution in (
        of_classes(MuLaw(classes=2048)),
        of_classes(LinearBins(classes=4096)),
        logistic(location, scale, 16),
    ):
        assert bits_per_sample(distribution, x).mean().item() == pytest.approx(expected, abs=2e-3)
    uniform = LinearBins(classes=8)(zero.expand(1, 8, 1))
    assert bits_per_sample(uniform, zero[0]).item() == pytest.approx(16)
