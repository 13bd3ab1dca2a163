"""The student as a density: change of variables, normalisation, both directions, folds; and what it
refuses.
"""

from __future__ import annotations

import math

import pytest
import torch
from small_models import stack

from vqwave.decode.reference import sample_student
from vqwave.distributions import GaussianMixture
from vqwave.errors import UserInputError
from vqwave.models import Student, StudentSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.flows import FlowCondition

F64 = torch.float64
NETWORK = stack(4, kernel_size=2, skip_channels=0)
KINDS = [
    (base, direction, fold)
    for base in ("logistic", "gaussian")
    for direction in ("iaf", "maf")
    for fold in (1, 2)
]


def student(
    base: str = "logistic",
    direction: str = "iaf",
    fold: int = 1,
    *,
    stagger: bool = False,
    scale: float = 0.5,
) -> Student:
    torch.manual_seed(0)
    spec = StudentSpec(
        flows=(2, 1),
        network=NETWORK,
        base=base,
        flow_type=direction,
        squeeze=fold,
        stagger_blocks=stagger,
        initial_scale=scale,
        conditioner=ConditionerSpec(channels=3),
    )
    built = spec.build(8000, {"speaker": ["a", "b"]}).double()
    with torch.no_grad():
        for flow in built.flows.flows:
            flow.stack.out.weight.mul_(20.0)
    return built


def condition_of(model: Student) -> object:
    return model.condition(None, {"speaker": torch.tensor([1])})


@pytest.mark.parametrize(("base", "direction", "fold"), KINDS)
def test_log_prob_is_the_change_of_variables(base: str, direction: str, fold: int) -> None:
    model = student(base, direction, fold)
    x = torch.randn(1, 9, dtype=F64)
    condition = condition_of(model)
    inverse = torch.autograd.functional.jacobian(
        lambda x: model.inverse(x[None], condition).z[0], x[0]
    )
    z = model.inverse(x, condition).z
    noise = {
        "logistic": -z - 2 * torch.nn.functional.softplus(-z),
        "gaussian": -0.5 * z.square() - 0.5 * math.log(2 * math.pi),
    }
    torch.testing.assert_close(
        model.log_prob(x, condition).sum(), noise[base].sum() + inverse.slogdet().logabsdet
    )


@pytest.mark.parametrize(("base", "direction", "fold"), KINDS)
def test_log_prob_of_a_draw_is_its_one_step_density(base: str, direction: str, fold: int) -> None:
    """ln p(x_t | x_{<t}) is the density of x_t under `distribution`, given the noise before it."""
    model = student(base, direction, fold)
    condition = condition_of(model)
    flowed = model.transform(model.noise(torch.rand(4, 1, 30, dtype=F64)), condition)
    torch.testing.assert_close(
        model.log_prob(flowed.x, condition), model.distribution(flowed).log_density(flowed.x)
    )


@pytest.mark.parametrize(
    ("direction", "fold", "stagger"),
    [("iaf", 1, False), ("maf", 1, False), ("iaf", 2, False), ("iaf", 2, True)],
)
def test_the_density_of_two_samples_integrates_to_one(
    direction: str, fold: int, stagger: bool
) -> None:
    model = student("gaussian", direction, fold, stagger=stagger)
    axis = torch.linspace(-8, 8, 181, dtype=F64)
    x = torch.cartesian_prod(axis, axis)
    condition = model.condition(None, {"speaker": torch.zeros(len(x), dtype=torch.int64)})
    with torch.no_grad():
        mass = (
            model.log_prob(x, condition).sum(1).exp().sum().item() * (axis[1] - axis[0]).item() ** 2
        )
    assert mass == pytest.approx(1, abs=1e-3)


def test_log_prob_in_chunks() -> None:
    model = student(fold=4)
    condition, x = condition_of(model), 0.3 * torch.randn(1, 22, dtype=F64)
    state = model.begin()
    parts = [model.log_prob(part, condition, state) for part in x.split([5, 8, 9], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), model.log_prob(x, condition))


def test_one_gaussian_masked_flow_is_a_wavenet_with_a_gaussian_head() -> None:
    """Its density is the product of normals whose parameters hear x_{<t} alone: no Jacobian beyond
    the scales.
    """
    model = student("gaussian", "maf")
    flow, x = model.flows.flows[0], torch.randn(1, 12, dtype=F64)
    condition = condition_of(model)
    location, log_scale = flow.parallel(x, FlowCondition(condition), None)
    back = flow.inverse(x, FlowCondition(condition))
    normal = GaussianMixture(torch.zeros_like(x)[:, None], location[:, None], log_scale[:, None])
    expected = -0.5 * back.z.square() - 0.5 * math.log(2 * math.pi) - back.log_scale
    torch.testing.assert_close(normal.log_density(x), expected)


@pytest.mark.parametrize("samples", [1, 17, 64])
def test_a_folded_student_decodes_any_number_of_samples(samples: int) -> None:
    model = student(fold=8, stagger=True, scale=0.05).float()
    labels = {"speaker": torch.tensor([0, 1])}
    long = sample_student(
        model, model.condition(None, labels), 64, streams=torch.tensor([3, 4]), seed=1
    )
    short = sample_student(
        model, model.condition(None, labels), samples, streams=torch.tensor([3, 4]), seed=1
    )
    torch.testing.assert_close(short, long[:, :samples])


def test_blocks_must_tile_a_condition_column() -> None:
    spec = StudentSpec(flows=(1,), network=NETWORK, squeeze=4)
    spec.build(8000, {"speaker": ["a"]}, frame_channels=3, hop=8)
    with pytest.raises(
        UserInputError, match=r"model.squeeze: 4, expected a divisor of the 6 samples"
    ):
        spec.build(8000, {"speaker": ["a"]}, frame_channels=3, hop=6)
