"""A trained prior as people use it: label names in, codes out; and codes in as few bits as it gives
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from vqwave import inputs
from vqwave.codes import CodeBlock, CodeSequence, Header, PitchCodes, fingerprint
from vqwave.config.renamed import old_repr
from vqwave.data.voices import UNVOICED, VoicePitch
from vqwave.decode.code_sampling import sample_codes
from vqwave.distributed.torch_defaults import inference, own_defaults
from vqwave.distributions import checked_temperature
from vqwave.errors import UserInputError
from vqwave.inference.entropy_coding import compress, decompress
from vqwave.models.prior import CodeNetwork, Prior
from vqwave.models.symbols import PitchBooks
from vqwave.models.wavenet import Vocabulary

LONGEST = 30.0  # seconds after which an utterance that does not end is cut, where no other is known


@dataclass(frozen=True)
class CodePrior:
    """A network over codes (`CodeNetwork.exact()`), the names of its labels, and what its codes
    are: fingerprint, rate, hop.
    """

    network: CodeNetwork
    labels: dict[str, list[str]]
    codec: str
    sample_rate: int
    hop: int
    older: tuple[str, ...] = ()
    """What older files call the codec."""
    voices: Mapping[str, VoicePitch] = field(default_factory=dict)
    """Of a codec with pitch codes: what those of each speaker are normalised with."""
    longest: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Label names -> values -> seconds of the longest training utterance."""

    @classmethod
    def of(
        cls,
        model: Prior,
        codec: str,
        sample_rate: int,
        labels: Vocabulary,
        *,
        older: tuple[str, ...] = (),
        longest: Mapping[str, Mapping[str, float]] | None = None,
    ) -> CodePrior:
        known = {name: list(labels[name]) for name in model.network.conditioner.labels}
        voices, melody = {}, model.codec.melody
        if melody is not None:
            rows = zip(labels.get("speaker", ()), melody.voices.tolist(), strict=True)
            voices = {name: VoicePitch(*row) for name, row in rows}
        facts = (codec, sample_rate, model.hop, older, voices, longest or {})
        return cls(model.network.exact(), known, *facts)

    @cached_property
    def fingerprint(self) -> str:
        """Names the probabilities: what one prior has coded, only the same one reads."""
        about = f"({old_repr(self.network.stack.spec)}, {sorted(self.labels.items())!r})"
        return fingerprint(self.network, about=about)

    def ids(self, labels: Mapping[str, str | None]) -> dict[str, Tensor]:
        """Label names -> ids (1,) of those that are given.

        Raises UserInputError with the nearest names.
        """
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
        longest: float | None = None,
    ) -> list[CodeSequence]:
        """Codes of `count` utterances that end by themselves, given labels, which may be left out;
        cut after `longest` seconds (default: those of the longest training utterance with one of
        these labels, of that label for which it is shortest).

        With `seconds`, utterance follows utterance until so much is full. Raises UserInputError.
        """
        checked_temperature(temperature, "code temperature")
        if not 0 < top_p <= 1:
            raise UserInputError(f"code top-p {top_p}: expected a number above 0 and at most 1")
        labels, count = inputs.by_name(labels, "labels"), inputs.whole_number(count, "count", 1)
        longest = self.longest_of(labels) if longest is None else longest
        length = inputs.seconds(longest if seconds is None else seconds)
        sampled = sample_codes(
            self.network,
            {name: ids.expand(count) for name, ids in self.ids(labels).items()},
            max(1, round(length * self.sample_rate / self.hop)),
            streams=torch.arange(count),
            stop=seconds is None,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
        )
        return [self._sequence(codes, pitch, labels.get("speaker")) for codes, pitch in sampled]

    def longest_of(self, labels: Mapping[str, str | None]) -> float:
        """Seconds after which an utterance with these labels is cut, see `draw`."""
        known = [
            of_label[value]
            for name, of_label in self.longest.items()
            if (value := labels.get(name)) is not None and value in of_label
        ]
        every = [seconds for of_label in self.longest.values() for seconds in of_label.values()]
        return min(known) if known else max(every, default=LONGEST)

    def _sequence(self, codes: Tensor, pitch: Tensor | None, speaker: str | None) -> CodeSequence:
        """Codes that were drawn; pitch codes get the statistics of the speaker's voice."""
        melody, order = None, self.network.order
        if pitch is not None and order.pitch is not None:
            voice, hop = self._voice(speaker), self.hop * order.ratio
            melody = PitchCodes(pitch, hop, order.pitch.size, voice.mean, voice.deviation)
        facts = (codes.shape[1] * self.hop, order.size, self.codec, speaker)
        return CodeSequence(codes, self.sample_rate, self.hop, *facts, melody)

    def _voice(self, speaker: str | None) -> VoicePitch:
        """A speaker's; of one without, the mean over the known."""
        if speaker is not None and speaker in self.voices:
            return self.voices[speaker]
        known = list(self.voices.values()) or [UNVOICED]
        return VoicePitch(
            sum(voice.mean for voice in known) / len(known),
            sum(voice.deviation for voice in known) / len(known),
        )

    @own_defaults()
    def encode(self, coded: CodeSequence) -> bytes:
        """The codes as bytes, given the speaker that they name.

        Raises UserInputError for another codec's codes.
        """
        coded = CodeSequence.checked(coded)
        self._check(Header.of(coded))
        labels = self._conditions(coded.speaker)
        return compress(self.network, coded.codes, labels, coded.block.pitch)

    @own_defaults()
    def decode(self, data: bytes, header: Header) -> CodeBlock:
        """The inverse."""
        self._check(header)
        labels = self._conditions(header.speaker)
        return CodeBlock(*decompress(self.network, data, header.frames, labels), 0, header.ratio)

    @inference()
    def bits(self, coded: CodeSequence) -> float:
        """What the codes cost under the prior, whose length is known: the least that `encode` could
        take.
        """
        return sum(self.stream_bits(coded))

    @inference()
    def stream_bits(self, coded: CodeSequence) -> tuple[float, float]:
        """`bits` of the codes, and of the pitch codes; 0 where there are none."""
        coded = CodeSequence.checked(coded)
        order, frames = self.network.order, coded.codes.shape[1]
        pitch = None if coded.pitch is None else coded.pitch.codes[None]
        symbols = order.merge(coded.codes[None], pitch)
        log_p = self.network(symbols, self._conditions(coded.speaker), ends=False)
        log_p, log_p_pitch = order.split(log_p)
        content = -float(log_p[..., :frames].sum()) / math.log(2.0)
        return content, 0.0 if log_p_pitch is None else -float(log_p_pitch.sum()) / math.log(2.0)

    def _conditions(self, speaker: str | None) -> dict[str, Tensor]:
        """Nothing for a speaker that the prior was not trained on."""
        return self.ids({"speaker": speaker}) if speaker in self.labels.get("speaker", []) else {}

    def _check(self, header: Header) -> None:
        if header.fingerprint not in (self.codec, *self.older):
            expected = f"the prior is for those of {self.codec}"
            raise UserInputError(f"the codes are of codec {header.fingerprint}, {expected}")
        order, pitch = self.network.order, header.pitch
        if (header.books, header.size) != (order.books, order.size):
            expected = f"the prior is for {order.books} of {order.size}"
            raise UserInputError(f"{header.books} books of {header.size} codes, {expected}")
        given = None if pitch is None else PitchBooks(pitch.books, pitch.size, header.ratio)
        if given != order.pitch:
            raise UserInputError(f"{_in_words(given)}, the prior is for {_in_words(order.pitch)}")


def _in_words(pitch: PitchBooks | None) -> str:
    """In words.

    >>> _in_words(PitchBooks(1, 20, 4))
    '1 books of 20 pitch codes, one for 4 frames'
    """
    if pitch is None:
        return "no pitch codes"
    return f"{pitch.books} books of {pitch.size} pitch codes, one for {pitch.ratio} frames"
