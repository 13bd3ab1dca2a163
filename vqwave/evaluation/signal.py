"""Distances of copies from their recordings: spectra, melody, PESQ and STOI.

Ceiling: an 8-bit mu-law copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import UnavailableError
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.judged import NO_COPIES, copies
from vqwave.evaluation.panel import MELODY
from vqwave.evaluation.panel import WHAT as COLUMNS
from vqwave.evaluation.result import MetricValue, Result, Track
from vqwave.evaluation.utterances import ONE
from vqwave.metrics.bootstrap import mean
from vqwave.metrics.f0 import STEP, contour_sums, speaker_centres
from vqwave.metrics.perceptual import Measure, defined, pesq_measure, stoi_measure
from vqwave.metrics.spectral import log_spectral_distance, mel_cepstral_distortion

Values = NDArray[np.float64]
TRACKS = 4  # utterances whose pitch is shown


def _copies(context: EvaluationContext, result: Result) -> dict[str, list[Wave]]:
    """What is compared with the recordings, by column. 16-bit copies are the recordings
    themselves, as a corpus holds them.

    The floor needs a second utterance; without one it is skipped.
    """
    context.need(context.reconstructs, NO_COPIES)
    columns = {"ceiling": context.mu_law}
    columns |= {system: context.outputs.reconstructed(system) for system in context.systems}
    if _has_floor(context, result):
        columns["floor"] = context.outputs.shuffled("model")
    return columns


def _has_floor(context: EvaluationContext, result: Result) -> bool:
    """Whether codes can be shuffled; without a second utterance the floor is skipped."""
    if context.has_codes and not context.several:
        result.skip(f"floor ({WHAT['floor']})", ONE)
    return context.has_codes and context.several


WHAT = {"ceiling": "8-bit mu-law copy", "floor": "decoded from shuffled codes"}


def _compared(
    context: EvaluationContext, result: Result, measure: Callable[[Wave, Wave], float]
) -> dict[str, MetricValue | None]:
    figures: dict[str, MetricValue | None] = {}
    for column, waves in _copies(context, result).items():
        with context.progress(f"{column}: comparing", len(waves), "utterances") as advance:
            values = []
            for recording, copy in zip(context.waves, waves, strict=True):
                values.append(measure(recording, copy))
                advance(1)
        figures[column] = MetricValue.of(
            mean(np.array(values), resamples=context.settings.resamples), WHAT.get(column, "")
        )
    return figures


def spectral(context: EvaluationContext, result: Result) -> None:
    """Mel-cepstral distortion after time warping, and log-spectral distance frame by frame."""
    rate = context.rate
    figures = _compared(context, result, lambda a, b: mel_cepstral_distortion(a, b, rate))
    result.add("spectral.mcd", "mel-cepstral distortion (DTW)", "dB", "lower", figures)
    figures = _compared(context, result, lambda a, b: log_spectral_distance(a, b, rate))
    result.add("spectral.lsd", "log-spectral distance", "dB", "lower", figures)


def pitch(context: EvaluationContext, result: Result) -> None:
    """F0 error, correlation and voicing error, frame by frame; some utterances' pitch tracks."""
    panel = context.panel
    _ = panel.contour  # raises where there is none, before anything is generated
    columns = {name: make for name, make in copies(context).items() if name != "ceiling"}
    columns = {"ceiling": columns.pop("mu-law"), **columns}  # for F0 a copy is the ceiling
    if _has_floor(context, result):
        columns["floor"] = lambda: context.outputs.shuffled("model")
    recorded = panel.contours("recordings", context.waves)
    centres = speaker_centres(recorded, context.label("speaker"))

    def sums(column: str, waves: Sequence[Wave]) -> Values:
        contours = zip(recorded, panel.contours(column, waves), centres, strict=True)
        return np.stack([contour_sums(*each) for each in contours])

    panel.table(result, columns, MELODY, sums, what=COLUMNS | WHAT)
    for i in range(0, len(context.rows), max(1, len(context.rows) // TRACKS)):
        sources = {"recording": context.waves}
        sources |= {name: context.outputs.reconstructed(name) for name in context.systems}
        curves = {}
        for name, waves in sources.items():
            log_f0, voiced = panel.contours(name, [waves[i]])[0]
            curves[name] = np.where(voiced, 100 * np.exp(log_f0), 0.0).round(1).tolist()
        result.tracks.append(Track(context.corpus.utterances[context.rows[i]].id, STEP, curves))


def perceptual(context: EvaluationContext, result: Result) -> None:
    """PESQ and STOI, where the rate, the length and what is installed allow."""
    band = "narrow" if context.rate == 8000 else "wide"
    for key, name, measure_at, worst in (
        ("perceptual.pesq", f"PESQ ({band} band)", pesq_measure, 1.0),
        ("perceptual.stoi", "STOI", stoi_measure, 0.0),
    ):
        try:
            measure = measure_at(context.rate)
        except UnavailableError as error:
            result.skip(name, str(error))
        else:
            _add_perceptual(context, result, (key, name), measure, worst)


def _add_perceptual(
    context: EvaluationContext, result: Result, row: tuple[str, str], measure: Measure, worst: float
) -> None:
    """row: key and name."""
    key, name = row
    figures: dict[str, MetricValue | None] = {}
    counts = []
    for column, waves in _copies(context, result).items():
        values = defined(measure, worst, context.rate, context.waves, waves)
        there = values[np.isfinite(values)]
        counts.append(len(there))
        if len(there):
            figures[column] = MetricValue.of(
                mean(there, resamples=context.settings.resamples), WHAT.get(column, "")
            )
    if not figures:
        why = "all are shorter than 0.4 s, or no speech was detected in them"
        result.skip(name, f"not defined for any utterance: {why}")
        return
    some = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    note = (
        f"defined for {some} of {len(context.rows)} utterances (the others are too short, or no"
        " speech is detected in them)"
    )
    note = note if min(counts) < len(context.rows) else ""
    result.add(key, name, "", "higher", figures, note=note)
