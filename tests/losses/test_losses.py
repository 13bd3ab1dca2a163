"""Losses: the sampled KL against quadrature and closed forms, where gradients go, and the laws of
the spectral losses.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.distributions import (
    DiscretisedLogisticMixture,
    Gaussian,
    GaussianMixture,
    LogisticMixture,
    Mixture,
    MixtureOfLogistics,
)
from vqwave.losses import (
    cross_entropy,
    distillation_kl,
    log_spectral_loss,
    negative_log_likelihood,
    power_loss,
    power_spectrum,
    randomised_quantiles,
)
from vqwave.models import Student, StudentSpec, WaveNet, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import StackSpec

SCALE = 0.05
CPU, F64 = torch.device("cpu"), torch.float64
# REFERENCE for the bounds: standard error a time step of 10, 32 and 100 randomised quantiles, by
# the ratio of the
# teacher's component scale to the student's scale.
TABLE = {
    1.0: (0.070, 0.021, 0.007),
    0.3: (0.23, 0.065, 0.020),
    0.1: (0.64, 0.18, 0.054),
    0.03: (2.1, 0.56, 0.18),
}


def one(family: type[Mixture], location: float, scale: float, T: int = 1) -> Mixture:
    zero = torch.zeros(1, 1, T, dtype=F64)
    return family(zero, zero + location, zero + math.log(scale))


def teacher(ratio: float, T: int) -> LogisticMixture:
    """T random mixtures of ten logistics, components spread as widely as the student."""
    generator = torch.Generator().manual_seed(1)
    logits, location, log_scale = torch.randn(3, 1, 10, T, generator=generator, dtype=F64)
    return LogisticMixture(logits, SCALE * location, 0.3 * log_scale + math.log(ratio * SCALE))


def quadrature(student: Mixture, wanted: Mixture, T: int, nodes: int = 1000) -> Tensor:
    """The cross-entropy by Gauss-Legendre over the student's quantiles, (1, T)."""
    at, weights = np.polynomial.legendre.leggauss(nodes)
    total = torch.zeros(1, T, dtype=F64)
    for u, w in zip((at + 1) / 2, weights / 2, strict=True):
        total -= w * wanted.log_density(student.quantile(torch.full((1, T), u, dtype=F64)))
    return total


def integrated_kl(
    student: tuple[type[Mixture], float, float], wanted: tuple[type[Mixture], float, float]
) -> float:
    """The KL of two (family, location, scale): the midpoints of 50,000 quantiles lie along time,
    and the mean is over time.
    """
    N = 50_000
    return distillation_kl(
        one(*student, N), one(*wanted, N), ((torch.arange(N, dtype=F64) + 0.5) / N).view(1, 1, N)
    ).item()


@pytest.mark.parametrize("ratio", TABLE)
def test_randomised_quantiles_against_quadrature(ratio: float) -> None:
    T = 400
    torch.manual_seed(0)
    student, wanted = one(LogisticMixture, 0.0, SCALE, T), teacher(ratio, T)
    truth = quadrature(student, wanted, T)
    spread = []
    for draws, expected in zip((10, 32, 100), TABLE[ratio], strict=True):
        u = randomised_quantiles(draws, torch.Size((1, T)), device=CPU, dtype=F64)
        error = cross_entropy(student, wanted, u) - truth
        assert error.std().item() < 1.6 * expected
        assert abs(error.mean().item()) < 4 * error.std().item() / math.sqrt(T)
        spread.append(error.std().item())
    independent = cross_entropy(student, wanted, torch.rand(100, 1, T, dtype=F64)) - truth
    assert independent.std().item() > 2 * spread[1]  # 32 quantiles beat 100 independent draws


def test_randomised_quantiles_are_one_in_each_stratum() -> None:
    u = randomised_quantiles(16, torch.Size((3, 500)), device=CPU, dtype=F64)
    assert torch.equal(
        (u * 16).floor(), torch.arange(16.0, dtype=F64).view(-1, 1, 1).expand(16, 3, 500)
    )
    xi = u[0] * 16
    assert xi.mean().item() == pytest.approx(0.5, abs=0.03)
    assert xi.std().item() == pytest.approx(math.sqrt(1 / 12), abs=0.02)
    assert xi.unique().numel() == 1500  # one a time step


@pytest.mark.parametrize("distance", [0.5, 3.0, 12.0])
def test_kl_of_equal_scale_logistics(distance: float) -> None:
    """a coth(a / 2) - 2, with a the distance in scales."""
    kl = integrated_kl(
        (LogisticMixture, 0.1, SCALE), (LogisticMixture, 0.1 + distance * SCALE, SCALE)
    )
    assert kl == pytest.approx(distance / math.tanh(distance / 2) - 2, abs=2e-4)


def test_kl_of_gaussians() -> None:
    closed = torch.distributions.kl_divergence(
        *(torch.distributions.Normal(*v) for v in ((0.02, 0.04), (-0.03, 0.07)))
    )
    kl = integrated_kl((GaussianMixture, 0.02, 0.04), (GaussianMixture, -0.03, 0.07))
    assert kl == pytest.approx(closed.item(), abs=3e-4)


@pytest.mark.parametrize("family", [LogisticMixture, GaussianMixture])
def test_kl_of_a_distribution_to_itself_is_zero(family: type[Mixture]) -> None:
    assert integrated_kl((family, 0.1, SCALE), (family, 0.1, SCALE)) == pytest.approx(0, abs=2e-4)


def test_a_grid_does_not_shift_the_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mass against density would be off by a constant, -ln(2 / 2^16) = 10.4 nats."""
    student, smooth = one(LogisticMixture, 0.0, SCALE, 200), teacher(0.3, 200)
    grid = DiscretisedLogisticMixture(smooth.logits, smooth.location, smooth.log_scale, bits=16)
    u = torch.full((1, 1, 200), 0.4, dtype=F64)
    kl = distillation_kl(student, smooth, u).item()
    assert distillation_kl(student, grid, u).item() == pytest.approx(kl, abs=1e-4)
    monkeypatch.setattr(grid, "log_density", grid.log_prob)
    assert distillation_kl(student, grid, u).item() == pytest.approx(kl + 10.397, abs=1e-3)


def network(**sizes: int) -> StackSpec:
    return StackSpec(
        **{
            "layers": 4,
            "dilation_cycle": 2,
            "kernel_size": 2,
            "residual_channels": 5,
            "gate_channels": 4,
            "skip_channels": 6,
            "hidden_channels": 5,
        }
        | sizes
    )


def pair() -> tuple[Student, WaveNet]:
    """A student and a frozen teacher, float64, both hearing a speaker and frames of 4 samples."""
    torch.manual_seed(3)
    vocabulary = {"speaker": ["a", "b"]}
    spec = WaveNetSpec(
        head=MixtureOfLogistics(components=2),
        network=network(),
        conditioner=ConditionerSpec(channels=3),
    )
    wavenet = spec.build(8000, vocabulary, 2, 4).double().eval().requires_grad_(False)
    flows = StudentSpec(flows=(2, 3), network=network(kernel_size=3), conditioner=spec.conditioner)
    return flows.build(8000, vocabulary, 2, 4).double(), wavenet


def kl_of(student: Student, wavenet: WaveNet, *, detach: bool = False) -> Tensor:
    """The KL of one clip with fixed noise."""
    generator = torch.Generator().manual_seed(0)
    labels, frames = (
        {"speaker": torch.tensor([1])},
        torch.randn(1, 2, 5, generator=generator, dtype=F64),
    )
    z = student.noise(torch.rand(4, 1, 20, generator=generator, dtype=F64))
    flowed = student(z, labels, frames)
    inputs = flowed.x.detach() if detach else flowed.x
    predicted = wavenet.predict(inputs, wavenet.condition(frames, labels))
    u = (torch.arange(6, dtype=F64).view(-1, 1, 1) + 0.5).expand(6, 1, 20) / 6
    return distillation_kl(student.distribution(flowed), predicted, u)


def test_distillation_reaches_every_student_parameter_and_no_teacher_parameter() -> None:
    student, wavenet = pair()
    kl_of(student, wavenet).backward()
    unreached = [
        name
        for name, p in student.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert unreached == []
    assert [name for name, p in wavenet.named_parameters() if p.grad is not None] == []


def test_distillation_gradients_pass_through_the_teachers_input() -> None:
    """Not detached: the gradient through x_{<t} is a part of the whole, and the whole is the
    derivative of the loss.
    """
    student, wavenet = pair()
    weight = student.flows.flows[0].stack.out.weight
    (whole,) = torch.autograd.grad(kl_of(student, wavenet), weight)
    (partial,) = torch.autograd.grad(kl_of(student, wavenet, detach=True), weight)
    assert (whole - partial).abs().max() > 1e-3 * whole.abs().max()
    step = 1e-5
    with torch.no_grad():
        weight[0, 0, 0] += step
        above = kl_of(student, wavenet)
        weight[0, 0, 0] -= 2 * step
        below = kl_of(student, wavenet)
    assert whole[0, 0, 0].item() == pytest.approx((above - below).item() / (2 * step), rel=1e-5)


def test_nll_does_not_see_padding() -> None:
    head = Gaussian()
    torch.manual_seed(0)
    raw, x = torch.randn(2, 2, 10, dtype=F64), 0.1 * torch.randn(2, 10, dtype=F64)
    mask = torch.arange(10) < torch.tensor([[10], [4]])
    loss = negative_log_likelihood(head(raw), x, mask)
    assert loss.item() == pytest.approx(
        -torch.cat([head(raw).log_prob(x)[0], head(raw).log_prob(x)[1, :4]]).mean().item()
    )
    x[1, 4:], raw[1, :, 4:] = 0.9, -3.0
    assert negative_log_likelihood(head(raw), x, mask).item() == loss.item()
    assert negative_log_likelihood(head(raw), x).item() != loss.item()


def bursts(order: list[int]) -> Tensor:
    """Three different bursts, each surrounded by more silence than a window is long, in some order.

    (1, 6144)
    """
    torch.manual_seed(5)
    waves = torch.randn(3, 512, dtype=F64) * torch.tensor([[0.1], [0.2], [0.3]])
    return torch.cat([torch.nn.functional.pad(waves[i], (768, 768)) for i in order])[None]


@pytest.mark.parametrize("exponent", [1.0, 2.0])
@pytest.mark.parametrize("by_frame", [True, False])
def test_power_loss_is_zero_for_equal_and_grows(exponent: float, by_frame: bool) -> None:
    y = bursts([0, 1, 2])
    losses = [
        power_loss(gain * y, y, exponent=exponent, by_frame=by_frame).item()
        for gain in (1.0, 1.1, 1.5)
    ]
    assert losses[0] == 0 < losses[1] < losses[2]


def test_only_the_time_average_forgets_the_order_of_frames() -> None:
    x, y = bursts([0, 1, 2]), bursts([2, 0, 1])
    assert power_loss(x, y, by_frame=False).item() < 1e-25
    assert power_loss(x, y, by_frame=True).item() > 1e-6


def test_power_loss_does_not_see_the_phase() -> None:
    y = bursts([0, 1, 2])
    assert power_loss(-y, y).item() < 1e-25
    assert log_spectral_loss(-y, y).item() < 1e-12


def test_power_of_white_noise_does_not_depend_on_the_window() -> None:
    torch.manual_seed(0)
    x = 0.3 * torch.randn(4, 32_768, dtype=F64)
    for fft in (128, 512, 2048):
        inner = power_spectrum(x, fft, fft // 4)[:, 1:-1, 4:-4]
        assert inner.mean().item() == pytest.approx(0.09, rel=0.03)


def test_spectral_losses_have_gradients_everywhere() -> None:
    x = torch.zeros(1, 2048, dtype=F64, requires_grad=True)
    y = bursts([0, 1, 2])[:, :2048]
    (power_loss(x, y) + log_spectral_loss(x, y)).backward()
    assert torch.isfinite(x.grad).all()
    gain = torch.tensor(1.5, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_spectral_loss(gain * y, y, floor=1e-12), gain)
    assert slope.item() > 0


def test_log_spectral_loss_of_a_gain() -> None:
    torch.manual_seed(0)
    y = torch.randn(2, 8192, dtype=F64)
    assert log_spectral_loss(math.e * y, y, floor=1e-15).item() == pytest.approx(1, abs=1e-6)
