"""The conversion classifier: trained on recordings alone, fixed where it is applied to conversions,
independent of padding.
"""

from __future__ import annotations

import pytest
import torch

from vqwave.errors import UserInputError
from vqwave.nn.auxiliary.conversion_classifier import ConversionClassifier, ConversionClassifierSpec

F64 = torch.float64
VOCABULARY = {"speaker": ["a", "b", "c"], "text": ["yes", "no"]}
LABELS = {"speaker": torch.tensor([0, 1, 2, 0]), "text": torch.tensor([0, 1, 0, 1])}
ASKED = LABELS | {"speaker": torch.tensor([1, 2, 0, 2])}
MASK = torch.arange(7) < torch.tensor([[7], [4], [5], [1]])


def classifier(ratio: int = 2, noise: float = 0.0) -> ConversionClassifier:
    torch.manual_seed(0)
    return (
        ConversionClassifierSpec(labels=("speaker", "text"), channels=8, noise=noise)
        .build(5, ratio, VOCABULARY)
        .double()
    )


def frames(ratio: int = 2) -> torch.Tensor:
    return torch.randn(4, 5, 7 * ratio, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_padding_changes_nothing_of_it(ratio: int) -> None:
    model, x = classifier(ratio), frames(ratio)
    spoilt = torch.where(MASK.repeat_interleave(ratio, 1)[:, None], x, 7.0)
    a, b = model(x, MASK), model(spoilt, MASK)
    assert {name: logits.shape for name, logits in a.items()} == {"speaker": (4, 3), "text": (4, 2)}
    for name in a:
        torch.testing.assert_close(a[name], b[name])
    short = model(x[1:2, :, : 4 * ratio])  # alone and cut, an utterance has the logits of its batch
    torch.testing.assert_close(short["speaker"], a["speaker"][1:2])


def test_recordings_train_it_and_conversions_all_else() -> None:
    model, recorded, converted = (
        classifier(),
        frames().requires_grad_(),
        frames().flip(0).requires_grad_(),
    )
    losses = model.losses(recorded, LABELS, converted, ASKED, MASK)
    names = [recorded, converted, *model.parameters()]
    on_recorded, on_converted, *on_weights = torch.autograd.grad(
        losses.recorded, names, retain_graph=True, allow_unused=True
    )
    assert on_recorded is None
    assert on_converted is None
    assert all(gradient.abs().max() > 0 for gradient in on_weights)
    on_recorded, on_converted, *on_weights = torch.autograd.grad(
        losses.converted, names, allow_unused=True
    )
    assert on_recorded is None
    assert on_converted.abs().max() > 0
    assert all(gradient is None for gradient in on_weights)


def test_it_models_by_what_was_asked() -> None:
    model, x = classifier(), frames()
    output = model(x)
    named = {name: logits.argmax(1) for name, logits in output.items()}
    losses = model.losses(x, LABELS, x, named)
    assert losses.accuracy == 1
    wrong = named | {"text": torch.where(torch.arange(4) < 1, 1 - named["text"], named["text"])}
    other = model.losses(x, LABELS, x, wrong)
    assert other.accuracy == pytest.approx(0.75)
    assert other.converted > losses.converted
    expected = sum(
        -output[name].log_softmax(1)[torch.arange(4), LABELS[name]].mean() for name in LABELS
    )
    torch.testing.assert_close(losses.recorded, expected)


def test_noise_is_for_training() -> None:
    model, x = classifier(noise=0.5), frames()
    assert not torch.equal(model(x)["text"], model(x)["text"])
    model.eval()
    assert torch.equal(model(x)["text"], model(x)["text"])


def test_an_unknown_label_is_refused() -> None:
    message = (
        r"conversion_classifier\.labels: 'accent', expected label columns of the corpus: speaker,"
        r" text"
    )
    with pytest.raises(UserInputError, match=message):
        ConversionClassifierSpec(labels=("speaker", "accent")).build(5, 2, VOCABULARY)
