"""A prior over codes: the WaveNet again, with codes in the place of samples.

From it a VQ-VAE generates speech without a recording.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.models.symbols import PitchBooks, SymbolOrder
from vqwave.models.vqvae import VQVAE, VQVAESpec
from vqwave.models.wavenet import Vocabulary
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec
from vqwave.nn.wavenet import Stack, StackSpec, StackState
from vqwave.rng import keyed

Probability = Annotated[float, Field(ge=0, lt=1)]


@spec
class PriorSpec:
    """The network over codes, and the codec that they are of."""

    kind: Literal["prior"] = "prior"
    network: StackSpec = option(
        default=StackSpec(layers=12, dilation_cycle=6, skip_channels=128, hidden_channels=128),
        help="sizes of the stack over codes",
    )
    conditioner: ConditionerSpec = option(
        default=ConditionerSpec(), help="labels that condition the prior, e.g. [speaker, text]"
    )
    label_dropout: Probability = option(
        default=0.1,
        help="how often training leaves out each label, so that codes can be drawn without it",
    )
    token_dropout: Probability = option(
        default=0.1, help="how often training leaves out each input code, against learning by heart"
    )
    codec: VQVAESpec = option(default=VQVAESpec(), help="taken from the codec's own run")

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> Prior:
        codec = self.codec.build(sample_rate, vocabulary)
        order = symbol_order(codec)
        # the last id stands for "not said"
        known = {name: [*values, "untold"] for name, values in vocabulary.items()}
        conditioner = self.conditioner.build(0, 1, known)
        embedding = nn.Embedding(
            sum(order.sizes) + len(order.sizes), self.network.residual_channels
        )
        place = nn.Embedding(order.slots, self.network.residual_channels)
        stack = self.network.build(order.outputs, conditioner.channels)
        network = CodeNetwork(
            embedding,
            place,
            stack,
            conditioner,
            pitch=order.pitch,
            label_dropout=self.label_dropout,
            token_dropout=self.token_dropout,
        )
        return Prior(network, codec)


def symbol_order(codec: VQVAE) -> SymbolOrder:
    """The order of a codec's codes: its quantizer's, and its melody's where it has one."""
    pitch = None
    if codec.melody is not None:
        slow = codec.melody.codec
        pitch = PitchBooks(slow.books, slow.size, slow.hop // codec.hop)
    return SymbolOrder(codec.quantizer.num_codebooks, codec.quantizer.codebook_size, pitch)


@dataclass(frozen=True)
class Ended:
    """Utterances as a prior reads them: a grid of symbols (B, S, G), see `SymbolOrder`.

    END stands after the last frame of each. mask (B, S, G): what there is to predict.
    """

    symbols: Tensor
    mask: Tensor


class CodeNetwork(nn.Module):
    r"""p(codes | labels), frame by frame and, within a frame, book by book: each factor exact, all
    in one pass.

    .. math:: p(c | h) = \prod_f \prod_q p(c_{qf} | c_{\cdot, <f}, c_{<q, f}, h)

    The Q books of F frames are one sequence of Q F symbols, which one stack reads; with one book it
    is van den Oord et al., 2017, sec. 4.3 (arXiv:1711.00937). Each book has its own embedding of
    the K codes and of END, the symbol around utterances: input before the first code, and predicted
    after the last, where a frame could begin. An utterance has a frame at least.

    With `pitch`, a slower stream of K_p codes is modelled jointly: in the sequence, its codes stand
    before the frames that they cover (`SymbolOrder`), so that each stream is conditioned on the
    past of both. Pitch codes have embeddings and logits of their own; no book has mass on the
    symbols of the other.

    B batch, Q books, F frames, K codes; S slots, G groups of a grid of symbols, which without pitch
    is (B, Q, F), the codes themselves; N = S G symbols.
    """

    slot_book: Tensor
    frame_start: Tensor
    book_size: Tensor
    book_row: Tensor

    def __init__(
        self,
        input_embedding: nn.Embedding,
        place: nn.Embedding,
        stack: Stack,
        conditioner: Conditioner,
        *,
        pitch: PitchBooks | None = None,
        label_dropout: float = 0.0,
        token_dropout: float = 0.0,
    ) -> None:
        """input_embedding: all books' embeddings, END's after each book's codes; place: those of
        the slots.
        """
        super().__init__()
        books, rows = place.num_embeddings, input_embedding.num_embeddings
        if pitch is not None:
            books = (books - pitch.books) // pitch.ratio
            rows -= pitch.books * (pitch.size + 1)
        self.order = SymbolOrder(books, rows // books - 1, pitch)
        self.label_dropout = label_dropout
        self.input_embedding = input_embedding
        self.place = place
        self.blank = Blank(token_dropout)
        self.stack = stack
        self.conditioner = conditioner
        self._tabulate()

    def _tabulate(self) -> None:
        """Facts of slots and books as buffers, which follow the network to its device."""
        order, sizes = self.order, torch.tensor(self.order.sizes)
        self.register_buffer("slot_book", torch.tensor(order.slot_books), persistent=False)
        self.register_buffer("frame_start", torch.tensor(order.frame_starts), persistent=False)
        self.register_buffer("book_size", sizes, persistent=False)
        self.register_buffer("book_row", (sizes + 1).cumsum(0) - sizes - 1, persistent=False)

    @property
    def books(self) -> int:
        """Q, of the content."""
        return self.order.books

    @property
    def size(self) -> int:
        """K, of the content."""
        return self.order.size

    @property
    def end(self) -> int:
        """END: the symbol above all codes."""
        return self.order.end

    def forward(
        self,
        symbols: Tensor,
        labels: Mapping[str, Tensor],
        mask: Tensor | None = None,
        before: Tensor | None = None,
        *,
        ends: bool = True,
    ) -> Tensor:
        """ln p of each symbol given all before it: a grid (B, S, G) -> (B, S, G) nats.

        Zero where not `mask`. END is allowed where a frame begins, but for the first.

        labels: name -> (B,); a label that is not there is unknown. before (B,): the last book's
        code in the frame before, for codes cut out of an utterance; END, the default, for its
        start. With `ends` false, END has no mass: the law of the codes of an utterance whose length
        is known.
        """
        B, S, G = symbols.shape
        flat = symbols.transpose(1, 2).flatten(1)  # (B, N)
        first = torch.full_like(flat[:, :1], self.end) if before is None else before[:, None]
        last = torch.cat([first, flat[:, :-1]], 1)
        slot = torch.arange(S, device=symbols.device).repeat(B, G)
        log_p = self.log_probs(last, slot, self.project(labels, B), ends=ends)
        picked = log_p.gather(1, flat[:, None]).view(B, G, S).transpose(1, 2)
        return picked if mask is None else torch.where(mask, picked, 0.0)

    def log_probs(
        self,
        last: Tensor,
        slot: Tensor,
        projected: Condition | None,
        state: StackState | None = None,
        *,
        ends: bool = True,
    ) -> Tensor:
        """last (B, n), the symbols before those in `slot` (B, n) -> ln p of these (B, END + 1,
        n).
        """
        previous, book = self.slot_book[(slot - 1) % self.order.slots], self.slot_book[slot]
        row = self.book_row[previous] + last.minimum(self.book_size[previous])  # END follows codes
        x = self.blank(self.input_embedding(row)) + self.place(slot)  # (B, n, R)
        logits = self.stack(x.transpose(1, 2), projected, state)
        logits = self._of_books(logits if logits.dtype == torch.float64 else logits.float(), book)
        may_end = self.frame_start[slot] & (last != self.end) & ends
        code = torch.arange(self.end, device=last.device)[:, None]
        kept = torch.cat([code < self.book_size[book][:, None], may_end[:, None]], 1)
        return logits.masked_fill(~kept, -torch.inf).log_softmax(1)

    def _of_books(self, logits: Tensor, book: Tensor) -> Tensor:
        """All logits (B, K + 1 + K_p, n) -> those of each symbol's `book` (B, n): (B, END + 1,
        n).
        """
        if self.order.pitch is None:
            return logits
        content, end, pitch = logits.split([self.size, 1, self.order.pitch.size], 1)

        def filled(codes: Tensor) -> Tensor:
            missing = codes.new_zeros(len(codes), self.end - codes.shape[1], codes.shape[2])
            return torch.cat([codes, missing, end], 1)

        return torch.where((book < self.books)[:, None], filled(content), filled(pitch))

    def project(self, labels: Mapping[str, Tensor], count: int) -> Condition | None:
        """The condition of every layer by the labels of `count` utterances.

        Raises UserInputError for a missing label that it needs.
        """
        return self.stack.project(self.conditioner(None, self.label_ids(labels, count)))

    def label_ids(self, labels: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
        """The labels with "untold" for those that are missing, and, in training, for some of the
        others.
        """
        ids, device = dict(labels), self.place.weight.device
        for name in self.conditioner.labels:
            if name not in labels and not self.label_dropout:
                raise UserInputError(
                    f"{name}: not given, and this prior was trained with model.label_dropout = 0"
                )
            untold = torch.full(
                (count,),
                cast("nn.Embedding", self.conditioner.embeddings[name]).num_embeddings - 1,
                device=device,
            )
            ids[name] = labels.get(name, untold)
            if self.training and self.label_dropout:
                ids[name] = torch.where(
                    keyed.uniforms(count, like=device) < self.label_dropout, untold, ids[name]
                )
        return ids

    def with_end(self, codes: Tensor, lengths: Tensor, pitch: Tensor | None = None) -> Ended:
        """codes (B, Q, F), of which lengths (B,) frames are real -> symbols, END after the last.

        pitch (B, Q_p, ceil(F / ratio)): where the network models it. Raises UserInputError
        otherwise.
        """
        order, frames = self.order, codes.shape[-1]
        groups = frames // order.ratio + 1
        if pitch is not None:
            pitch = nn.functional.pad(pitch, (0, groups - pitch.shape[-1]))
        symbols = order.merge(nn.functional.pad(codes, (0, groups * order.ratio - frames)), pitch)
        first, starts = torch.tensor([order.slot_frames, order.frame_starts], device=codes.device)
        frame = first[:, None] + order.ratio * torch.arange(groups, device=codes.device)  # (S, G)
        real = frame < lengths[:, None, None]  # (B, S, G)
        end = (frame == lengths[:, None, None]) & (starts[:, None] > 0)
        return Ended(torch.where(end, self.end, torch.where(real, symbols, 0)), real | end)

    def exact(self) -> CodeNetwork:
        """A copy in float64 on the CPU, for drawing and for coding: there rounding differs least
        between batches and machines.
        """
        return deepcopy(self).double().cpu().eval()

    def extra_repr(self) -> str:
        pitch = "" if self.order.pitch is None else f", pitch={self.order.pitch}"
        return f"books={self.books}, size={self.size}{pitch}, untold={self.label_dropout}"


class Blank(nn.Module):
    """Leaves out complete symbols, each with probability `p`, in training alone; the others are
    scaled up, as by any dropout.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """x (B, n, R) -> (B, n, R)."""
        if not self.training or self.p == 0:
            return x
        kept = keyed.uniforms(*x.shape[:2], 1, like=x.device) >= self.p
        return torch.where(kept, x / (1 - self.p) if self.p < 1 else x, 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class CodeStream:
    """A CodeNetwork evaluated one symbol at a time, each layer keeping its past: the same law as in
    one pass. With a context stack, utterances of a batch start together.
    """

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
        self.slot = torch.zeros(count, dtype=torch.int64)

    def next(self, last: Tensor) -> Tensor:
        """last (B,), the symbol before -> ln p of the next (B, END + 1).

        END starts an utterance.
        """
        starts = last == self.network.end
        if starts.all():
            self.state = StackState()
        self.slot = torch.where(starts, 0, (self.slot + 1) % self.network.order.slots)
        self.state.pasts = [
            None if past is None else past * ~starts[:, None, None] for past in self.state.pasts
        ]
        slot = self.slot[:, None]
        log_p = self.network.log_probs(
            last[:, None], slot, self.projected, self.state, ends=self.ends
        )
        return log_p[..., 0]


class Prior(nn.Module):
    """A network over codes, and the codec that turns them into speech; the codec is not trained any
    more.
    """

    def __init__(self, network: CodeNetwork, codec: VQVAE) -> None:
        super().__init__()
        self.network = network
        self.codec = codec.requires_grad_(requires_grad=False)

    @property
    def quantizer(self) -> nn.Module:
        """The codec's."""
        return self.codec.quantizer

    def bit_rate(self, sample_rate: int) -> float:
        """Nominal bits a second of the codec's codes."""
        return self.codec.bit_rate(sample_rate)

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.codec.hop

    @property
    def receptive_field(self) -> int:
        """Samples of speech whose codes one prediction depends on."""
        order = self.network.order
        return -(-self.network.stack.receptive_field // order.slots) * order.ratio * self.hop
