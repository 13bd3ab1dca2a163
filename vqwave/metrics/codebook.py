"""How a codebook is used: counts by book and by speaker, perplexity, bit rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vqwave.distributed.collectives import sum_over_ranks
from vqwave.nn.quantize import perplexity


class CodeCounts:
    """Counts of codes over a corpus, padding left out: by speaker (one row without), codebook and
    code, (S, Q, K).
    """

    def __init__(
        self,
        books: int,
        size: int,
        speakers: Sequence[str],
        codes_per_frame: Sequence[float] | None = None,
    ) -> None:
        """codes_per_frame (Q): see `Quantizer`; None for 1."""
        self.speakers = list(speakers)
        self.codes_per_frame = torch.tensor(codes_per_frame or [1.0] * books, dtype=torch.float64)
        self.counts = torch.zeros(max(1, len(self.speakers)), books, size, dtype=torch.int64)

    def add(self, codes: Tensor, mask: Tensor, speaker: Tensor | None) -> None:
        """codes (B, Q, F), mask (B, F), speaker (B,) ids or None."""
        for i, (item, real) in enumerate(zip(codes.cpu(), mask.cpu(), strict=True)):
            row = 0 if speaker is None or not self.speakers else int(speaker[i])
            for book, used in enumerate(item[:, real]):
                self.counts[row, book] += torch.bincount(used, minlength=self.counts.shape[-1])

    def section(self, frame_rate: float, device: torch.device | None = None) -> dict[str, Any]:
        """The `codes` part of `evaluation.json`, over all ranks.

        Perplexity is the mean over books.
        """
        counts = sum_over_ranks(self.counts.to(device)).cpu()
        books = counts.sum(0).double()  # (Q, K)
        perplexities = perplexity(books)  # (Q,)
        return {
            "books": books.shape[0],
            "size": books.shape[1],
            "perplexity": float(perplexities.mean()),
            "used": int((books > 0).sum()),
            "bit_rate": frame_rate * float(self.codes_per_frame.sum()) * math.log2(books.shape[1]),
            "entropy_rate": frame_rate * float(self.codes_per_frame @ perplexities.log2()),
            "counts": books.long().tolist(),
            "by_speaker": {name: counts[i, 0].tolist() for i, name in enumerate(self.speakers)},
        }
