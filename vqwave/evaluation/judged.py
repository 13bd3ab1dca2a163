"""Words, voices and naturalness of reconstructions and conversions, by pretrained models.

Words of complete utterances only: the text of one that was cut is longer than its recording.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.evaluation.baselines import converted_frames, own_frames, spectrum_of, true_frames
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.panel import BY_ENCODER, Columns, Measure, Values
from vqwave.evaluation.progress import NotApplicable
from vqwave.evaluation.result import Matrix, Result
from vqwave.metrics.bootstrap import ratio
from vqwave.metrics.f0 import Contour
from vqwave.metrics.recognition import normalise
from vqwave.speaker_encoder import Embedding, voice_of

SEMITONE = np.log(2) / 12
NO_COPIES = "the model makes no copies: it takes neither codes nor frames"
NO_TEXT = "no utterance that was read completely has a text"
NO_VOICE = "no speaker of the split has training recordings"


def copies(context: EvaluationContext) -> dict[str, Callable[[], Sequence[Wave]]]:
    """Columns: recordings, copies of them, Griffin-Lim of frames, reconstructions."""
    context.need(context.reconstructs, NO_COPIES)
    columns: dict[str, Callable[[], Sequence[Wave]]] = {
        "ceiling": lambda: context.waves,
        "mu-law": lambda: context.mu_law,
        "griffin-lim": lambda: true_frames(context),
    }
    if spectrum_of(context) is not None:
        columns["frames"] = lambda: own_frames(context)
    return columns | {
        system: partial(context.outputs.reconstructed, system) for system in context.systems
    }


def subset(columns: Columns, places: Sequence[int]) -> Columns:
    """Columns of some utterances, by their places."""

    def some(make: Callable[[], Sequence[Wave]]) -> list[Wave]:
        waves = make()
        return [waves[i] for i in places]

    return {name: partial(some, make) for name, make in columns.items()}


def words(context: EvaluationContext, result: Result) -> None:
    """WER and CER of reconstructions."""
    _ = context.panel.recogniser  # raises where there is none, before anything is generated
    places = with_text(context)
    context.need(places, NO_TEXT)
    texts = [context.corpus.utterances[context.rows[i]].text for i in places]
    context.panel.words(result, subset(copies(context), places), texts)


def similarity(context: EvaluationContext, result: Result) -> None:
    """Similarity of reconstructions to their speakers' voices; floor: recordings, another voice."""
    context.need_own_voices()
    voices, speakers = speaker_voices(context), context.label("speaker")
    places = [i for i, name in enumerate(speakers) if name in voices]
    context.need(places, NO_VOICE)
    columns = copies(context)
    others: list[Embedding] = []
    if len(voices) > 1:
        columns["floor"] = lambda: context.waves
        names = sorted(voices)
        others = [voices[names[names.index(speakers[i]) - 1]] for i in places]
    context.panel.similarity(
        result, subset(columns, places), [voices[speakers[i]] for i in places], others
    )


def naturalness(context: EvaluationContext, result: Result) -> None:
    """DNSMOS of reconstructions."""
    _ = context.panel.dnsmos
    context.panel.naturalness(result, copies(context))


def converted(context: EvaluationContext, result: Result) -> None:
    """Conversions: WER, similarity to target and source, the nearer one, median F0, DNSMOS."""
    context.need(context.has_codes, "the model has no codes to keep while the voice changes")
    context.need(context.speaker_conditioned, "the model is not conditioned on a speaker")
    context.need(context.pairs, "fewer than two speakers have enough training speech")
    for name, step in (
        ("words", _converted_words),
        ("voices", _converted_voices),
        ("F0", _converted_pitch),
        ("naturalness", _converted_naturalness),
    ):
        try:
            step(context, result)
        except NotApplicable as error:
            result.skip(f"conversions: {name}", str(error))


def _conversions(context: EvaluationContext) -> dict[str, Callable[[], Sequence[Wave]]]:
    """Columns of one waveform a conversion; the ceiling's are the recordings converted."""
    recordings = [i for i, _ in context.pairs]
    columns = dict(subset({"ceiling": lambda: context.waves}, recordings))
    if spectrum_of(context) is not None:
        columns["frames"] = lambda: converted_frames(context)

    def converted_by(system: str) -> list[Wave]:
        return [item.wave for item in context.outputs.converted(system)]

    return columns | {system: partial(converted_by, system) for system in context.systems}


def _converted_words(context: EvaluationContext, result: Result) -> None:
    _ = context.panel.recogniser
    complete, sources = set(with_text(context)), [i for i, _ in context.pairs]
    places = [n for n, i in enumerate(sources) if i in complete]
    context.need(places, NO_TEXT)
    kept = [sources[n] for n in places]
    texts = [context.corpus.utterances[context.rows[i]].text for i in kept]
    columns = subset(_conversions(context), places)
    context.panel.words(
        result, columns, texts, key="converted", title="conversions: ", clusters=kept
    )


def _of_known_speakers(
    context: EvaluationContext, known: Mapping[str, Any]
) -> tuple[list[int], list[int], NDArray[Any], NDArray[Any]]:
    """Of the conversions between speakers of whom something is known: their places, the
    utterances that are converted, and what is known of their speakers and of the targets.
    """
    speakers = context.label("speaker")
    pairs = [(speakers[i], to) for i, to in context.pairs]
    places = [n for n, pair in enumerate(pairs) if known.keys() >= set(pair)]
    context.need(places, NO_VOICE)
    sources = [context.pairs[n][0] for n in places]
    from_, to = (np.stack([known[pairs[n][end]] for n in places]) for end in (0, 1))
    return places, sources, from_, to


def _converted_voices(context: EvaluationContext, result: Result) -> None:
    """Ceiling: recordings, as if converted from the other voice; floor: not converted."""
    voices, speakers = speaker_voices(context), context.label("speaker")
    places, sources, from_, to = _of_known_speakers(context, voices)

    similar: dict[str, Values] = {}  # to the target, of each conversion

    def sums(column: str, waves: Sequence[Wave]) -> Values:
        target, source = (from_, to) if column == "ceiling" else (to, from_)
        voice = np.stack(context.panel.voices(column, waves))
        to_target, to_source = (voice * target).sum(1), (voice * source).sum(1)
        similar[column] = to_target
        return np.stack([to_target, to_source, to_target > to_source, np.ones(len(voice))], 1)

    def share(part: int) -> Callable[[Values], Values]:
        return lambda total: total[:, part] / total[:, 3]

    measures = (
        Measure(
            "converted.target", "conversions: similarity to the target", "", "higher", share(0)
        ),
        Measure("converted.source", "conversions: similarity to the source", "", "lower", share(1)),
        Measure(
            "converted.nearer", "conversions: nearer to the target", "%", "higher", share(2), 100
        ),
    )
    columns = dict(subset(_conversions(context), places))
    columns["floor"] = columns["ceiling"]
    context.panel.table(result, columns, measures, sums, note=BY_ENCODER, clusters=sources)
    pairs = [(speakers[i], target) for i, target in (context.pairs[n] for n in places)]
    for system in context.systems:
        if system in similar:
            result.matrices.append(_by_pair(system, pairs, similar[system]))


def _by_pair(system: str, pairs: Sequence[tuple[str, str]], similar: Values) -> Matrix:
    """Mean similarity to the target by source (rows) and target speaker (columns)."""
    sources, targets = (sorted(set(names)) for names in zip(*pairs, strict=True))
    values: dict[tuple[str, str], list[float]] = {}
    for pair, value in zip(pairs, similar.tolist(), strict=True):
        values.setdefault(pair, []).append(value)
    cells = [
        [float(np.mean(values[a, b])) if (a, b) in values else None for b in targets]
        for a in sources
    ]
    title = f"conversions, {system}: similarity to the target"
    key = f"converted.similarity.{system}"
    return Matrix(key, title, "from", "to", sources, targets, cells)


def _converted_pitch(context: EvaluationContext, result: Result) -> None:
    """How far the median F0 of each conversion lies from that of the target's recordings; an octave
    where no frame is voiced.
    """
    panel = context.panel
    median_f0 = {
        name: _median_f0(panel.contours("training", waves))
        for name, waves in context.voice_recordings.items()
    }
    median_f0 |= _stored_f0(context, set(context.targets) - set(median_f0))
    places, sources, from_, to = _of_known_speakers(context, median_f0)

    def sums(column: str, waves: Sequence[Wave]) -> Values:
        measured = np.array([_median_f0([contour]) for contour in panel.contours(column, waves)])
        error = np.abs(measured - (from_ if column == "ceiling" else to))
        return np.stack([np.nan_to_num(error, nan=12.0), np.ones_like(error)], 1)

    title = "conversions: median F0 off the target's"
    measure = Measure("converted.f0", title, "semitones", "lower", ratio)
    columns = dict(subset(_conversions(context), places))
    columns["floor"] = columns["ceiling"]
    panel.table(result, columns, (measure,), sums, clusters=sources)


def _converted_naturalness(context: EvaluationContext, result: Result) -> None:
    _ = context.panel.dnsmos
    sources = [i for i, _ in context.pairs]
    columns = _conversions(context)
    context.panel.naturalness(
        result, columns, key="converted.mos", title="conversions: ", clusters=sources
    )


def with_text(context: EvaluationContext) -> list[int]:
    """Places of the utterances that have a text and were not cut."""
    utterances = [context.corpus.utterances[row] for row in context.rows]
    return [
        i
        for i, (u, wave) in enumerate(zip(utterances, context.waves, strict=True))
        if normalise(u.text) and len(wave) == u.frames
    ]


def speaker_voices(context: EvaluationContext) -> dict[str, Embedding]:
    """The voice of each measured speaker and target that has training recordings.

    For unseen speakers also those of targets that the corpus has not, as the model has them.
    """
    voices = {
        name: voice_of(context.panel.voices("training", waves))
        for name, waves in context.voice_recordings.items()
    }
    known = context.codec.voices
    if context.unseen_speakers and known is not None:
        stored = {name: known.of(name) for name in set(context.targets) - set(voices)}
        voices |= {name: vector for name, vector in stored.items() if vector is not None}
    return voices


def _stored_f0(context: EvaluationContext, names: Collection[str]) -> dict[str, float]:
    """Mean F0 of voices of a model with melody, in semitones above 100 Hz."""
    melody, labels = context.codec.melody, context.codec.speakers
    if melody is None:
        return {}
    return {name: float(melody.voices[labels.index(name), 0]) / SEMITONE for name in names}


def _median_f0(contours: Sequence[Contour]) -> float:
    """Median of F0 over voiced frames, in semitones above 100 Hz; NaN where none is voiced."""
    voiced = np.concatenate([log_f0[there] for log_f0, there in contours])
    return float(np.median(voiced)) / SEMITONE if len(voiced) else float("nan")
