"""What is measured: held-out recordings, and what a model (and its student) makes of them, each
made once, when first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vqwave.audio import Wave, mu_law_decode, mu_law_encode
from vqwave.codes import CodeSequence
from vqwave.data import Corpus
from vqwave.data.frame_tracks import carried
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.evaluation.panel import Panel
from vqwave.evaluation.stages import NotApplicable, Stage, silent
from vqwave.inference.speech_model import SpeechModel
from vqwave.metrics.recognition import WHISPER
from vqwave.metrics.recognizer import DEFAULT, Recognizer, recognizer_of
from vqwave.models import VQVAE, Student

ONE = "needs two utterances, and one is measured"
VOICED_BY = 20  # training recordings that a speaker's voice is taken from
TARGET_SECONDS = 20.0  # of training speech that a speaker has whose voice is asked for


@dataclass(frozen=True)
class Settings:
    """What is measured, and on how much.

    `limit`: utterances at most; longer ones are cut after `seconds`.
    """

    split: str = "test"
    only: tuple[str, ...] = ()
    limit: int | None = None
    seconds: float = 4.0
    targets: int = 6  # voices to convert to
    pairs: int = 600  # conversions at most
    takes: int = 2  # of each word and speaker that a prior says
    code_temperature: float = 1.0  # of a prior's codes
    code_top_p: float = 1.0
    sampling: Sampling = field(default_factory=Sampling)
    batch: int = 32
    resamples: int = 1000
    speakers: tuple[str, ...] = ()  # of utterances and targets; none: all
    whisper: str = WHISPER  # weights that recognise words
    keep: Path | None = None  # folder for trained judges


@dataclass(frozen=True)
class Conversion:
    """Utterance `source` (its place among those measured) in the voice of `target`."""

    source: int
    target: str
    wave: Wave


class EvaluationContext:
    """Utterances of a split that the model knows the speakers of, and speech made from them, as
    float32 arrays (T,).
    """

    def __init__(
        self,
        corpus: Corpus,
        codec: SpeechModel,
        student: SpeechModel | None,
        settings: Settings,
        stage: Stage = silent,
        *,
        any_voice: bool = False,
    ) -> None:
        """any_voice: utterances of speakers that the model does not know, too; it hears them, and
        cannot say them again.
        """
        self.corpus, self.codec, self.student, self.settings, self.stage = (
            corpus,
            codec,
            student,
            settings,
            stage,
        )
        self.rate = corpus.sample_rate
        for name, system in self.systems.items():
            if system.sample_rate != self.rate:
                raise UserInputError(
                    f"{name}: is for {system.sample_rate} Hz, {corpus.folder} is at {self.rate} Hz"
                )
        if student is not None and _codes_of(student) != _codes_of(codec):
            raise UserInputError(
                "student: has other codes than the model, expected one that was distilled from it"
            )
        self.rows = self._rows(() if any_voice else codec.decoder.conditioner.labels)
        self._made: dict[tuple[str, str], list[Wave]] = {}

    @property
    def systems(self) -> dict[str, SpeechModel]:
        """The model and, where given, its student; a model whose own decoder is a student counts as
        the model.
        """
        return {"model": self.codec} | ({"student": self.student} if self.student else {})

    @property
    def has_codes(self) -> bool:
        return isinstance(self.codec.model, VQVAE)

    @property
    def copies(self) -> bool:
        """Whether the model says again what it hears: from codes, or from spectral frames."""
        return self.has_codes or self.codec.decoder.frontend is not None

    @property
    def hears_speakers(self) -> bool:
        return "speaker" in self.codec.decoder.conditioner.labels

    @property
    def scores(self) -> bool:
        """Whether recordings have a likelihood."""
        return not isinstance(self.codec.decoder, Student)

    def more_labels(self, speaker: str) -> dict[str, str]:
        """All labels of a speaker but the text."""
        for row in self.corpus.of("train"):
            labels = self.corpus.utterances[row].labels
            if labels["speaker"] == speaker:
                return {name: value for name, value in labels.items() if name != "text"}
        return {}

    def need(self, there: bool, why: str) -> None:
        """Raises `Undefined` unless `there`."""
        if not there:
            raise NotApplicable(why)

    def _rows(self, heard: Sequence[str]) -> list[int]:
        """Spread evenly over the split: a random order, cut, in the order of the corpus.

        heard: labels that must be known.
        """
        known = {name: self._trained_values(name) for name in heard}
        for name in self.settings.speakers:
            self.corpus.label_id("speaker", name)
        rows = [
            row
            for row in self.corpus.of(self.settings.split)
            if all(
                self.corpus.utterances[row].labels.get(name) in values
                for name, values in known.items()
            )
            and self._asked_for(self.corpus.utterances[row].speaker)
        ]
        if not rows and self.settings.speakers:
            names = ", ".join(self.settings.speakers)
            split = f"{self.corpus.folder}: no utterance of split {self.settings.split!r}"
            raise UserInputError(f"{split} by {names} that the model knows")
        if not rows:
            raise UserInputError(
                f"{self.corpus.folder}: no utterance of split {self.settings.split!r} has"
                f" {', '.join(heard)} the model knows"
            )
        if self.settings.limit is not None and self.settings.limit < len(rows):
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[
                : self.settings.limit
            ]
            rows = sorted(rows[i] for i in order.tolist())
        return rows

    def _trained_values(self, label: str) -> set[str]:
        """Values of a label that the model has training recordings of: others it can name, and does
        not know.
        """
        return set(self.codec.labels[label]) - set(
            self.codec.card.about.get("unheard", {}).get(label, ())
        )

    def _asked_for(self, speaker: str) -> bool:
        return not self.settings.speakers or speaker in self.settings.speakers

    @cached_property
    def waves(self) -> list[Wave]:
        """The recordings."""
        return [
            self.corpus.read(row, 0, round(self.settings.seconds * self.rate)) for row in self.rows
        ]

    @cached_property
    def mu_law(self) -> list[Wave]:
        """Copies of the recordings in 8-bit mu-law."""
        return [mu_law_decode(mu_law_encode(torch.from_numpy(wave))).numpy() for wave in self.waves]

    def label(self, name: str) -> list[str]:
        """A label of each utterance."""
        return [self.corpus.utterances[row].labels[name] for row in self.rows]

    @cached_property
    def judge(self) -> Recognizer:
        steps, done = DEFAULT.members * DEFAULT.steps, 0
        with self.stage("training a judge on recordings", steps, "steps") as advance:

            def progress(step: int) -> None:
                nonlocal done
                advance(step - done)
                done = step

            return recognizer_of(self.corpus, keep=self.settings.keep, progress=progress)

    @cached_property
    def panel(self) -> Panel:
        """Judges that were trained elsewhere; they remember what they have judged."""
        settings = self.settings
        return Panel(self.rate, settings.resamples, self.stage, settings.whisper)

    @cached_property
    def coded(self) -> list[CodeSequence]:
        """The codes of each utterance."""
        found = []
        with self.stage("encoding", len(self.rows), "utterances") as advance:
            for row, wave in zip(self.rows, self.waves, strict=True):
                speaker = self.corpus.utterances[row].speaker
                found.append(self.codec.encode_prepared(torch.from_numpy(wave), speaker))
                advance(1)
        return found

    @property
    def several(self) -> bool:
        """Whether there is another utterance to each."""
        return len(self.rows) > 1

    def others(self) -> list[int]:
        """For each utterance another one: of another speaker and with another text, where there is
        one.

        Raises `Undefined` where there is a single utterance.
        """
        self.need(self.several, ONE)
        count, found = len(self.rows), []
        utterances = [self.corpus.utterances[row] for row in self.rows]
        for i, own in enumerate(utterances):
            places = [(i + count // 2 + k) % count for k in range(count)]
            fits = [
                j
                for j in places
                if utterances[j].speaker != own.speaker
                and (not own.text or utterances[j].text != own.text)
            ]
            apart = [j for j in places if j != i]
            found.append((fits or apart)[0])
        return found

    def reconstructed(self, system: str) -> list[Wave]:
        """What `system` makes of each utterance in its own voice."""
        if self.has_codes:
            return self._decoded(system, "reconstructions", self.coded, self.rows)
        return self.once(system, "reconstructions", lambda: self._resynthesised(system))

    def once(self, system: str, name: str, make: Callable[[], list[Wave]]) -> list[Wave]:
        """What `make` makes, when first asked for."""
        if (system, name) not in self._made:
            self._made[system, name] = make()
        return self._made[system, name]

    def shuffled(self, system: str) -> list[Wave]:
        """The same from the codes of other utterances, repeated or cut to the length: a decoder
        that hears nothing true.
        """
        mixed = []
        for own, other in zip(self.coded, (self.coded[j] for j in self.others()), strict=True):
            codes, pitch = _repeated(other.codes, own.codes.shape[1]), None
            if own.pitch is not None:
                melody = _repeated(other.pitch.codes, own.pitch.codes.shape[1])
                pitch = replace(own.pitch, codes=melody)
            mixed.append(replace(own, codes=codes, pitch=pitch))
        return self._decoded(system, "shuffled codes", mixed, self.rows)

    @cached_property
    def targets(self) -> list[str]:
        """Voices to convert to: speakers with enough training speech, at most `targets`, the
        genders by turns.
        """
        seconds: dict[str, float] = {}
        gender: dict[str, str] = {}
        for row in self.corpus.of("train"):
            u = self.corpus.utterances[row]
            seconds[u.speaker] = seconds.get(u.speaker, 0.0) + u.frames / self.rate
            gender[u.speaker] = u.labels.get("gender", "")
        asked = filter(self._asked_for, self._trained_values("speaker"))
        known = [name for name in asked if seconds.get(name, 0.0) >= TARGET_SECONDS]
        queues = {
            g: sorted((n for n in known if gender[n] == g), key=lambda n: -seconds[n])
            for g in sorted(set(gender.values()))
        }
        ranked = sorted(
            (place, g, name) for g, names in queues.items() for place, name in enumerate(names)
        )
        return sorted(name for _, _, name in ranked[: self.settings.targets])

    @cached_property
    def trained(self) -> dict[str, list[Wave]]:
        """Whole training recordings of measured speakers and targets, at most `VOICED_BY` each."""
        rows: dict[str, list[int]] = {}
        for row in self.corpus.of("train"):
            rows.setdefault(self.corpus.utterances[row].speaker, []).append(row)
        known = sorted({*self.label("speaker"), *self.targets} & set(rows))
        counts = {name: min(VOICED_BY, len(rows[name])) for name in known}
        return {
            name: [self.corpus.read(rows[name][i * len(rows[name]) // count]) for i in range(count)]
            for name, count in counts.items()
        }

    @cached_property
    def pairs(self) -> list[tuple[int, str]]:
        """(utterance, target) of each conversion, spread evenly where they are too many."""
        pairs = [
            (i, target)
            for i, row in enumerate(self.rows)
            for target in self.targets
            if target != self.corpus.utterances[row].speaker
        ]
        if len(pairs) > self.settings.pairs:
            order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[
                : self.settings.pairs
            ]
            pairs = [pairs[i] for i in sorted(order.tolist())]
        return pairs

    @property
    def pair_rows(self) -> list[int]:
        """For each conversion the training recording whose labels and vectors it is given."""
        rows = reversed(self.corpus.of("train"))
        voice = {self.corpus.utterances[row].speaker: row for row in rows}
        return [voice[target] for _, target in self.pairs]

    def converted(self, system: str) -> list[Conversion]:
        """Utterances in the voices of others."""
        waves = self._decoded(
            system,
            "conversions",
            [self.coded[i].as_speaker(target) for i, target in self.pairs],
            self.pair_rows,
            [self.rows[i] for i, _ in self.pairs],
        )
        made = zip(self.pairs, waves, strict=True)
        return [Conversion(i, target, wave) for (i, target), wave in made]

    def _decoded(
        self,
        system: str,
        name: str,
        coded: Sequence[CodeSequence],
        voices: Sequence[int],
        texts: Sequence[int] | None = None,
    ) -> list[Wave]:
        """Codes -> waveforms, in the voices (and with all other labels) of rows; the text is that
        of the rows `texts`.
        """
        if (system, name) in self._made:
            return self._made[system, name]
        codec, order = (
            self.systems[system],
            sorted(range(len(coded)), key=lambda i: coded[i].samples),
        )
        chunks = [
            order[i : i + self.settings.batch] for i in range(0, len(order), self.settings.batch)
        ]
        made: dict[int, Wave] = {}
        total = sum(coded[i].samples for i in order) / self.rate
        with self.stage(f"{system}: {name}", total, "s of speech") as advance:
            for chunk in chunks:
                said = [None if texts is None else texts[i] for i in chunk]
                labels = [
                    self.labels_of(voices[i], text) for i, text in zip(chunk, said, strict=True)
                ]
                vectors = [self.vectors_of(codec, voices[i]) for i in chunk]
                items = [
                    coded[i] if self.hears_speakers else coded[i].as_speaker(None) for i in chunk
                ]
                waves = codec.decode_many(
                    items,
                    [None] * len(chunk),
                    labels=labels,
                    embeddings=vectors,
                    sampling=self.settings.sampling,
                )
                made |= {i: wave.numpy() for i, wave in zip(chunk, waves, strict=True)}
                advance(sum(coded[i].samples for i in chunk) / self.rate)
        self._made[system, name] = [made[i] for i in range(len(coded))]
        return self._made[system, name]

    def labels_of(self, voice: int, text: int | None) -> dict[str, str]:
        """The labels of row `voice`; the text is that of row `text`, where given."""
        labels = dict(self.corpus.utterances[voice].labels)
        if text is not None and "text" in labels:
            labels["text"] = self.corpus.utterances[text].labels["text"]
        return labels

    def vectors_of(self, codec: SpeechModel, row: int) -> dict[str, object]:
        """The vectors of a row that a system takes."""
        sizes = codec.decoder.conditioner.vector_sizes
        missing = [name for name in sizes if name not in self.corpus.vectors]
        if missing:
            raise UserInputError(
                f"{self.corpus.folder}: no vectors/{missing[0]}.npy, which the model hears"
            )
        return {name: self.corpus.vectors[name][row] for name in sizes}

    def _resynthesised(self, system: str) -> list[Wave]:
        """A vocoder's copies, from the recordings' own frames."""
        made, codec = [], self.systems[system]
        tracks = carried(self.corpus, codec.decoder.frontend.tracks)
        with self.stage(
            f"{system}: copies", sum(map(len, self.waves)) / self.rate, "s of speech"
        ) as advance:
            for row, wave in zip(self.rows, self.waves, strict=True):
                frames = {track.name: track.stored(self.corpus, row) for track in tracks}
                copy = codec.reconstruct(
                    wave,
                    labels=self.corpus.utterances[row].labels,
                    embeddings=self.vectors_of(codec, row),
                    features=frames,
                    sampling=self.settings.sampling,
                )
                made.append(copy.numpy())
                advance(len(wave) / self.rate)
        return made


def _repeated(codes: Tensor, frames: int) -> Tensor:
    """codes (Q, F') -> (Q, F), one after another as often as needed."""
    return codes.repeat(1, -(-frames // max(1, codes.shape[1])))[:, :frames]


def _codes_of(codec: SpeechModel) -> str | None:
    """What names a codec's codes, None for a model without."""
    return codec.fingerprint if isinstance(codec.model, VQVAE) else None
