"""A corpus as codes, in memory: what a prior learns from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.data import Corpus
from vqwave.data.frame_tracks import PITCH, stored_pitch
from vqwave.distributed.collectives import gather_objects, rank, world_size
from vqwave.errors import UserInputError
from vqwave.inference.speech_model import SpeechModel
from vqwave.models.prior import CodeNetwork
from vqwave.rng import keyed


@dataclass(frozen=True)
class CodeBatch:
    """Utterances, or pieces of some, with END where one ends, as a grid of symbols (`SymbolOrder`).

    symbols and mask (B, S, G), the code before (B,), labels, rows (B,).
    """

    symbols: Tensor
    mask: Tensor
    before: Tensor
    labels: dict[str, Tensor]
    index: Tensor

    def __len__(self) -> int:
        """B."""
        return len(self.index)

    def to(self, device: torch.device | str) -> CodeBatch:
        names = ("symbols", "mask", "before", "index")
        tensors = {name: getattr(self, name).to(device) for name in names}
        return replace(
            self, **tensors, labels={name: ids.to(device) for name, ids in self.labels.items()}
        )


class CodeCorpus:
    """The codes of every utterance of some splits, by row; each rank encodes its share of them."""

    def __init__(
        self, codec: SpeechModel, corpus: Corpus, splits: Sequence[str] = ("train", "valid")
    ) -> None:
        """Raises UserInputError for a codec with pitch codes whose F0 the corpus does not store."""
        self.corpus, melody = corpus, codec.kind.melody
        if melody is not None and stored_pitch(corpus).hop != melody.hop:
            stored = f"F0 each {stored_pitch(corpus).hop} samples"
            raise UserInputError(f"corpus {corpus.name}: {stored}, expected each {melody.hop}")
        rows = [row for split in splits for row in corpus.of(split)]
        mine = {row: self._encoded(codec, row) for row in rows[rank() :: world_size()]}
        self._codes = {row: codes for share in gather_objects(mine) for row, codes in share.items()}

    def _encoded(self, codec: SpeechModel, row: int) -> tuple[Tensor, Tensor | None]:
        """Codes and pitch codes, of which a model without melody has none."""
        wave, model = torch.from_numpy(self.corpus.read(row)), codec.kind.codec
        codes = codec.codes_of(wave).int()
        if model is None or model.melody is None:
            return codes, None
        contour = torch.from_numpy(stored_pitch(self.corpus).stored(self.corpus, row))
        frames = -(-len(wave) // model.melody.hop)
        labels = {name: torch.tensor([i]) for name, i in self.corpus.label_ids(row).items()}
        labels = {PITCH: contour[None, :, :frames], **labels}
        labels = {name: value.to(codec.device) for name, value in labels.items()}
        pitch = model.encode_pitch(labels)
        return codes, None if pitch is None else pitch[0].int().cpu()

    def of(self, rows: Sequence[int]) -> list[Tensor]:
        """Codes (Q, F) int64 of each row."""
        return [self._codes[row][0].long() for row in rows]

    def pitch_of(self, rows: Sequence[int]) -> list[Tensor | None]:
        """Pitch codes (Q_p, F_p) int64 of each row, where the codec has some."""
        pitches = (self._codes[row][1] for row in rows)
        return [None if pitch is None else pitch.long() for pitch in pitches]

    def pieces(self, network: CodeNetwork, rows: Sequence[int], frames: int) -> CodeBatch:
        """A piece of about `frames` frames of each row, drawn with torch's generator.

        The end counts as a frame; with pitch, pieces are of complete pitch codes.
        """
        ratio = network.order.ratio
        groups = max(1, frames // ratio)
        shares = keyed.uniforms(len(rows), like=torch.empty((), dtype=torch.float64)).tolist()
        lengths = [codes.shape[1] // ratio + 1 for codes in self.of(rows)]
        most = [max(0, length - groups) + 1 for length in lengths]
        starts = [int(u * count) for u, count in zip(shares, most, strict=True)]
        return self._batch(network, rows, starts, groups)

    def utterances(
        self, network: CodeNetwork, rows: Sequence[int], batch: int = 32
    ) -> Iterator[CodeBatch]:
        """Complete utterances, in batches."""
        for first in range(0, len(rows), batch):
            chunk = rows[first : first + batch]
            longest = max(codes.shape[1] for codes in self.of(chunk))
            groups = 1 + longest // network.order.ratio
            yield self._batch(network, chunk, [0] * len(chunk), groups)

    def _batch(
        self, network: CodeNetwork, rows: Sequence[int], starts: Sequence[int], groups: int
    ) -> CodeBatch:
        """starts: the first group of each piece."""
        symbols, masks, before = [], [], []
        for codes, pitch, start in zip(self.of(rows), self.pitch_of(rows), starts, strict=True):
            frames = torch.tensor([codes.shape[1]])
            ended = network.with_end(codes[None], frames, None if pitch is None else pitch[None])
            missing = max(0, start + groups - ended.symbols.shape[-1])
            symbols.append(F.pad(ended.symbols[0, :, start : start + groups], (0, missing)))
            masks.append(F.pad(ended.mask[0, :, start : start + groups], (0, missing)))
            before.append(int(ended.symbols[0, -1, start - 1]) if start else network.end)
        ids = [self.corpus.label_ids(row) for row in rows]
        labels = {name: torch.tensor([item[name] for item in ids]) for name in ids[0]}
        grid, mask = torch.stack(symbols), torch.stack(masks)
        return CodeBatch(grid, mask, torch.tensor(before), labels, torch.tensor(rows))
