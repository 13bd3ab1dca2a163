"""The linear probe finds what a line divides, and nothing in noise."""

from __future__ import annotations

import numpy as np
import torch

from vqwave.metrics.linear import LinearProbe, cepstra, time_statistics


def test_it_divides_what_a_line_divides() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    labels = (x[:, 0] + 2 * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0.3).long()
    probe = LinearProbe(1000 * x[:200] + 50, labels[:200], 4)
    assert (probe.named(1000 * x[200:] + 50) == labels[200:].numpy()).mean() > 0.9


def test_noise_tells_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    x, labels = (
        torch.randn(600, 4, generator=generator),
        torch.randint(3, (600,), generator=generator),
    )
    assert (
        abs(
            (LinearProbe(x[:300], labels[:300], 3).named(x[300:]) == labels[300:].numpy()).mean()
            - 1 / 3
        )
        < 0.1
    )


def test_statistics_are_of_frames() -> None:
    found = time_statistics([torch.tensor([[1.0, 3.0], [5.0, 5.0]]), torch.tensor([[2.0], [7.0]])])
    assert torch.equal(found, torch.tensor([[2.0, 5.0, 1.0, 0.0], [2.0, 7.0, 0.0, 0.0]]))


def test_cepstra_do_not_hear_level() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    loud, soft = cepstra([wave, 0.25 * wave], 8000)
    assert loud.shape == (38, 50)
    assert torch.allclose(loud, soft, atol=2e-3)
