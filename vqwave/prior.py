"""A trained prior as people use it: label names in, codes out; and codes in as few bits as it gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import CodeBlock, Coded, Header, fingerprint
from vqwave.decode.codes import sample_codes
from vqwave.entropy import compress, decompress
from vqwave.errors import BadInput
from vqwave.models.prior import CodeNetwork, Prior
from vqwave.models.wavenet import Vocabulary
from vqwave.torch_defaults import inference, own_defaults

LONGEST = 30.0  # seconds after which an utterance that does not end is cut


@dataclass(frozen=True)
class CodePrior:
    """A network over codes (`CodeNetwork.exact()`), the names of its labels, and what its codes are: fingerprint, rate, hop."""

    network: CodeNetwork
    labels: dict[str, list[str]]
    codec: str
    sample_rate: int
    hop: int
    older: tuple[str, ...] = ()
    """What older files call the codec."""

    @classmethod
    def of(cls, model: Prior, codec: str, sample_rate: int, labels: Vocabulary, older: tuple[str, ...] = ()) -> CodePrior:
        known = {name: list(labels[name]) for name in model.network.conditioner.labels}
        return cls(model.network.exact(), known, codec, sample_rate, model.hop, older)

    @cached_property
    def fingerprint(self) -> str:
        """Names the probabilities: what one prior has coded, only the same one reads."""
        return fingerprint(self.network, about=repr((self.network.stack.spec, sorted(self.labels.items()))))

    def ids(self, labels: Mapping[str, str | None]) -> dict[str, Tensor]:
        """Label names -> ids (1,); what is not given is not told. Raises BadInput with the nearest names."""
        given = {name: labels[name] for name in self.labels if labels.get(name) is not None}
        known = self.labels
        ids = {n: inputs.place_of(value, known[n], n, "this prior") for n, value in given.items()}
        return {name: torch.tensor([number]) for name, number in ids.items()}

    @own_defaults()
    def draw(
        self,
        seconds: float | None = None,
        *,
        labels: Mapping[str, str | None] | None = None,
        count: int = 1,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        longest: float = LONGEST,
    ) -> list[Coded]:
        """Codes of `count` utterances that end by themselves, given labels, which may be left out; cut after `longest` seconds.

        With `seconds`, utterance follows utterance until so much is full. Raises BadInput.
        """
        if not temperature > 0:
            raise BadInput(f"code temperature {temperature}: expected a number above 0")
        if not 0 < top_p <= 1:
            raise BadInput(f"code top-p {top_p}: expected a number above 0 and at most 1")
        labels, count = inputs.by_name(labels, "labels"), inputs.whole(count, "count", 1)
        length = inputs.seconds(longest if seconds is None else seconds)
        drawn = sample_codes(
            self.network,
            {name: ids.expand(count) for name, ids in self.ids(labels).items()},
            max(1, round(length * self.sample_rate / self.hop)),
            streams=torch.arange(count),
            stop=seconds is None,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
        )
        size, speaker = self.network.size, labels.get("speaker")
        return [Coded(codes, self.sample_rate, self.hop, codes.shape[1] * self.hop, size, self.codec, speaker) for codes in drawn]

    @own_defaults()
    def encode(self, coded: Coded) -> bytes:
        """The codes as bytes, given the speaker that is noted beside them. Raises BadInput for another codec's codes."""
        coded = Coded.checked(coded)
        self._check(coded.fingerprint, coded.codes.shape[0], coded.size)
        return compress(self.network, coded.codes, self._heard(coded.speaker))

    @own_defaults()
    def decode(self, data: bytes, header: Header) -> CodeBlock:
        """The inverse."""
        self._check(header.fingerprint, header.books, header.size)
        return CodeBlock(decompress(self.network, data, header.frames, self._heard(header.speaker)))

    @inference()
    def bits(self, coded: Coded) -> float:
        """What the codes cost under the prior, whose length is known: the least that `encode` could take."""
        coded = Coded.checked(coded)
        log_p = self.network(coded.codes[None], self._heard(coded.speaker), ends=False)
        return -float(log_p.sum()) / math.log(2.0)

    def _heard(self, speaker: str | None) -> dict[str, Tensor]:
        """A speaker whom the prior does not know is not told."""
        return self.ids({"speaker": speaker}) if speaker in self.labels.get("speaker", []) else {}

    def _check(self, codec: str, books: int, size: int) -> None:
        if codec not in (self.codec, *self.older):
            raise BadInput(f"the codes are of codec {codec}, the prior knows those of {self.codec}")
        if (books, size) != (self.network.books, self.network.size):
            raise BadInput(f"{books} books of {size} codes, the prior knows {self.network.books} of {self.network.size}")
