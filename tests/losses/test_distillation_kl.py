"""The estimators of the KL against REFERENCE 10.4, ClariNet's closed form against
torch.distributions, contrast and spread.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vqwave.distributions import (
    Gaussian,
    GaussianMixture,
    Logistic,
    LogisticMixture,
    Mixture,
    MixtureOfGaussians,
)
from vqwave.errors import UserInputError
from vqwave.losses import (
    ClosedGaussian,
    ContrastiveSpec,
    GaussLegendre,
    IndependentDraws,
    RandomisedQuantiles,
    spread,
)

SCALE, T, F64 = 0.05, 600, torch.float64
RATIOS = (1.0, 0.3, 0.1, 0.03)  # component scale of the teacher over the scale of the student
LEGENDRE = {
    8: (0.013, 0.05, 0.28, 0.9),
    16: (0.003, 0.008, 0.05, 0.38),
    32: (0.0008, 0.002, 0.008, 0.075),
    64: (0.0002, 0.0005, 0.0015, 0.013),
}
INDEPENDENT = {1: (0.61, 1.6, 4.5, 15.0), 10: (0.19, 0.51, 1.5, 4.8), 100: (0.060, 0.16, 0.46, 1.5)}
QUANTILES = {
    10: (0.070, 0.23, 0.64, 2.1),
    32: (0.021, 0.065, 0.18, 0.56),
    100: (0.007, 0.020, 0.054, 0.18),
}


def student(
    family: type[Mixture] = LogisticMixture,
    location: float = 0.0,
    scale: float = SCALE,
    count: int = T,
) -> Mixture:
    zero = torch.zeros(1, 1, count, dtype=F64)
    return family(zero, zero + location, zero + math.log(scale))


def teacher(ratio: float) -> LogisticMixture:
    """Random mixtures of ten logistics, components spread as widely as the student."""
    logits, location, log_scale = torch.randn(
        3, 1, 10, T, generator=torch.Generator().manual_seed(1), dtype=F64
    )
    return LogisticMixture(logits, SCALE * location, 0.3 * log_scale + math.log(ratio * SCALE))


@pytest.fixture(scope="module")
def truths() -> dict[float, Tensor]:
    many = GaussLegendre(nodes=1500).of(student())
    return {ratio: many(teacher(ratio)) for ratio in RATIOS}


@pytest.mark.parametrize("place", range(len(RATIOS)))
def test_gauss_legendre_is_within_the_table(place: int, truths: dict[float, Tensor]) -> None:
    ratio = RATIOS[place]
    for nodes, row in LEGENDRE.items():
        error = (
            (GaussLegendre(nodes=nodes).of(student())(teacher(ratio)) - truths[ratio])
            .abs()
            .mean()
            .item()
        )
        assert error < 1.6 * row[place]
        assert error > row[place] / 4  # the table, not something else


@pytest.mark.parametrize("place", range(len(RATIOS)))
@pytest.mark.parametrize(
    ("kind", "table"), [(IndependentDraws, INDEPENDENT), (RandomisedQuantiles, QUANTILES)]
)
def test_drawn_estimators_are_unbiased_and_within_the_table(
    kind: type[IndependentDraws | RandomisedQuantiles],
    table: dict[int, tuple[float, ...]],
    place: int,
    truths: dict[float, Tensor],
) -> None:
    torch.manual_seed(0)
    ratio = RATIOS[place]
    for draws, row in table.items():
        error = kind(num_samples=draws).of(student())(teacher(ratio)) - truths[ratio]
        assert row[place] / 1.8 < error.std().item() < 1.8 * row[place]
        assert abs(error.mean().item()) < 4 * error.std().item() / math.sqrt(T)


@pytest.mark.parametrize("kind", [IndependentDraws, RandomisedQuantiles])
def test_two_teachers_are_compared_with_the_same_draws(kind: type[IndependentDraws]) -> None:
    divergence = kind(num_samples=3).of(student())
    torch.testing.assert_close(divergence(teacher(0.3)), divergence(teacher(0.3)), rtol=0, atol=0)
    assert not torch.equal(
        kind(num_samples=3).of(student())(teacher(0.3)), divergence(teacher(0.3))
    )


@pytest.mark.parametrize(
    ("q", "p"),
    [((0.02, 0.04), (-0.03, 0.07)), ((0.0, 0.3), (0.0, 0.01)), ((0.1, 0.002), (0.1, 0.002))],
)
def test_closed_gaussian_is_torchs(q: tuple[float, float], p: tuple[float, float]) -> None:
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(*q), torch.distributions.Normal(*p)
    ).item()
    found = ClosedGaussian().of(student(GaussianMixture, *q))(student(GaussianMixture, *p))
    assert found.mean().item() == pytest.approx(expected, rel=1e-6, abs=1e-12)
    torch.testing.assert_close(
        RandomisedQuantiles(num_samples=1)
        .of(student(GaussianMixture, *q))(student(GaussianMixture, *p))
        .shape,
        found.shape,
    )


def test_the_regularised_kl_of_clarinet() -> None:
    """lambda (ln s_p - ln s_q)^2 + KL with lambda 4; both log-scales are clamped at -7 in the KL,
    not in the regulariser.
    """
    q_log, p_log = (
        torch.tensor([-9.0, -3.0, -8.0], dtype=F64, requires_grad=True),
        torch.tensor([-7.5, -2.0, -5.0], dtype=F64),
    )
    zero = torch.zeros(1, 1, 3, dtype=F64)
    mine, theirs = (
        GaussianMixture(zero, zero + 0.001, q_log.view(1, 1, 3)),
        GaussianMixture(zero, zero, p_log.view(1, 1, 3)),
    )
    kl = ClosedGaussian().of(mine)(theirs)[0]
    clamped = [
        torch.distributions.Normal(m, s.clamp(min=-7.0).exp())
        for m, s in ((0.001, q_log), (0.0, p_log))
    ]
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(*clamped).to(kl))
    (slope,) = torch.autograd.grad(kl.sum(), q_log)
    assert slope[0] == 0 == slope[2]
    assert slope[1] < 0
    regulariser = spread(mine, theirs)
    torch.testing.assert_close(regulariser, (p_log - q_log).square().mean())
    (slope,) = torch.autograd.grad(4 * regulariser, q_log)
    assert (slope < 0).all()


def test_what_the_closed_form_refuses() -> None:
    ClosedGaussian().check("gaussian", Gaussian())
    for base, head in (
        ("logistic", Gaussian()),
        ("gaussian", Logistic()),
        ("gaussian", MixtureOfGaussians()),
    ):
        with pytest.raises(
            UserInputError, match=f"gaussian, with a {base} student of a {head.kind} teacher"
        ):
            ClosedGaussian().check(base, head)
    for wrong in (teacher(1.0), student(LogisticMixture)):
        with pytest.raises(UserInputError, match="LogisticMixture, expected one normal"):
            ClosedGaussian().of(student(GaussianMixture))(wrong)
    with pytest.raises(UserInputError, match="several components"):
        spread(student(), teacher(1.0))


def test_contrast_takes_another_clip_or_another_speaker() -> None:
    frames, labels, others = (
        torch.randn(3, 2, 5),
        {"speaker": torch.tensor([0, 1, 2])},
        {"speaker": torch.tensor([1, 2, 0])},
    )
    for other, moved, voice in (
        ("frames", True, labels),
        ("labels", False, others),
        ("both", True, others),
    ):
        wrong, conditions = ContrastiveSpec(other=other).wrong(frames, labels, others)
        assert torch.equal(wrong, frames.roll(1, 0) if moved else frames)
        assert conditions is voice
    for few in (None, frames[:1]):
        with pytest.raises(UserInputError, match=r"contrastive\.other"):
            ContrastiveSpec().wrong(few, labels, others)
    assert ContrastiveSpec(other="labels").wrong(None, labels, others) == (None, others)


def test_a_cap_stops_the_gradient_of_steps_that_are_far_enough() -> None:
    divergence = torch.tensor([[0.5, 2.0, 9.0]], requires_grad=True)
    loss = ContrastiveSpec(cap=3.0).loss(divergence)
    assert loss.item() == pytest.approx(5.5 / 3)
    (slope,) = torch.autograd.grad(loss, divergence)
    assert slope[0].tolist() == pytest.approx([1 / 3, 1 / 3, 0])
    assert ContrastiveSpec().loss(divergence).item() == pytest.approx(11.5 / 3)
