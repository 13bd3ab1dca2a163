"""Complete utterances of a corpus as a `DataLoader` takes them, and the batch that they make.

Crops, of which a training is made, are in `segments`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vqwave.errors import UserInputError


class Item(TypedDict):
    """`corpus[i]`: one utterance."""

    index: int
    """Its place i in `corpus.utterances`, which has all that is known of it."""
    id: str
    text: str
    """What is said; empty where that is not known."""
    wave: Tensor
    """(T,) float32 in [-1, 1], at `corpus.sample_rate`."""
    labels: dict[str, Tensor]
    """By name: () int64, the place of a label's value in `corpus.labels`; (V,) float32 vectors."""
    f0: NotRequired[Tensor]
    """(F,) float32 in Hz, 0 where unvoiced, a frame each `corpus.pitch.hop` samples; where stored.
    """


class ItemBatch(TypedDict):
    """B utterances, padded with zeros at their ends."""

    index: Tensor
    """(B,) int64."""
    id: list[str]
    text: list[str]
    wave: Tensor
    """(B, T) float32."""
    lengths: Tensor
    """(B,) int64, samples."""
    labels: dict[str, Tensor]
    """By name: (B,) int64, (B, V) float32."""
    f0: NotRequired[Tensor]
    """(B, F) float32."""


def collate_items(items: Sequence[Item]) -> ItemBatch:
    """`collate_fn` of a `DataLoader` over a corpus. Raises UserInputError for no items."""
    if not items:
        raise UserInputError("collate_items: no utterances, expected at least one")
    waves = [item["wave"] for item in items]
    names = items[0]["labels"]
    batch = ItemBatch(
        index=torch.tensor([item["index"] for item in items]),
        id=[item["id"] for item in items],
        text=[item["text"] for item in items],
        wave=pad_sequence(waves, batch_first=True),
        lengths=torch.tensor([len(wave) for wave in waves]),
        labels={name: torch.stack([item["labels"][name] for item in items]) for name in names},
    )
    if "f0" in items[0]:
        batch["f0"] = pad_sequence([item["f0"] for item in items], batch_first=True)
    return batch
