"""A corpus as codes, in memory: what a prior learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.codec import Codec
from vqwave.data import Corpus
from vqwave.models.prior import CodeNetwork
from vqwave.nn import draws
from vqwave.nn.ranks import gather_objects, rank, world_size


@dataclass(frozen=True)
class CodeBatch:
    """Utterances, or pieces of some, with END where one ends: codes and mask (B, Q, F), the code before (B,), labels, rows (B,)."""

    codes: Tensor
    mask: Tensor
    before: Tensor
    labels: dict[str, Tensor]
    index: Tensor

    def to(self, device: torch.device | str) -> CodeBatch:
        tensors = {name: getattr(self, name).to(device) for name in ("codes", "mask", "before", "index")}
        return replace(self, **tensors, labels={name: ids.to(device) for name, ids in self.labels.items()})


class CodeCorpus:
    """The codes (Q, F) of every utterance of some splits, by row; each rank encodes its share of them."""

    def __init__(self, codec: Codec, corpus: Corpus, splits: Sequence[str] = ("train", "valid")) -> None:
        self.corpus = corpus
        rows = [row for split in splits for row in corpus.of(split)]
        mine = {row: codec.codes_of(torch.from_numpy(corpus.read(row))).int() for row in rows[rank() :: world_size()]}
        self._codes = {row: codes for share in gather_objects(mine) for row, codes in share.items()}

    def of(self, rows: Sequence[int]) -> list[Tensor]:
        """Codes (Q, F) int64 of each row."""
        return [self._codes[row].long() for row in rows]

    def pieces(self, network: CodeNetwork, rows: Sequence[int], frames: int) -> CodeBatch:
        """A piece of at most `frames` frames of each row, drawn with torch's generator; the end counts as a frame."""
        shares = draws.uniforms(len(rows), like=torch.empty((), dtype=torch.float64)).tolist()
        starts = [int(u * (max(0, codes.shape[1] + 1 - frames) + 1)) for u, codes in zip(shares, self.of(rows), strict=True)]
        return self._batch(network, rows, starts, frames)

    def utterances(self, network: CodeNetwork, rows: Sequence[int], batch: int = 32) -> Iterator[CodeBatch]:
        """Whole utterances, in batches."""
        for first in range(0, len(rows), batch):
            chunk = rows[first : first + batch]
            yield self._batch(network, chunk, [0] * len(chunk), 1 + max(codes.shape[1] for codes in self.of(chunk)))

    def _batch(self, network: CodeNetwork, rows: Sequence[int], starts: Sequence[int], frames: int) -> CodeBatch:
        codes, masks, before = [], [], []
        for whole, start in zip(self.of(rows), starts, strict=True):
            ended = network.with_end(whole[None], torch.tensor([whole.shape[1]]))
            missing = max(0, start + frames - ended.codes.shape[-1])
            codes.append(F.pad(ended.codes[0, :, start : start + frames], (0, missing)))
            masks.append(F.pad(ended.mask[0, :, start : start + frames], (0, missing)))
            before.append(int(whole[-1, start - 1]) if start else network.end)
        ids = [self.corpus.label_ids(row) for row in rows]
        labels = {name: torch.tensor([item[name] for item in ids]) for name in ids[0]}
        return CodeBatch(torch.stack(codes), torch.stack(masks), torch.tensor(before), labels, torch.tensor(rows))
