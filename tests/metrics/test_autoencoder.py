"""Validation of a VQ-VAE: wrong codes and wrong labels are wrong ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vqwave.data import Batch
from vqwave.metrics import autoencoder
from vqwave.metrics.autoencoder import Autoencoding

HOP = 4


def test_wrong_codes_and_wrong_labels_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder to which a clip costs 1 bit a sample, 2 more with codes and 4 more with labels that
    are not its own.
    """

    def condition(codes: Tensor, labels: dict[str, Tensor], _mask: Tensor, _pitch: None) -> Tensor:
        return 2.0 * (codes[:, 0, 0] != rows) + 4.0 * (labels["speaker"] != rows % 2)

    rows = torch.arange(3)
    decoder = SimpleNamespace(head=None, predict=lambda _wave, costs: 1 + costs[:, None])
    decoder.scorer = decoder
    model = SimpleNamespace(
        hop=HOP,
        quantizer=SimpleNamespace(num_codebooks=1, codebook_size=8, codes_per_frame=[1.0]),
        melody=None,
        spectral_decoder=None,
        conversion_classifier=None,
        decoder=decoder,
        encode=lambda wave, _: rows[:, None, None].expand(-1, 1, wave.shape[1] // HOP),
        encode_pitch=lambda *_: None,
        condition=condition,
    )
    monkeypatch.setattr(
        autoencoder.likelihood, "bits", lambda _, costs, wave: costs.expand_as(wave).double()
    )
    sums = Autoencoding(model, ["a", "b"], torch.device("cpu"))
    lengths = torch.tensor([16, 16, 8])
    batch = Batch(torch.zeros(3, 16), lengths, {"speaker": rows % 2}, rows)
    sums.add(batch, None, {"speaker": 1 - rows % 2})
    total = {name: float(value) for name, value in sums.sums.items()}
    scalars = sums.scalars(total, 8000, (True, True))
    names = ("bits", "bits_shuffled_codes", "bits_shuffled_speakers")
    assert [scalars[name] for name in names] == pytest.approx([1, 3, 5])
