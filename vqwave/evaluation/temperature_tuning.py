"""The temperatures that suit a model best, by its copies of held-out recordings: coordinate descent
on a small grid. And the strength of its post-filter, which has a grid of its own.

The score of a trial is a sum of terms, lower is better. By judges trained elsewhere (extra
`judges`): WER + (1 - similarity to the speaker's voice) + (5 - DNSMOS) / 5. Where one of them is
missing: log-spectral distance / 10 dB. To either, for the melody: voicing error + (1 - F0
correlation), by SwiftF0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from vqwave import pitch_tracking
from vqwave.audio import Wave
from vqwave.decode.postfilter import conditioning_spectrum
from vqwave.decode.sampling import Sampling, Temperatures
from vqwave.errors import Note
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.judged import NO_COPIES, NO_TEXT, NO_VOICE, speaker_voices, with_text
from vqwave.evaluation.progress import NotApplicable
from vqwave.metrics import f0, recognition
from vqwave.metrics.spectral import log_spectral_distance

Terms = Mapping[str, float]
Scorer = Callable[[Sequence[Wave]], Terms]
"""Copies of the measured recordings, in their order -> the terms of their score."""

EQUAL = (0.6, 0.7, 0.8, 0.9, 1.0)  # one number for all parts, from which the descent begins
GRID = {
    "choice": (0.7, 0.8, 0.9, 1.0),
    "scale": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
    "voiced": (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROUNDS = 2  # over all parts, at the most
STEP = 0.01  # seconds from frame to frame of F0
NO_POSTFILTER = "it has no post-filter: it is not conditioned on predicted log-mel frames"


class Strength(NamedTuple):
    """Of the post-filter."""

    postfilter: float

    def __str__(self) -> str:
        return f"{self.postfilter:g}"


@dataclass(frozen=True)
class Trial:
    """Settings and the terms of their score."""

    settings: Temperatures | Strength
    terms: Terms

    @property
    def about(self) -> Mapping[str, object]:
        """Its settings as a model's card has them."""
        entries = self.settings._asdict()
        return {"temperature": entries} if isinstance(self.settings, Temperatures) else entries

    @property
    def score(self) -> float:
        """The sum of the terms; infinite where one is not defined."""
        total = sum(self.terms.values())
        return math.inf if math.isnan(total) else total


def tied(temperatures: Temperatures, parts: Sequence[str]) -> Temperatures:
    """With what does not matter as what does."""
    choice, scale, voiced = temperatures
    scale = scale if "scale" in parts else choice
    choice = choice if "choice" in parts else scale
    return Temperatures(choice, scale, voiced if "voiced" in parts else scale)


def search(
    score: Callable[[Temperatures], Terms],
    parts: Sequence[str],
    report: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """All trials, the best one first: equal temperatures, then each part in turn, its neighbours
    fixed.

    report: called with each trial as it ends. Of equal scores the one that was tried first wins.
    """
    trials: dict[Temperatures, Trial] = {}

    def best_of(candidates: Iterable[Temperatures]) -> Temperatures:
        candidates = list(candidates)
        for each in candidates:
            if each not in trials:
                trials[each] = Trial(each, score(each))
                report(trials[each])
        return min(candidates, key=lambda each: trials[each].score)

    best = best_of(Temperatures(value, value, value) for value in EQUAL)
    for _ in range(ROUNDS):
        before = best
        for part in parts:
            others = (tied(best._replace(**{part: value}), parts) for value in GRID[part])
            best = best_of([best, *others])
        if best == before:
            break
    return [trials.pop(best), *sorted(trials.values(), key=lambda trial: trial.score)]


def tune(
    context: EvaluationContext,
    scorer: Scorer,
    report: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """`search` by the model's own copies of the recordings, each trial by the same random
    numbers.
    """
    own = _settings(context)

    def score(temperatures: Temperatures) -> Terms:
        choice, scale, voiced = temperatures
        sampling = replace(
            own, temperature=choice, scale_temperature=scale, voiced_temperature=voiced
        )
        return scorer(_sampled(context, sampling))

    return search(score, context.codec.decoder.temperature_parts, report)


def tune_postfilter(
    context: EvaluationContext,
    scorer: Scorer,
    report: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """All strengths of `STRENGTHS`, the best first, at the model's own temperatures; of equal
    scores the least.
    """
    context.need(conditioning_spectrum(context.codec.kind.codec) is not None, NO_POSTFILTER)
    own, trials = _settings(context), list[Trial]()
    for strength in STRENGTHS:
        terms = scorer(_sampled(context, replace(own, postfilter=strength)))
        trials.append(Trial(Strength(strength), terms))
        report(trials[-1])
    return sorted(trials, key=lambda trial: trial.score)


def _settings(context: EvaluationContext) -> Sampling:
    """Those of all trials, whose recordings are read and coded once."""
    context.need(context.reconstructs, NO_COPIES)
    _ = context.waves, context.coded if context.has_codes else None
    return context.settings.sampling


def _sampled(context: EvaluationContext, sampling: Sampling) -> list[Wave]:
    """The model's copies by other settings, which are not kept."""
    return context.outputs.with_sampling(sampling).reconstructed("model")


def scorer_of(context: EvaluationContext) -> Scorer:
    """Judges trained elsewhere, where all are installed and applicable; else, with a `Note`,
    spectra and melody.
    """
    melody = _by_melody(context)
    try:
        sound = _by_judges(context)
    except NotApplicable as error:
        note = f"{error}; temperatures are chosen by spectra and melody"
        warnings.warn(note, Note, stacklevel=2)
        sound = _by_spectra(context)
    return lambda waves: {**sound(waves), **melody(waves)}


def _by_judges(context: EvaluationContext) -> Scorer:
    panel, speakers = context.panel, context.label("speaker")
    _ = panel.recogniser, panel.encoder, panel.dnsmos  # raise where they are missing
    places = with_text(context)
    context.need(places, NO_TEXT)
    texts = [context.corpus.utterances[context.rows[i]].text for i in places]
    voices = speaker_voices(context)
    known = [i for i, name in enumerate(speakers) if name in voices]
    context.need(known, NO_VOICE)

    def score(waves: Sequence[Wave]) -> Terms:
        predicted = panel.transcripts("model", [waves[i] for i in places])
        sums = recognition.error_sums(texts, predicted)
        embedded = panel.voices("model", [waves[i] for i in known])
        wanted = [voices[speakers[i]] for i in known]
        similarity = np.mean([a @ b for a, b in zip(embedded, wanted, strict=True)])
        return {
            "WER": float(recognition.word_error_rate(sums.sum(0, keepdims=True))[0]),
            "1 - similarity": 1 - float(similarity),
            "(5 - MOS) / 5": (5 - float(np.mean(panel.scores("model", waves)))) / 5,
        }

    return score


def _by_spectra(context: EvaluationContext) -> Scorer:
    def score(waves: Sequence[Wave]) -> Terms:
        pairs = zip(context.waves, waves, strict=True)
        distance = np.mean([log_spectral_distance(a, b, context.rate) for a, b in pairs])
        return {"LSD / 10 dB": float(distance) / 10}

    return score


def _by_melody(context: EvaluationContext) -> Scorer:
    rate = context.rate

    def contour(wave: Wave) -> f0.Contour:
        f0 = pitch_tracking.track(wave, rate, round(STEP * rate)).astype(np.float64)
        return np.log(np.where(f0 > 0, f0, 100.0) / 100.0), f0 > 0

    contours = [contour(wave) for wave in context.waves]
    centres = f0.speaker_centres(contours, context.label("speaker"))

    def score(waves: Sequence[Wave]) -> Terms:
        melodies = zip(contours, map(contour, waves), centres, strict=True)
        sums = np.sum([f0.contour_sums(*each) for each in melodies], 0, keepdims=True)
        with np.errstate(invalid="ignore"):
            correlation = np.nan_to_num(f0.f0_correlation(sums)[0])  # none without voiced frames
        return {
            "voicing error": float(f0.voicing_error(sums)[0]),
            "1 - F0 correlation": 1 - float(correlation),
        }

    return score


def table(trials: Sequence[Trial]) -> str:
    """One line a trial, the best first."""
    return "\n".join([heading(trials[0]), *map(line, trials)])


def heading(trial: Trial) -> str:
    """The names of a `line`'s columns."""
    return "  ".join([*trial.settings._fields, "score", *trial.terms])


def line(trial: Trial) -> str:
    """Settings, score and terms of one trial."""
    names, terms = trial.settings._fields, trial.terms.items()
    settings = [f"{value:{len(name)}g}" for name, value in zip(names, trial.settings, strict=True)]
    numbers = [f"{value:{len(name)}.3f}" for name, value in terms]
    return "  ".join([*settings, f"{trial.score:.3f}", *numbers])
