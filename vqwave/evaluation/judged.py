"""Words, voices and naturalness of reconstructions and conversions, by judges trained elsewhere.

Whole utterances only: the text of one that was cut is not what is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vqwave.audio import Wave
from vqwave.evaluation.baselines import converted_frames, frontend_of, own_frames, true_frames
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.panel import BY_ENCODER, Columns, Measure, Values
from vqwave.evaluation.result import Result
from vqwave.evaluation.stages import NotApplicable
from vqwave.metrics.bootstrap import ratio
from vqwave.metrics.f0 import Contour
from vqwave.metrics.speaker_similarity import Embedding, voice_of

SEMITONE = np.log(2) / 12


def copies(material: EvaluationContext) -> dict[str, Callable[[], Sequence[Wave]]]:
    """Columns: recordings, copies of them, Griffin-Lim of frames, what the model makes of each."""
    material.need(material.copies, "the model makes no copies: it takes neither codes nor frames")
    columns: dict[str, Callable[[], Sequence[Wave]]] = {
        "ceiling": lambda: material.waves,
        "mu-law": lambda: material.mu_law,
        "griffin-lim": lambda: true_frames(material),
    }
    if frontend_of(material) is not None:
        columns["frames"] = lambda: own_frames(material)
    return columns | {
        system: lambda system=system: material.reconstructed(system) for system in material.systems
    }


def of(places: Sequence[int], columns: Columns) -> Columns:
    """Columns of some utterances."""

    def some(make: Callable[[], Sequence[Wave]]) -> Callable[[], Sequence[Wave]]:
        def made() -> list[Wave]:
            waves = make()
            return [waves[i] for i in places]

        return made

    return {name: some(make) for name, make in columns.items()}


def words(material: EvaluationContext, result: Result) -> None:
    """WER and CER of reconstructions."""
    _ = material.panel.recogniser  # raises where there is none, before anything is made
    places = with_text(material)
    material.need(bool(places), "no utterance that was read whole has a text")
    texts = [material.corpus.utterances[material.rows[i]].text for i in places]
    material.panel.words(result, of(places, copies(material)), texts)


def similarity(material: EvaluationContext, result: Result) -> None:
    """Similarity of reconstructions to their speakers' voices; floor: recordings, another voice."""
    voices, speakers = speaker_voices(material), material.label("speaker")
    places = [i for i, name in enumerate(speakers) if name in voices]
    material.need(bool(places), "no speaker of the split has training recordings")
    columns, others = copies(material), []
    if len(voices) > 1:
        columns["floor"] = lambda: material.waves
        names = sorted(voices)
        others = [voices[names[names.index(speakers[i]) - 1]] for i in places]
    material.panel.similarity(
        result, of(places, columns), [voices[speakers[i]] for i in places], others
    )


def naturalness(material: EvaluationContext, result: Result) -> None:
    """DNSMOS of reconstructions."""
    _ = material.panel.dnsmos
    material.panel.naturalness(result, copies(material))


def converted(material: EvaluationContext, result: Result) -> None:
    """Conversions: WER, similarity to target and source, the nearer one, median F0, DNSMOS."""
    material.need(material.has_codes, "the model has no codes to keep while the voice changes")
    material.need(material.hears_speakers, "the model is not conditioned on a speaker")
    material.need(bool(material.pairs), "fewer than two speakers have enough training speech")
    for name, step in (
        ("words", _converted_words),
        ("voices", _converted_voices),
        ("F0", _converted_pitch),
        ("naturalness", _converted_naturalness),
    ):
        try:
            step(material, result)
        except NotApplicable as error:
            result.skipped[f"conversions: {name}"] = str(error)


def _conversions(material: EvaluationContext) -> dict[str, Callable[[], Sequence[Wave]]]:
    """Columns of one waveform a conversion; the ceiling's are the recordings converted."""
    recordings = [i for i, _ in material.pairs]
    columns = dict(of(recordings, {"ceiling": lambda: material.waves}))
    if frontend_of(material) is not None:
        columns["frames"] = lambda: converted_frames(material)
    return columns | {
        system: lambda system=system: [item.wave for item in material.converted(system)]
        for system in material.systems
    }


def _converted_words(material: EvaluationContext, result: Result) -> None:
    _ = material.panel.recogniser
    whole, sources = set(with_text(material)), [i for i, _ in material.pairs]
    places = [n for n, i in enumerate(sources) if i in whole]
    material.need(bool(places), "no utterance that was read whole has a text")
    kept = [sources[n] for n in places]
    texts = [material.corpus.utterances[material.rows[i]].text for i in kept]
    columns = of(places, _conversions(material))
    material.panel.words(
        result, columns, texts, key="converted", title="conversions: ", clusters=kept
    )


def _converted_voices(material: EvaluationContext, result: Result) -> None:
    """Ceiling: recordings, as if converted from the other voice; floor: not converted."""
    voices, speakers = speaker_voices(material), material.label("speaker")
    places = [n for n, (i, _) in enumerate(material.pairs) if speakers[i] in voices]
    material.need(bool(places), "no speaker of the split has training recordings")
    sources = [material.pairs[n][0] for n in places]
    from_ = np.stack([voices[speakers[i]] for i in sources])
    to = np.stack([voices[material.pairs[n][1]] for n in places])

    def sums(column: str, waves: Sequence[Wave]) -> Values:
        wanted, left = (from_, to) if column == "ceiling" else (to, from_)
        own = np.stack(material.panel.voices(column, waves))
        target, source = (own * wanted).sum(1), (own * left).sum(1)
        return np.stack([target, source, target > source, np.ones(len(own))], 1)

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
    columns = dict(of(places, _conversions(material)))
    columns["floor"] = columns["ceiling"]
    material.panel.table(result, columns, measures, sums, note=BY_ENCODER, clusters=sources)


def _converted_pitch(material: EvaluationContext, result: Result) -> None:
    """How far the median F0 of each conversion lies from that of the target's recordings."""
    panel, speakers = material.panel, material.label("speaker")
    heights = {
        name: _median_f0(panel.contours("training", waves))
        for name, waves in material.trained.items()
    }
    places = [n for n, (i, _) in enumerate(material.pairs) if speakers[i] in heights]
    sources = [material.pairs[n][0] for n in places]
    from_ = np.array([heights[speakers[i]] for i in sources])
    to = np.array([heights[material.pairs[n][1]] for n in places])

    def sums(column: str, waves: Sequence[Wave]) -> Values:
        found = np.array([_median_f0([contour]) for contour in panel.contours(column, waves)])
        off = np.abs(found - (from_ if column == "ceiling" else to))
        return np.stack([np.nan_to_num(off), np.isfinite(off)], 1)

    title = "conversions: median F0 off the target's"
    measure = Measure("converted.f0", title, "semitones", "lower", ratio)
    columns = dict(of(places, _conversions(material)))
    columns["floor"] = columns["ceiling"]
    panel.table(result, columns, (measure,), sums, clusters=sources)


def _converted_naturalness(material: EvaluationContext, result: Result) -> None:
    _ = material.panel.dnsmos
    sources = [i for i, _ in material.pairs]
    columns = _conversions(material)
    material.panel.naturalness(
        result, columns, key="converted.mos", title="conversions: ", clusters=sources
    )


def with_text(material: EvaluationContext) -> list[int]:
    """Places of the utterances that have a text and were not cut."""
    utterances = [material.corpus.utterances[row] for row in material.rows]
    return [
        i
        for i, (u, wave) in enumerate(zip(utterances, material.waves, strict=True))
        if u.text and len(wave) == u.frames
    ]


def speaker_voices(material: EvaluationContext) -> dict[str, Embedding]:
    """The voice of each measured speaker and target that has training recordings."""
    return {
        name: voice_of(material.panel.voices("training", waves))
        for name, waves in material.trained.items()
    }


def _median_f0(contours: Sequence[Contour]) -> float:
    """Median of F0 over voiced frames, in semitones above 100 Hz; NaN where none is voiced."""
    voiced = np.concatenate([log_f0[there] for log_f0, there in contours])
    return float(np.median(voiced)) / SEMITONE if len(voiced) else float("nan")
