"""Speech that the measured models generate: reconstructions, conversions, speech from shuffled
codes. Each is generated once, when first asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vqwave.audio import Wave
from vqwave.codes import CodeSequence
from vqwave.data.frame_tracks import carried
from vqwave.data.speaker_vectors import NAME
from vqwave.decode.sampling import Sampling
from vqwave.evaluation.progress import ProgressFactory
from vqwave.evaluation.utterances import Utterances
from vqwave.inference.reference_voice import ReferenceVoice
from vqwave.inference.speech_model import SpeechModel


@dataclass(frozen=True)
class Conversion:
    """Utterance `source` (its place among those measured) in the voice of `target`."""

    source: int
    target: str
    wave: Wave


@dataclass(frozen=True)
class GivenVoice:
    """What a decoder is given with codes: labels and vectors, or the voice of a reference."""

    labels: Mapping[str, str]
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    like: ReferenceVoice | None = None


class SystemOutputs:
    """What each of `systems` (the model first) generates for `utterances`, as float32 arrays
    (T,).
    """

    def __init__(
        self,
        utterances: Utterances,
        systems: Mapping[str, SpeechModel],
        progress: ProgressFactory,
        substitute_voices: Callable[[], Sequence[ReferenceVoice]] = tuple,
    ) -> None:
        """substitute_voices: the voice of each utterance where the speakers are unseen."""
        self.utterances, self.systems, self.progress = utterances, systems, progress
        self.substitute_voices = substitute_voices
        self.model, self.sampling = systems["model"], utterances.settings.sampling
        self._waves: dict[tuple[str, str], list[Wave]] = {}

    def with_sampling(self, sampling: Sampling) -> SystemOutputs:
        """The same codes, sampled otherwise."""
        other = copy.copy(self)
        other.sampling, other._waves = sampling, {}
        return other

    @property
    def has_codes(self) -> bool:
        return self.model.kind.codec is not None

    @cached_property
    def coded(self) -> list[CodeSequence]:
        """The codes of each utterance."""
        result, source = [], self.utterances
        with self.progress("encoding", len(source.rows), "utterances") as advance:
            for row, wave in zip(source.rows, source.waves, strict=True):
                speaker = source.corpus.utterances[row].speaker
                result.append(self.model.encode_prepared(torch.from_numpy(wave), speaker))
                advance(1)
        return result

    def once(self, system: str, name: str, make: Callable[[], list[Wave]]) -> list[Wave]:
        """The result of `make`, which is called the first time."""
        if (system, name) not in self._waves:
            self._waves[system, name] = make()
        return self._waves[system, name]

    def reconstructed(self, system: str) -> list[Wave]:
        """Each utterance, reconstructed in its own voice, or that of an unseen speaker in its
        substitute.
        """
        if self.has_codes:
            return self._decoded(system, "reconstructions", self.coded, self.own_voices)
        return self.once(system, "reconstructions", lambda: self._vocoded(system))

    def shuffled(self, system: str) -> list[Wave]:
        """Each utterance's voice with the codes of another one, repeated or cut to the length: a
        decoder that gets no correct codes.
        """
        mixed = []
        others = (self.coded[j] for j in self.utterances.others())
        for own, other in zip(self.coded, others, strict=True):
            codes, pitch = _repeated(other.codes, own.codes.shape[1]), None
            if own.pitch is not None and other.pitch is not None:
                melody = _repeated(other.pitch.codes, own.pitch.codes.shape[1])
                pitch = replace(own.pitch, codes=melody)
            mixed.append(replace(own, codes=codes, pitch=pitch))
        return self._decoded(system, "shuffled codes", mixed, self.own_voices)

    def converted(self, system: str) -> list[Conversion]:
        """Utterances in the voices of others."""
        pairs = self.utterances.pairs
        waves = self._decoded(
            system,
            "conversions",
            [self.coded[i].as_speaker(target) for i, target in pairs],
            self.target_voices,
        )
        each = zip(pairs, waves, strict=True)
        return [Conversion(i, target, wave) for (i, target), wave in each]

    @cached_property
    def own_voices(self) -> list[GivenVoice]:
        """Of each utterance."""
        voices = [self._voice_of(row) for row in self.utterances.rows]
        if not self.utterances.unseen_speakers:
            return voices
        likes = zip(voices, self.substitute_voices(), strict=True)
        return [replace(voice, like=like) for voice, like in likes]

    @property
    def target_voices(self) -> list[GivenVoice]:
        """Of each conversion: that of its target, the text that of its source."""
        source = self.utterances
        each = zip(source.pairs, source.pair_rows, strict=True)
        return [
            GivenVoice({"speaker": target}) if row is None else self._voice_of(row, source.rows[i])
            for (i, target), row in each
        ]

    def _voice_of(self, row: int, text: int | None = None) -> GivenVoice:
        """All labels (the text that of row `text`, where given) and vectors of a row; a model that
        has speaker vectors takes its own.
        """
        own = set() if self.model.voices is None else {NAME}
        names = sorted(set(self.model.decoder.conditioner.vector_sizes) - own)
        source = self.utterances
        return GivenVoice(source.labels_of(row, text), source.vectors_of(names, row))

    def _decoded(
        self,
        system: str,
        name: str,
        coded: Sequence[CodeSequence],
        voices: Sequence[GivenVoice],
    ) -> list[Wave]:
        """Codes -> waveforms, in these voices."""
        return self.once(system, name, lambda: self._decode(system, name, coded, voices))

    def _decode(
        self, system: str, name: str, coded: Sequence[CodeSequence], voices: Sequence[GivenVoice]
    ) -> list[Wave]:
        """In batches of utterances of about one length."""
        codec, source, size = self.systems[system], self.utterances, self.utterances.settings.batch
        named = "speaker" in self.model.decoder.conditioner.labels
        order = sorted(range(len(coded)), key=lambda i: coded[i].samples)
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        result: dict[int, Wave] = {}
        total = sum(coded[i].samples for i in order) / source.rate
        with self.progress(f"{system}: {name}", total, "s of speech") as advance:
            for chunk in chunks:
                waves = codec.decode_many(
                    [coded[i] if named else coded[i].as_speaker(None) for i in chunk],
                    [None] * len(chunk),
                    likes=[voices[i].like for i in chunk],
                    labels=[voices[i].labels for i in chunk],
                    embeddings=[voices[i].embeddings for i in chunk],
                    sampling=self.sampling,
                )
                result |= {i: wave.numpy() for i, wave in zip(chunk, waves, strict=True)}
                advance(sum(coded[i].samples for i in chunk) / source.rate)
        return [result[i] for i in range(len(coded))]

    def _vocoded(self, system: str) -> list[Wave]:
        """A vocoder's copies, from the recordings' own frames."""
        result, codec, source = [], self.systems[system], self.utterances
        frontend, vectors = codec.decoder.frontend, codec.decoder.conditioner.vector_sizes
        tracks = () if frontend is None else carried(source.corpus, frontend.tracks)
        total = sum(map(len, source.waves)) / source.rate
        with self.progress(f"{system}: copies", total, "s of speech") as advance:
            for row, wave in zip(source.rows, source.waves, strict=True):
                copied = codec.reconstruct(
                    wave,
                    labels=source.corpus.utterances[row].labels,
                    embeddings=source.vectors_of(vectors, row),
                    features={track.name: track.stored(source.corpus, row) for track in tracks},
                    sampling=self.sampling,
                )
                result.append(copied.numpy())
                advance(len(wave) / source.rate)
        return result


def codes_of(codec: SpeechModel) -> str | None:
    """The fingerprint of a codec's codes, None for a model without."""
    return None if codec.kind.codec is None else codec.fingerprint


def _repeated(codes: Tensor, frames: int) -> Tensor:
    """codes (Q, F') -> (Q, F), one after another as often as needed."""
    return codes.repeat(1, -(-frames // max(1, codes.shape[1])))[:, :frames]
