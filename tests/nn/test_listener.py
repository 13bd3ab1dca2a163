"""The listener: learns from recordings alone, is fixed where it judges conversions, and hears no
padding.
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


def listener(ratio: int = 2, noise: float = 0.0) -> ConversionClassifier:
    torch.manual_seed(0)
    return (
        ConversionClassifierSpec(labels=("speaker", "text"), channels=8, noise=noise)
        .build(5, ratio, VOCABULARY)
        .double()
    )


def frames(ratio: int = 2) -> torch.Tensor:
    return torch.randn(4, 5, 7 * ratio, dtype=F64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_it_hears_no_padding(ratio: int) -> None:
    judge, x = listener(ratio), frames(ratio)
    spoilt = torch.where(MASK.repeat_interleave(ratio, 1)[:, None], x, 7.0)
    a, b = judge(x, MASK), judge(spoilt, MASK)
    assert {name: logits.shape for name, logits in a.items()} == {"speaker": (4, 3), "text": (4, 2)}
    for name in a:
        torch.testing.assert_close(a[name], b[name])
    short = judge(x[1:2, :, : 4 * ratio])  # alone and cut, an utterance is heard as in its batch
    torch.testing.assert_close(short["speaker"], a["speaker"][1:2])


def test_recordings_train_it_and_conversions_all_else() -> None:
    judge, recorded, converted = (
        listener(),
        frames().requires_grad_(),
        frames().flip(0).requires_grad_(),
    )
    hearing = judge.losses(recorded, LABELS, converted, ASKED, MASK)
    names = [recorded, converted, *judge.parameters()]
    on_recorded, on_converted, *on_weights = torch.autograd.grad(
        hearing.recorded, names, retain_graph=True, allow_unused=True
    )
    assert on_recorded is None
    assert on_converted is None
    assert all(gradient.abs().max() > 0 for gradient in on_weights)
    on_recorded, on_converted, *on_weights = torch.autograd.grad(
        hearing.converted, names, allow_unused=True
    )
    assert on_recorded is None
    assert on_converted.abs().max() > 0
    assert all(gradient is None for gradient in on_weights)


def test_it_judges_by_what_was_asked() -> None:
    judge, x = listener(), frames()
    heard = judge(x)
    named = {name: logits.argmax(1) for name, logits in heard.items()}
    hearing = judge.losses(x, LABELS, x, named)
    assert hearing.accuracy == 1
    wrong = named | {"text": torch.where(torch.arange(4) < 1, 1 - named["text"], named["text"])}
    other = judge.losses(x, LABELS, x, wrong)
    assert other.accuracy == pytest.approx(0.75)
    assert other.converted > hearing.converted
    expected = sum(
        -heard[name].log_softmax(1)[torch.arange(4), LABELS[name]].mean() for name in LABELS
    )
    torch.testing.assert_close(hearing.recorded, expected)


def test_noise_is_for_training() -> None:
    judge, x = listener(noise=0.5), frames()
    assert not torch.equal(judge(x)["text"], judge(x)["text"])
    judge.eval()
    assert torch.equal(judge(x)["text"], judge(x)["text"])


def test_an_unknown_label_is_refused() -> None:
    message = (
        r"conversion_classifier\.labels: 'accent', expected label columns of the corpus: speaker,"
        r" text"
    )
    with pytest.raises(UserInputError, match=message):
        ConversionClassifierSpec(labels=("speaker", "accent")).build(5, 2, VOCABULARY)
