"""What can be told from codes, latents and audio: ABX, and probes of words and speakers trained on
real training recordings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqwave.audio import Wave
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.result import MetricValue, Result
from vqwave.metrics.abx import ABX, token_distances
from vqwave.metrics.abx import abx as abx_errors
from vqwave.metrics.bootstrap import Estimate, mean
from vqwave.metrics.linear import LinearProbe, cepstra, time_statistics
from vqwave.metrics.probes import Probe, probe_accuracy

SILENCES = frozenset({"", "_", "sil", "sp", "spn", "pau", "SIL", "SP"})
PER_CELL, TOKENS = 4, 800  # tokens of one label by one speaker, and in all
PROBED = 1500  # training utterances of a probe
NAMES = {"text": "words", "speaker": "speakers"}


def abx(material: EvaluationContext, result: Result) -> None:
    """ABX within and across speakers, on z_e and on the codes' vectors: of aligned phones, else of
    whole words.
    """
    material.need(material.has_codes, "the model has no codes")
    corpus = material.corpus
    aligned = all(corpus.utterances[row].phones for row in material.rows)
    material.need(
        aligned or "text" in corpus.labels,
        "the corpus has neither aligned phones nor few words that are said again",
    )
    tokens = _tokens(material, aligned)
    kind = "phones" if aligned else "words"
    material.need(
        len({label for _, label, _ in tokens}) > 1, f"the utterances hold less than two {kind}"
    )
    labels, speakers = (
        [label for _, label, _ in tokens],
        [material.label("speaker")[i] for i, _, _ in tokens],
    )
    found: dict[str, ABX] = {}
    with material.stage("ABX", 3, "representations") as advance:
        for name, frames in (("z_e", _latents), ("codes", _quantized), ("cepstra", _cepstra)):
            whole = [frames(material, i) for i in range(len(material.rows))]
            cut = [
                _cut(whole[i], stretch, len(material.waves[i]) / material.rate)
                for i, _, stretch in tokens
            ]
            found[name] = abx_errors(
                token_distances(cut),
                labels,
                speakers,
                resamples=min(300, material.settings.resamples),
            )
            advance(1)
    for name, title in (("z_e", "on z_e"), ("codes", "on codes")):
        for side in ("within", "across"):
            error: Estimate | None = getattr(found[name], side)
            beside: Estimate | None = getattr(found["cepstra"], side)
            if error is None:
                result.skipped[f"ABX {side} speakers"] = (
                    "no triple: too few utterances of one word by one speaker"
                )
                continue
            figures = {
                "ceiling": MetricValue.of(beside, "MFCC of the recordings", 100)
                if beside
                else None,
                "model": MetricValue.of(error, scale=100),
                "floor": MetricValue(50.0, what="chance"),
            }
            measure = f"ABX error of {kind} {title}, {side} speakers"
            result.add(f"abx.{name}.{side}", measure, "%", "lower", figures)


def _tokens(
    material: EvaluationContext, aligned: bool
) -> list[tuple[int, str, tuple[float, float]]]:
    """(utterance, label, its stretch in seconds); a fixed random choice where there are more than
    enough.
    """
    found = []
    for i, (row, wave) in enumerate(zip(material.rows, material.waves, strict=True)):
        u, rate = material.corpus.utterances[row], material.rate
        if not aligned:
            found.append((i, u.labels["text"], (0.0, len(wave) / rate)))
            continue
        ends = [start for start, _ in u.phones[1:]] + [u.frames]
        for (start, label), end in zip(u.phones, ends, strict=True):
            if label not in SILENCES and end <= len(wave) and end > start:
                found.append((i, label, (start / rate, end / rate)))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    kept, cells, speakers = [], Counter(), material.label("speaker")
    for place in order:
        cell = (found[place][1], speakers[found[place][0]])
        if cells[cell] < (PER_CELL if aligned else len(found)) and len(kept) < TOKENS:
            cells[cell] += 1
            kept.append(found[place])
    return kept


def _cut(frames: np.ndarray, stretch: tuple[float, float], seconds: float) -> np.ndarray:
    """Frames (F, D) of `seconds` -> those whose middles lie in a stretch (in seconds), at least
    one.
    """
    middles = (np.arange(len(frames)) + 0.5) * seconds / len(frames)
    inside = np.flatnonzero((middles >= stretch[0]) & (middles < stretch[1]))
    nearest = np.abs(middles - sum(stretch) / 2).argmin()
    return frames[inside if len(inside) else [nearest]]


def _latents(material: EvaluationContext, i: int) -> np.ndarray:
    """z_e (F, D)."""
    model, wave = (
        material.codec.model,
        torch.from_numpy(material.waves[i]).to(material.codec.device),
    )
    with torch.inference_mode():
        return (
            model.encoder(F.pad(wave, (0, -len(wave) % model.hop))[None])[0]
            .T.double()
            .cpu()
            .numpy()
        )


def _quantized(material: EvaluationContext, i: int) -> np.ndarray:
    """The codes' vectors (F, D)."""
    return _embedded(material, material.coded[i].codes).T.double().numpy()


def _cepstra(material: EvaluationContext, i: int) -> np.ndarray:
    return cepstra([material.waves[i]], material.rate)[0].T.double().numpy()


def _embedded(material: EvaluationContext, codes: Tensor) -> Tensor:
    with torch.inference_mode():
        return material.codec.model.quantizer.decode(codes[None].to(material.codec.device))[0].cpu()


def probes(material: EvaluationContext, result: Result) -> None:
    """Words and speakers, by a linear probe and a small network on codes, and by a linear probe on
    audio.
    """
    rows = material.corpus.of("train")
    rows = [
        rows[i]
        for i in torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[
            :PROBED
        ].tolist()
    ]
    labels = [name for name in ("text", "speaker") if len(material.corpus.labels.get(name, [])) > 1]
    material.need(
        bool(labels), "the corpus has neither words that are said again nor several speakers"
    )
    heard = [
        material.corpus.read(row, 0, round(material.settings.seconds * material.rate))
        for row in rows
    ]
    with material.stage("cepstra of training recordings", 1, "corpus") as advance:
        spectra = cepstra(heard, material.rate)
        advance(1)
    vectors = _training_vectors(material, heard) if material.has_codes else []
    for label in labels:
        _probe(material, result, label, rows, spectra, vectors)


def _training_vectors(material: EvaluationContext, heard: Sequence[Wave]) -> list[Tensor]:
    found = []
    with material.stage("encoding training recordings", len(heard), "utterances") as advance:
        for wave in heard:
            found.append(_embedded(material, material.codec.codes_of(torch.from_numpy(wave))))
            advance(1)
    return found


def _probe(
    material: EvaluationContext,
    result: Result,
    label: str,
    rows: Sequence[int],
    spectra: Sequence[Tensor],
    vectors: Sequence[Tensor],
) -> None:
    values, name = material.corpus.labels[label], NAMES[label]
    train = torch.tensor(
        [values.index(material.corpus.utterances[row].labels[label]) for row in rows]
    )
    seen = set(train.tolist())
    places = [i for i, value in enumerate(material.label(label)) if values.index(value) in seen]
    if not places:
        result.skipped[f"probes of {name}"] = (
            f"no {label} of the split is in the training recordings"
        )
        return
    test = torch.tensor([values.index(material.label(label)[i]) for i in places])
    floor = MetricValue(
        100 * float((test == torch.bincount(train).argmax()).float().mean()),
        count=len(test),
        what="chance",
    )

    def linear(fitted_on: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], np.ndarray]:
        probe = LinearProbe(time_statistics(fitted_on), train, len(values))
        return lambda frames: probe.named(time_statistics(frames)) == test.numpy()

    on_audio = linear(spectra)
    audio: dict[str, MetricValue | None] = {"floor": floor}
    sources = {"ceiling": material.waves, "mu-law": material.mu_law}
    if material.copies:
        sources |= {system: material.reconstructed(system) for system in material.systems}
    for column, waves in sources.items():
        audio[column] = _rate(
            material, on_audio(cepstra([waves[i] for i in places], material.rate)), column
        )
    result.add(
        f"probes.{name}.audio.linear", f"{name}, linear probe on audio", "%", "higher", audio
    )
    if not vectors:
        return
    better, own = (
        "higher" if label == "text" else "lower",
        [_embedded(material, material.coded[i].codes) for i in places],
    )
    recorded = cepstra([material.waves[i] for i in places], material.rate)
    with material.stage(f"probes of {name}", 2, "networks") as advance:
        networks: list[Probe] = []
        for fitted_on, tested_on in ((vectors, own), (spectra, recorded)):
            networks.append(probe_accuracy(fitted_on, train, tested_on, test))
            advance(1)
    for kind, model, ceiling in (
        ("linear", linear(vectors)(own), on_audio(recorded)),
        ("network", *(np.array(probe.right) for probe in networks)),
    ):
        figures = {
            "ceiling": _rate(
                material, ceiling, "ceiling", "the same probe on MFCC of the recordings"
            ),
            "model": _rate(material, model, ""),
            "floor": floor,
        }
        what = "linear probe" if kind == "linear" else "CNN probe"
        result.add(f"probes.{name}.codes.{kind}", f"{name}, {what} on codes", "%", better, figures)


def _rate(
    material: EvaluationContext, right: np.ndarray, column: str, what: str = "recordings"
) -> MetricValue:
    estimate = mean(right.astype(np.float64), resamples=material.settings.resamples)
    return MetricValue.of(estimate, what if column == "ceiling" else "", 100)
