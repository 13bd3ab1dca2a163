"""A probe reads what is there, and not what is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vqwave.metrics.probes import probe_accuracy


def utterances(count: int, seed: int) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Noise whose order of two marks says `order`, and whose level says `level`; `nothing` is said
    by neither.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = {
        name: torch.randint(n, (count,), generator=generator)
        for name, n in (("order", 2), ("level", 3), ("nothing", 4))
    }
    codes = []
    for order, level in zip(labels["order"], labels["level"], strict=True):
        x = 0.3 * torch.randn(
            5, int(torch.randint(12, 30, (1,), generator=generator)), generator=generator
        )
        x[0, 3], x[0, 5] = (4.0, -4.0) if order else (-4.0, 4.0)
        x[1] += level
        codes.append(x)
    return codes, labels


@pytest.mark.parametrize(
    ("label", "low", "high"), [("order", 0.8, 1.0), ("level", 0.8, 1.0), ("nothing", 0.05, 0.45)]
)
def test_a_probe_reads_what_is_there(label: str, low: float, high: float) -> None:
    """Bounds far from what four other draws give, 1.0, 1.0 and 0.24 to 0.31: they do not hang on
    how the training rounds.
    """
    (train, train_labels), (test, test_labels) = utterances(200, 0), utterances(100, 1)
    probe = probe_accuracy(train, train_labels[label], test, test_labels[label], steps=100)
    assert low <= probe.accuracy <= high
    assert probe.chance == pytest.approx(1 / (int(train_labels[label].max()) + 1), abs=0.1)
    assert probe.utterances == 100


def test_a_probe_is_reproducible_and_leaves_the_generator_alone() -> None:
    (train, labels), (test, test_labels) = utterances(60, 0), utterances(40, 1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (
        probe_accuracy(train, labels["nothing"], test, test_labels["nothing"], steps=10)
        for _ in range(2)
    )
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)
