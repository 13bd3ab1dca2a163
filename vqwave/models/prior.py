"""A prior over codes: the WaveNet again, with codes in the place of samples. From it a VQ-VAE speaks without being spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import BadInput
from vqwave.models.vqvae import VQVAE, VQVAESpec
from vqwave.models.wavenet import Vocabulary
from vqwave.nn import draws
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec
from vqwave.nn.wavenet import Stack, StackSpec, StackState

Probability = Annotated[float, Field(ge=0, lt=1)]


@spec
class PriorSpec:
    """The network over codes, and the codec that they are of."""

    kind: Literal["prior"] = "prior"
    network: StackSpec = option(StackSpec(layers=12, cycle=6, skip=128, hidden=128), "sizes of the stack over codes")
    conditioner: ConditionerSpec = option(ConditionerSpec(), "labels that the prior hears, e.g. [speaker, text]")
    untold: Probability = option(0.1, "how often training leaves out each label, so that codes can be drawn without it")
    dropout: Probability = option(0.1, "how often training leaves out each heard code, against learning by heart")
    codec: VQVAESpec = option(VQVAESpec(), "taken from the codec's own run")

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> Prior:
        codec = self.codec.build(sample_rate, vocabulary)
        books, size = codec.quantizer.books, codec.quantizer.size
        known = {name: [*values, "untold"] for name, values in vocabulary.items()}  # the last id stands for "not said"
        conditioner = self.conditioner.build(0, 1, known)
        heard = nn.Embedding(books * (size + 1), self.network.residual)
        place = nn.Embedding(books, self.network.residual)
        stack = self.network.build(size + 1, conditioner.channels)
        return Prior(CodeNetwork(heard, place, stack, conditioner, untold=self.untold, dropout=self.dropout), codec)


@dataclass(frozen=True)
class Ended:
    """Utterances as the prior hears them: codes (B, Q, F + 1), END after the last frame; mask of what there is to predict."""

    codes: Tensor
    mask: Tensor


class CodeNetwork(nn.Module):
    r"""p(codes | labels), frame by frame and, within a frame, book by book: each factor exact, all in one pass.

    .. math:: p(c | h) = \prod_f \prod_q p(c_{qf} | c_{\cdot, <f}, c_{<q, f}, h)

    The Q books of F frames are one sequence of Q F symbols, which one stack reads; with one book it is van den Oord et al.,
    2017, sec. 4.3 (arXiv:1711.00937). Each book has its own embedding of the K codes and of END, the symbol around
    utterances: heard before the first code, and predicted, in book 0 alone, after the last. An utterance has a frame at least.

    B batch, Q books, F frames, K codes, N = Q F symbols.
    """

    def __init__(
        self,
        heard: nn.Embedding,
        place: nn.Embedding,
        stack: Stack,
        conditioner: Conditioner,
        *,
        untold: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.books = place.num_embeddings
        self.size = heard.num_embeddings // self.books - 1
        self.untold = untold
        self.heard = heard
        self.place = place
        self.blank = Blank(dropout)
        self.stack = stack
        self.conditioner = conditioner

    @property
    def end(self) -> int:
        """END: the symbol above the codes 0 .. K - 1."""
        return self.size

    def forward(
        self,
        codes: Tensor,
        labels: Mapping[str, Tensor],
        mask: Tensor | None = None,
        before: Tensor | None = None,
        *,
        ends: bool = True,
    ) -> Tensor:
        """ln p of each code given all before it: codes (B, Q, F), END allowed in book 0 -> (B, Q, F) nats; 0 where not `mask`.

        labels: name -> (B,); a label that is not there is not told. before (B,): the last book's code in the frame before,
        for codes cut out of an utterance; END, the default, for its start. With `ends` false, END has no mass: the law
        of the codes of an utterance whose length is known.
        """
        B, Q, F_ = codes.shape
        symbols = codes.transpose(1, 2).flatten(1)  # (B, N)
        first = torch.full_like(symbols[:, :1], self.end) if before is None else before[:, None]
        last = torch.cat([first, symbols[:, :-1]], 1)
        book = torch.arange(Q, device=codes.device).repeat(B, F_)
        log_p = self.log_probs(last, book, self.project(labels, B), ends=ends)
        picked = log_p.gather(1, symbols[:, None]).view(B, F_, Q).transpose(1, 2)
        return picked if mask is None else torch.where(mask, picked, 0.0)

    def log_probs(
        self,
        last: Tensor,
        book: Tensor,
        projected: Condition | None,
        state: StackState | None = None,
        *,
        ends: bool = True,
    ) -> Tensor:
        """last (B, n), the symbols before the predicted ones, which are of `book` (B, n) -> ln p (B, K + 1, n)."""
        previous = (book - 1) % self.books
        heard = self.blank(self.heard(previous * (self.size + 1) + last)) + self.place(book)  # (B, n, R)
        logits = self.stack(heard.transpose(1, 2), projected, state)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        may_end = (book == 0) & (last != self.end) & ends
        kept = torch.cat([torch.ones_like(logits[:, : self.size], dtype=torch.bool), may_end[:, None]], 1)
        return logits.masked_fill(~kept, -torch.inf).log_softmax(1)

    def project(self, labels: Mapping[str, Tensor], count: int) -> Condition | None:
        """What every layer hears of the labels of `count` utterances. Raises BadInput for a missing label that must be told."""
        return self.stack.project(self.conditioner(None, self.told(labels, count)))

    def told(self, labels: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """The labels with "untold" for those that are missing, and, in training, for some of the others."""
        heard, device = dict(labels), self.place.weight.device
        for name in self.conditioner.labels:
            if name not in labels and not self.untold:
                raise BadInput(f"{name}: not given, and this prior was trained with model.untold = 0")
            untold = torch.full((count,), self.conditioner.embeddings[name].num_embeddings - 1, device=device)
            heard[name] = labels.get(name, untold)
            if self.training and self.untold:
                heard[name] = torch.where(draws.uniforms(count, like=device) < self.untold, untold, heard[name])
        return heard

    def with_end(self, codes: Tensor, lengths: Tensor) -> Ended:
        """codes (B, Q, F), of which lengths (B,) frames are real -> the same with END in book 0 after the last real frame."""
        frame = torch.arange(codes.shape[-1] + 1, device=codes.device)
        real, last = frame < lengths[:, None], frame == lengths[:, None]  # (B, F + 1)
        book = torch.arange(self.books, device=codes.device)[:, None]
        end = last[:, None] & (book == 0)  # (B, Q, F + 1)
        padded = torch.where(real[:, None], nn.functional.pad(codes, (0, 1)), 0)
        return Ended(torch.where(end, self.end, padded), real[:, None] | end)

    def exact(self) -> CodeNetwork:
        """A copy in float64 on the CPU, for drawing and for coding: there rounding differs least between batches and machines."""
        return deepcopy(self).double().cpu().eval()

    def extra_repr(self) -> str:
        return f"books={self.books}, size={self.size}, untold={self.untold}"


class Blank(nn.Module):
    """Leaves out whole symbols, each with probability `p`, in training alone; the others are scaled up, as by any dropout."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n, R) -> (B, n, R)."""
        if not self.training or self.p == 0:
            return x
        kept = draws.uniforms(*x.shape[:2], 1, like=x.device) >= self.p
        return torch.where(kept, x / (1 - self.p) if self.p < 1 else x, 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class CodeStream:
    """A CodeNetwork heard one symbol at a time, each layer keeping its past: the same law as in one pass."""

    def __init__(
        self,
        network: CodeNetwork,
        labels: Mapping[str, Tensor],
        count: int = 1,
        *,
        ends: bool = True,
    ) -> None:
        self.network = network
        self.ends = ends
        self.projected = network.project(labels, count)
        self.state = StackState()
        self.book = torch.zeros(count, dtype=torch.int64)

    def next(self, last: Tensor) -> Tensor:
        """last (B,), the symbol before -> ln p of the next (B, K + 1). END, the first to be heard, starts an utterance."""
        starts = last == self.network.end
        self.book = torch.where(starts, 0, (self.book + 1) % self.network.books)
        self.state.pasts = [past * ~starts[:, None, None] for past in self.state.pasts]
        log_p = self.network.log_probs(last[:, None], self.book[:, None], self.projected, self.state, ends=self.ends)
        return log_p[..., 0]


class Prior(nn.Module):
    """A network over codes, and the codec that turns them into speech; the codec is not trained any more."""

    def __init__(self, network: CodeNetwork, codec: VQVAE) -> None:
        super().__init__()
        self.network = network
        self.codec = codec.requires_grad_(False)

    @property
    def quantizer(self) -> nn.Module:
        """The codec's."""
        return self.codec.quantizer

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.codec.hop

    @property
    def receptive_field(self) -> int:
        """Samples of speech whose codes one prediction hears."""
        return -(-self.network.stack.receptive_field // self.network.books) * self.hop
