"""Labels and vectors of a condition: label dropout, and vectors that suffice."""

from __future__ import annotations

import pytest
import torch

from vqwave.errors import UserInputError
from vqwave.nn.attributes import Attributes

LABELS = {"speaker": torch.tensor([0, 1, 2])}
VECTOR = {"voice": torch.eye(3, 4)}


def attributes(label_dropout: float = 0.0, labels: int = 3) -> Attributes:
    torch.manual_seed(0)
    sizes = {"speaker": labels} if labels else {}
    built = Attributes(5, sizes, {"voice": 4}, label_dropout)
    if built.unlabelled is not None:
        built.unlabelled.data.fill_(7.0)
    return built


def test_training_replaces_all_labels_of_some_utterances() -> None:
    it, count = attributes(0.5), 400
    labels = {"speaker": torch.zeros(count, dtype=torch.int64), "voice": torch.zeros(count, 4)}
    of_labels, _ = it.each(labels)
    dropped = (of_labels == 7).all(1)
    assert 0.4 < dropped.float().mean() < 0.6
    assert torch.equal(of_labels[~dropped][0], it.embeddings["speaker"].weight[0])
    assert not (it.eval().each(labels)[0] == 7).any()


def test_vectors_suffice_after_label_dropout() -> None:
    it = attributes(0.5).eval()
    assert it.vectors_suffice
    unlabelled, vector = it.each(VECTOR)
    assert (unlabelled == 7).all()
    assert unlabelled.shape == vector.shape == (3, 5)
    assert attributes(labels=0).vectors_suffice
    plain = attributes()
    assert not plain.vectors_suffice
    with pytest.raises(KeyError):
        plain.each(VECTOR)


def test_gradients_reach_what_stands_for_labels() -> None:
    it = attributes(0.5)
    sum(part.square().sum() for part in it.each(LABELS | VECTOR)).backward()
    assert it.unlabelled.grad.abs().sum() > 0
    assert it.vectors["voice"].weight.grad.abs().sum() > 0


def test_no_dropout_without_both() -> None:
    """Nothing could stand for the labels; no parameter is made."""
    assert Attributes(5, {"speaker": 3}, {}, 0.5).unlabelled is None
    assert Attributes(5, {}, {"voice": 4}, 0.5).unlabelled is None
    assert attributes().unlabelled is None


def test_a_vector_must_be_given_in_its_size() -> None:
    it = attributes()
    with pytest.raises(UserInputError, match="vector 'voice' is not given, expected 4 numbers"):
        it.each(LABELS)
    with pytest.raises(UserInputError, match="vector 'voice': 3 numbers an utterance, expected 4"):
        it.each(LABELS | {"voice": torch.zeros(3, 3)})
