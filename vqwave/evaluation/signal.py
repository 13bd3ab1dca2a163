"""How near the sound of a copy is to the recording: spectra, melody, PESQ and STOI.

Ceiling: an 8-bit mu-law copy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.evaluation import panel as judges
from vqwave.evaluation.context import ONE, EvaluationContext
from vqwave.evaluation.judged import copies
from vqwave.evaluation.result import MetricValue, Result, Track
from vqwave.metrics.bootstrap import mean
from vqwave.metrics.f0 import STEP, contour_sums, speaker_centres
from vqwave.metrics.perceptual import Measure, defined, pesq_measure, stoi_measure
from vqwave.metrics.spectral import log_spectral_distance, mel_cepstral_distortion

Values = NDArray[np.float64]
TRACKS = 4  # utterances whose pitch is shown


def _copies(material: EvaluationContext, result: Result) -> dict[str, list[Wave]]:
    """What is held against the recordings, by column. 16-bit copies are the recordings themselves,
    as a corpus holds them.

    The floor needs a second utterance; a single one has none, as is said in the result.
    """
    material.need(material.copies, "the model says nothing again: it hears no codes and no frames")
    copies = {"ceiling": material.mu_law} | {
        system: material.reconstructed(system) for system in material.systems
    }
    return copies | ({"floor": material.shuffled("model")} if _has_floor(material, result) else {})


def _has_floor(material: EvaluationContext, result: Result) -> bool:
    """Whether codes can be shuffled; where there is no second utterance, the result says so."""
    if material.has_codes and not material.several:
        result.skipped[f"floor ({WHAT['floor']})"] = ONE
    return material.has_codes and material.several


WHAT = {"ceiling": "8-bit mu-law copy", "floor": "decoded from shuffled codes"}


def _compared(
    material: EvaluationContext, result: Result, measure: Callable[[Wave, Wave], float]
) -> dict[str, MetricValue | None]:
    found = {}
    for column, waves in _copies(material, result).items():
        with material.stage(f"{column}: comparing", len(waves), "utterances") as advance:
            values = []
            for recording, copy in zip(material.waves, waves, strict=True):
                values.append(measure(recording, copy))
                advance(1)
        found[column] = MetricValue.of(
            mean(np.array(values), resamples=material.settings.resamples), WHAT.get(column, "")
        )
    return found


def spectral(material: EvaluationContext, result: Result) -> None:
    """Mel-cepstral distortion after time warping, and log-spectral distance frame by frame."""
    rate = material.rate
    figures = _compared(material, result, lambda a, b: mel_cepstral_distortion(a, b, rate))
    result.add("spectral.mcd", "mel-cepstral distortion (DTW)", "dB", "lower", figures)
    figures = _compared(material, result, lambda a, b: log_spectral_distance(a, b, rate))
    result.add("spectral.lsd", "log-spectral distance", "dB", "lower", figures)


def pitch(material: EvaluationContext, result: Result) -> None:
    """F0 error, correlation and voicing error, frame by frame; some utterances' pitch tracks."""
    panel = material.panel
    _ = panel.contour  # raises where there is none, before anything is made
    columns = {name: make for name, make in copies(material).items() if name != "ceiling"}
    columns = {"ceiling": columns.pop("mu-law"), **columns}  # for F0 a copy is the ceiling
    if _has_floor(material, result):
        columns["floor"] = lambda: material.shuffled("model")
    recorded = panel.contours("recordings", material.waves)
    centres = speaker_centres(recorded, material.label("speaker"))

    def sums(column: str, waves: Sequence[Wave]) -> Values:
        made = panel.contours(column, waves)
        return np.stack([contour_sums(*each) for each in zip(recorded, made, centres, strict=True)])

    panel.table(result, columns, judges.MELODY, sums, what=judges.WHAT | WHAT)
    for i in range(0, len(material.rows), max(1, len(material.rows) // TRACKS)):
        made = {name: material.reconstructed(name) for name in material.systems}
        sources = {"recording": material.waves} | made
        curves = {}
        for name, waves in sources.items():
            log_f0, voiced = panel.contours(name, [waves[i]])[0]
            curves[name] = np.where(voiced, 100 * np.exp(log_f0), 0.0).round(1).tolist()
        result.tracks.append(Track(material.corpus.utterances[material.rows[i]].id, STEP, curves))


def perceptual(material: EvaluationContext, result: Result) -> None:
    """PESQ and STOI, where the rate, the length and what is installed allow."""
    for key, name, measure in (
        (
            "perceptual.pesq",
            f"PESQ ({'narrow' if material.rate == 8000 else 'wide'} band)",
            pesq_measure(material.rate),
        ),
        ("perceptual.stoi", "STOI", stoi_measure(material.rate)),
    ):
        if isinstance(measure, str):
            result.skipped[name] = measure
        else:
            _perceived(material, result, key, name, measure)


def _perceived(
    material: EvaluationContext, result: Result, key: str, name: str, measure: Measure
) -> None:
    figures: dict[str, MetricValue | None] = {}
    counts = []
    for column, waves in _copies(material, result).items():
        values = defined(measure, material.rate, material.waves, waves)
        there = values[np.isfinite(values)]
        counts.append(len(there))
        if len(there):
            figures[column] = MetricValue.of(
                mean(there, resamples=material.settings.resamples), WHAT.get(column, "")
            )
    if not figures:
        result.skipped[name] = (
            "not defined for any utterance: all are shorter than 0.4 s, or no speech was found in"
            " them"
        )
        return
    some = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    note = (
        f"defined for {some} of {len(material.rows)} utterances (the others are too short, or no"
        " speech is found in them)"
    )
    result.add(key, name, "", "higher", figures, note if min(counts) < len(material.rows) else "")
