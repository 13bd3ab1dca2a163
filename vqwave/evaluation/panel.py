"""Judges of speech, trained elsewhere, over a table's columns: words, voices, naturalness, F0.

A column is a name and a function that returns its waveforms, one an utterance. Columns are
generated and judged one after another, and each figure is in the result as soon as it is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import Note
from vqwave.evaluation.progress import ProgressFactory, installed, silent
from vqwave.evaluation.result import Better, MetricValue, Result
from vqwave.metrics import f0, recognition
from vqwave.metrics.bootstrap import bootstrap, ratio
from vqwave.metrics.naturalness import Scorer, dnsmos
from vqwave.metrics.recognition import WHISPER, Recogniser, recogniser
from vqwave.speaker_encoder import Embedding, SpeakerEncoder, speaker_encoder

T = TypeVar("T")
Values = NDArray[np.float64]
Columns = Mapping[str, Callable[[], Sequence[Wave]]]
# a column's name and waveforms -> what each adds, (N, S)
Sums = Callable[[str, Sequence[Wave]], Values]
WHAT = {
    "ceiling": "recordings",
    "mu-law": "8-bit mu-law copies",
    "griffin-lim": "Griffin-Lim of the recordings' frames",
    "frames": "Griffin-Lim of the decoder's own frames",
}
BY_ENCODER = "cosine by Resemblyzer's encoder"
DECODERS = ("model", "student")


@dataclass(frozen=True)
class Measure:
    """A row of the table, computed from sums over utterances; `scale`: from `figure` to `unit`."""

    key: str
    title: str
    unit: str
    better: Better
    figure: Callable[[Values], Values]
    scale: float = 1.0


MELODY = (
    Measure("pitch.f0_error", "F0 error (RMS)", "semitones", "lower", f0.f0_error),
    Measure("pitch.correlation", "F0 correlation", "", "higher", f0.f0_correlation),
    Measure("pitch.voicing", "voicing error", "% of frames", "lower", f0.voicing_error, 100),
)


@dataclass
class Panel:
    """The judges at a rate in Hz, loaded at first use; `NotApplicable` where not installed."""

    sample_rate: int
    resamples: int = 1000
    progress: ProgressFactory = silent
    whisper: str = WHISPER
    _warned: set[str] = field(default_factory=set)
    _judged: dict[tuple[str, int], tuple[Wave, Any]] = field(default_factory=dict)

    @cached_property
    def recogniser(self) -> Recogniser:
        with installed():
            return recogniser(self.whisper)

    @cached_property
    def encoder(self) -> SpeakerEncoder:
        with installed():
            return speaker_encoder()

    @cached_property
    def dnsmos(self) -> Scorer:
        with installed():
            return dnsmos()

    @cached_property
    def contour(self) -> f0.Tracker:
        with installed():
            return f0.tracker(self.sample_rate)

    def transcripts(self, column: str, waves: Sequence[Wave]) -> list[str]:
        """The words of each waveform."""
        transcribe = self.recogniser.transcribe
        return self._each(column, "words", waves, lambda wave: transcribe(wave, self.sample_rate))

    def voices(self, column: str, waves: Sequence[Wave]) -> list[Embedding]:
        """The embedding of each waveform, (256,)."""
        encoder = self.encoder
        return self._each(
            column, "voices", waves, lambda wave: encoder.embed(wave, self.sample_rate)
        )

    def scores(self, column: str, waves: Sequence[Wave]) -> list[float]:
        """DNSMOS of each waveform."""
        scorer = self.dnsmos
        return self._each(column, "naturalness", waves, lambda wave: scorer(wave, self.sample_rate))

    def contours(self, column: str, waves: Sequence[Wave]) -> list[f0.Contour]:
        """F0 and voicing of each waveform."""
        return self._each(column, "pitch", waves, self.contour)

    def _each(
        self, column: str, kind: str, waves: Sequence[Wave], judge: Callable[[Wave], T]
    ) -> list[T]:
        """The result of `judge` for each waveform, which is called once for each of them."""
        new = {id(wave): wave for wave in waves if (kind, id(wave)) not in self._judged}
        with self.progress(f"{column}: {kind}", len(new), "utterances") as advance:
            for place, wave in new.items():
                self._judged[kind, place] = (
                    wave,
                    judge(wave),
                )  # the waveform is kept, so that its id stays its own
                advance(1)
        return [self._judged[kind, id(wave)][1] for wave in waves]

    def words(
        self,
        result: Result,
        columns: Columns,
        texts: Sequence[str],
        *,
        key: str = "wer",
        title: str = "",
        clusters: Sequence[int] | None = None,
    ) -> None:
        """Word and character error rates against `texts`: sums of edits over sums of words."""
        wer, cer = recognition.word_error_rate, recognition.character_error_rate
        measures = (
            Measure(f"{key}.words", f"{title}word error rate", "%", "lower", wer, 100),
            Measure(f"{key}.characters", f"{title}character error rate", "%", "lower", cer, 100),
        )

        def sums(column: str, waves: Sequence[Wave]) -> Values:
            return recognition.error_sums(texts, self.transcripts(column, waves))

        note = (
            f"by {self.recogniser.name}"  # raises where there is none, before anything is generated
        )
        self.table(result, columns, measures, sums, note=note, clusters=clusters)

    def similarity(
        self,
        result: Result,
        columns: Columns,
        voices: Sequence[Embedding],
        others: Sequence[Embedding] = (),
    ) -> None:
        """Cosine of each waveform's embedding and its voice (`voices`; the floor's: `others`)."""
        _ = self.encoder
        measure = Measure(
            "similarity.voice", "similarity to the speaker's voice", "", "higher", ratio
        )

        def sums(column: str, waves: Sequence[Wave]) -> Values:
            wanted = others if column == "floor" else voices
            pairs = zip(self.voices(column, waves), wanted, strict=True)
            return with_ones(float(a @ b) for a, b in pairs)

        self.table(result, columns, (measure,), sums, note=BY_ENCODER)

    def naturalness(
        self,
        result: Result,
        columns: Columns,
        *,
        key: str = "mos.overall",
        title: str = "",
        clusters: Sequence[int] | None = None,
    ) -> None:
        """Mean DNSMOS."""
        _ = self.dnsmos
        measure = Measure(
            key, f"{title}predicted naturalness (DNSMOS, 1 to 5)", "", "higher", ratio
        )
        self.table(
            result,
            columns,
            (measure,),
            lambda column, waves: with_ones(self.scores(column, waves)),
            clusters=clusters,
        )

    def table(
        self,
        result: Result,
        columns: Columns,
        measures: Sequence[Measure],
        sums: Sums,
        *,
        note: str = "",
        clusters: Sequence[int] | None = None,
        what: Mapping[str, str] = WHAT,
    ) -> None:
        """Rows of figures, column by column; columns that an interrupted evaluation has written
        stay as they are.

        `clusters`: of each waveform; those of one are resampled together. `what`: of what a
        column's figures are.
        """
        rows = [(measure, result.restored(measure.key)) for measure in measures]
        for column, make in columns.items():
            if any(column not in figures for _, figures in rows):
                total = clustered(sums(column, make()), clusters)
                for measure, figures in rows:
                    figures[column] = self._figure(measure, total, what.get(column, ""))
            for measure, figures in rows:
                worse = losses(measure, figures)
                notes = "; ".join(filter(None, [note, *worse]))
                title, unit = measure.title, measure.unit
                result.add(measure.key, title, unit, measure.better, figures, note=notes)
                self.warn(title, worse)

    def _figure(self, measure: Measure, total: Values, what: str) -> MetricValue:
        estimate = bootstrap(total, measure.figure, resamples=self.resamples)
        return MetricValue.of(estimate, what, measure.scale)

    def warn(self, title: str, lines: Sequence[str]) -> None:
        """Each line is shown once."""
        for line in lines:
            if (text := f"{title}: {line}") not in self._warned:
                self._warned.add(text)
                warnings.warn(text, Note, stacklevel=3)


def losses(measure: Measure, figures: Mapping[str, MetricValue | None]) -> list[str]:
    """A line for each decoder that is worse than Griffin-Lim of its own frames."""
    reference = figures.get("frames")
    if reference is None or reference.value is None:
        return []
    sign, lines = (1 if measure.better == "higher" else -1), []
    for name in DECODERS:
        figure = figures.get(name)
        if (
            figure is None
            or figure.value is None
            or not sign * (figure.value - reference.value) < 0
        ):
            continue
        unit = f" {measure.unit}" if measure.unit else ""
        pair = f"{figure.value:.3g} against {reference.value:.3g}{unit}"
        lines.append(f"the {name}'s decoder loses to Griffin-Lim of its own frames, {pair}")
    return lines


def clustered(sums: Values, clusters: Sequence[int] | None) -> Values:
    """Sums (N, S) -> those of each cluster, (C, S)."""
    if clusters is None:
        return sums
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    total = np.zeros((len(names), sums.shape[1]))
    np.add.at(total, place, sums)
    return total


def with_ones(values: Iterable[float] | Values) -> Values:
    """Values (N,) and ones, (N, 2): the sums of a mean."""
    column = np.asarray(list(values), np.float64)
    return np.stack([column, np.ones(len(column))], 1)
