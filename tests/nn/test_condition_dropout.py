"""Given vectors, condition dropout, and the 'nothing' that guidance moves away from."""

from __future__ import annotations

import pytest
import torch

from vqwave.errors import UserInputError
from vqwave.nn.condition import ConditionDropoutSpec, Conditioner, ConditionerSpec

F64 = torch.float64
VOCABULARY = {"speaker": ["a", "b", "c"]}
GIVEN = {
    "speaker": torch.tensor([0, 2]),
    "voice": torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]]),
}


def build(frames: int = 0, **settings: object) -> Conditioner:
    torch.manual_seed(0)
    return (
        ConditionerSpec(**{"channels": 6, "categorical": ("speaker",)} | settings)
        .build(frames, 5, VOCABULARY)
        .double()
    )


def test_a_vector_is_projected_and_added() -> None:
    conditioner = build(embeddings={"voice": 3})
    expected = (
        conditioner.embeddings["speaker"].weight[[0, 2]]
        + GIVEN["voice"].double() @ conditioner.vectors["voice"].weight.T
    )
    torch.testing.assert_close(conditioner(None, GIVEN).features[..., 0], expected)


def test_a_vector_alone_is_a_condition() -> None:
    conditioner = build(categorical=(), embeddings={"voice": 3})
    assert conditioner.channels == 6
    conditions = conditioner(None, {"voice": torch.zeros(2, 3)}).features
    assert torch.equal(conditions, torch.zeros_like(conditions)), "a zero vector must say nothing"


@pytest.mark.parametrize(
    ("given", "found"), [({}, "'voice' is not given"), ({"voice": torch.zeros(2, 4)}, "4 numbers")]
)
def test_a_vector_that_does_not_fit_is_named(given: dict[str, torch.Tensor], found: str) -> None:
    with pytest.raises(UserInputError, match=found):
        build(categorical=(), embeddings={"voice": 3})(None, given)


def test_no_dropout_adds_no_parameters_and_never_acts() -> None:
    conditioner = build(4)
    assert not [name for name, _ in conditioner.named_parameters() if "dropout" in name]
    frames = torch.randn(2, 4, 7, dtype=F64)
    assert torch.equal(
        conditioner.train()(frames, GIVEN).features, conditioner.eval()(frames, GIVEN).features
    )


def mark(conditioner: Conditioner) -> None:
    """Parts that can be told apart in the sum: 1 labels, 10 frames; 100 and 1000 in their
    places.
    """
    with torch.no_grad():
        for parameter in conditioner.parameters():
            parameter.zero_()
        conditioner.embeddings["speaker"].weight.fill_(1.0)
        conditioner.frames.bias.fill_(10.0)
        for name, value in (("labels", 100.0), ("frames", 1000.0)):
            if name in conditioner.dropout.nothing:
                conditioner.dropout.nothing[name].fill_(value)


@pytest.mark.parametrize(
    ("whole", "labels", "frames"),
    [(0.2, 0.0, 0.0), (0.1, 0.3, 0.0), (0.0, 0.0, 0.4), (0.1, 0.2, 0.3)],
)
def test_parts_are_dropped_as_often_as_asked(whole: float, labels: float, frames: float) -> None:
    """Of 4,000 utterances, each of the four outcomes within five standard deviations of its
    probability.
    """
    conditioner = build(
        4, dropout=ConditionDropoutSpec(all=whole, labels=labels, frames=frames)
    ).train()
    mark(conditioner)
    B = 4000
    conditions = conditioner(
        torch.zeros(B, 4, 3, dtype=F64), {"speaker": torch.zeros(B, dtype=torch.long)}
    ).features
    assert torch.equal(conditions, conditions[:, :1, :1].expand_as(conditions)), (
        "an utterance is dropped as a whole, in all channels"
    )
    both = whole + (1 - whole) * labels * frames
    expected = {
        1100.0: both,
        110.0: (1 - whole) * labels * (1 - frames),
        1001.0: (1 - whole) * (1 - labels) * frames,
        11.0: (1 - whole) * (1 - labels) * (1 - frames),
    }
    for value, p in expected.items():
        assert (
            abs(float((conditions[:, 0, 0] == value).double().mean()) - p)
            <= 5 * (p * (1 - p) / B) ** 0.5 + 1e-12
        )


def test_an_entirely_dropped_condition_is_the_null_condition() -> None:
    conditioner = build(4, dropout=ConditionDropoutSpec(all=1.0)).train()
    mark(conditioner)
    conditions = conditioner(torch.randn(2, 4, 3, dtype=F64), GIVEN).features
    assert torch.equal(conditions, conditioner.null_condition().features.expand_as(conditions))
    assert not torch.equal(
        conditioner.eval()(torch.randn(2, 4, 3, dtype=F64), GIVEN).features, conditions
    )


def test_gradient_reaches_nothing_and_something() -> None:
    conditioner = build(4, embeddings={"voice": 3}, dropout=ConditionDropoutSpec(all=0.5)).train()
    given = {"speaker": torch.arange(64) % 3, "voice": torch.ones(64, 3)}
    conditioner(torch.randn(64, 4, 3, dtype=F64), given).features.square().sum().backward()
    touched = {
        name: float(p.grad.abs().sum())
        for name, p in conditioner.named_parameters()
        if "nothing" not in name
    }
    assert min(touched.values()) > 0
    assert all(p.grad is not None for p in conditioner.dropout.parameters())


@pytest.mark.parametrize(
    "dropout", [ConditionDropoutSpec(), ConditionDropoutSpec(labels=0.5, frames=0.5)]
)
def test_guidance_needs_whole_dropout(dropout: ConditionDropoutSpec) -> None:
    with pytest.raises(UserInputError, match=r"dropout\.all"):
        build(4, dropout=dropout).null_condition()
