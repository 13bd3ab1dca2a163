"""The information in codes, latents and audio: ABX, and probes of words and speakers, which are
trained on the corpus's training recordings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vqwave.audio import Wave
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.result import Better, MetricValue, Result
from vqwave.metrics.abx import ABX, token_distances
from vqwave.metrics.abx import abx as abx_errors
from vqwave.metrics.bootstrap import Estimate, mean
from vqwave.metrics.linear import LinearProbe, cepstra, time_statistics
from vqwave.metrics.probes import Probe, probe_accuracy

Frames = NDArray[np.floating]
Correct = NDArray[np.generic]

SILENCES = frozenset({"", "_", "sil", "sp", "spn", "pau", "SIL", "SP"})
PER_CELL, TOKENS = 4, 800  # tokens of one label by one speaker, and in all
PROBED = 1500  # training utterances of a probe
NAMES = {"text": "words", "speaker": "speakers"}


@dataclass(frozen=True)
class _Token:
    """An utterance's place, the label of a part of it, and that part in seconds."""

    utterance: int
    label: str
    span: tuple[float, float]


def abx(context: EvaluationContext, result: Result) -> None:
    """ABX within and across speakers, on z_e and on the codes' vectors: of aligned phones, else of
    complete words.

    Reference: Schatz et al., 2013, "Evaluating speech features with the minimal-pair ABX task".
    """
    context.need(context.has_codes, "the model has no codes")
    corpus = context.corpus
    aligned = all(corpus.utterances[row].phones for row in context.rows)
    context.need(
        aligned or "text" in corpus.labels,
        "the corpus has neither aligned phones nor few words that are said again",
    )
    tokens = _tokens(context, aligned=aligned)
    kind = "phones" if aligned else "words"
    context.need(
        len({token.label for token in tokens}) > 1, f"the utterances hold less than two {kind}"
    )
    errors = _abx_errors(context, tokens)
    for name, title in (("z_e", "on z_e"), ("codes", "on codes")):
        for side in ("within", "across"):
            error: Estimate | None = getattr(errors[name], side)
            reference: Estimate | None = getattr(errors["cepstra"], side)
            if error is None:
                why = "no triple: too few utterances of one word by one speaker"
                result.skip(f"ABX {side} speakers", why)
                continue
            figures = {
                "ceiling": MetricValue.of(reference, "MFCC of the recordings", 100)
                if reference
                else None,
                "model": MetricValue.of(error, scale=100),
                "floor": MetricValue(50.0, what="chance"),
            }
            measure = f"ABX error of {kind} {title}, {side} speakers"
            result.add(f"abx.{name}.{side}", measure, "%", "lower", figures)


def _abx_errors(context: EvaluationContext, tokens: Sequence[_Token]) -> dict[str, ABX]:
    """By representation."""
    labels, by = [token.label for token in tokens], context.label("speaker")
    speakers, errors = [by[token.utterance] for token in tokens], {}
    resamples = min(300, context.settings.resamples)
    with context.progress("ABX", 3, "representations") as advance:
        for name, frames in (("z_e", _latents), ("codes", _quantized), ("cepstra", _cepstra)):
            utterances = [frames(context, i) for i in range(len(context.rows))]
            cut = [
                _frames_within(
                    utterances[token.utterance],
                    token.span,
                    len(context.waves[token.utterance]) / context.rate,
                )
                for token in tokens
            ]
            errors[name] = abx_errors(token_distances(cut), labels, speakers, resamples=resamples)
            advance(1)
    return errors


def _tokens(context: EvaluationContext, *, aligned: bool) -> list[_Token]:
    """At most `TOKENS`, of phones at most `PER_CELL` a label and speaker: a fixed random choice."""
    every = []
    for i, (row, wave) in enumerate(zip(context.rows, context.waves, strict=True)):
        u, rate = context.corpus.utterances[row], context.rate
        if not aligned:
            every.append(_Token(i, u.labels["text"], (0.0, len(wave) / rate)))
            continue
        ends = [start for start, _ in u.phones[1:]] + [u.frames]
        for (start, label), end in zip(u.phones, ends, strict=True):
            if label not in SILENCES and end <= len(wave) and end > start:
                every.append(_Token(i, label, (start / rate, end / rate)))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    speakers = context.label("speaker")
    kept: list[_Token] = []
    cells: Counter[tuple[str, str]] = Counter()
    for token in (every[place] for place in order):
        cell = (token.label, speakers[token.utterance])
        if cells[cell] < (PER_CELL if aligned else len(every)) and len(kept) < TOKENS:
            cells[cell] += 1
            kept.append(token)
    return kept


def _frames_within(frames: Frames, span: tuple[float, float], seconds: float) -> Frames:
    """Frames (F, D) of `seconds` -> those whose middles are in a span in seconds, at least one."""
    middles = (np.arange(len(frames)) + 0.5) * seconds / len(frames)
    inside = np.flatnonzero((middles >= span[0]) & (middles < span[1]))
    nearest = np.abs(middles - sum(span) / 2).argmin()
    return frames[inside if len(inside) else [nearest]]


@torch.inference_mode()
def _latents(context: EvaluationContext, i: int) -> Frames:
    """z_e (F, D)."""
    model = context.vqvae
    wave = torch.from_numpy(context.waves[i]).to(context.codec.device)
    padded = F.pad(wave, (0, -len(wave) % model.hop))
    return model.encoder(padded[None])[0].T.double().cpu().numpy()


def _quantized(context: EvaluationContext, i: int) -> Frames:
    """The codes' vectors (F, D)."""
    return _embedded(context, context.coded[i].codes).T.double().numpy()


def _cepstra(context: EvaluationContext, i: int) -> Frames:
    return cepstra([context.waves[i]], context.rate)[0].T.double().numpy()


def _embedded(context: EvaluationContext, codes: Tensor) -> Tensor:
    with torch.inference_mode():
        return context.vqvae.quantizer.decode(codes[None].to(context.codec.device))[0].cpu()


@dataclass(frozen=True)
class _TrainingSet:
    """Training utterances (rows of the corpus), their cepstra, and their codes' vectors, none of a
    model without codes.
    """

    rows: list[int]
    cepstra: list[Tensor]
    vectors: list[Tensor]


@dataclass(frozen=True)
class _Task:
    """A label to be predicted: how many values it has, those of the training and of the test
    utterances, and the places of the latter.
    """

    label: str
    classes: int
    train: Tensor
    test: Tensor
    places: list[int]

    @property
    def name(self) -> str:
        return NAMES[self.label]

    @property
    def chance(self) -> MetricValue:
        """Accuracy of the most frequent training value, in per cent."""
        right = float((self.test == torch.bincount(self.train).argmax()).float().mean())
        return MetricValue(100 * right, count=len(self.test), what="chance")

    def linear(self, train: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Correct]:
        """A linear probe on frames of the training utterances -> whether it is right about those
        of the test utterances.
        """
        probe = LinearProbe(time_statistics(train), self.train, self.classes)
        return lambda frames: probe.named(time_statistics(frames)) == self.test.numpy()


def probes(context: EvaluationContext, result: Result) -> None:
    """Words and speakers, by a linear probe and a small network on codes, and by a linear probe on
    audio.
    """
    labels = [name for name in NAMES if len(context.corpus.labels.get(name, [])) > 1]
    context.need(labels, "the corpus has neither words that are said again nor several speakers")
    train = _training_set(context)
    for label in labels:
        task = _task(context, label, train.rows)
        if task is None:
            why = f"no {label} of the split is in the training recordings"
            result.skip(f"probes of {NAMES[label]}", why)
            continue
        on_audio = task.linear(train.cepstra)
        _probe_audio(context, result, task, on_audio)
        if train.vectors:
            _probe_codes(context, result, task, train, on_audio)


def _training_set(context: EvaluationContext) -> _TrainingSet:
    rows = context.training
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:PROBED].tolist()
    rows = [rows[i] for i in order]
    waves = [context.read(row) for row in rows]
    with context.progress("cepstra of training recordings", 1, "corpus") as advance:
        spectra = cepstra(waves, context.rate)
        advance(1)
    return _TrainingSet(rows, spectra, _encoded(context, waves) if context.has_codes else [])


def _encoded(context: EvaluationContext, waves: Sequence[Wave]) -> list[Tensor]:
    """The codes' vectors of each."""
    result = []
    with context.progress("encoding training recordings", len(waves), "utterances") as advance:
        for wave in waves:
            result.append(_embedded(context, context.codec.codes_of(torch.from_numpy(wave))))
            advance(1)
    return result


def _task(context: EvaluationContext, label: str, rows: Sequence[int]) -> _Task | None:
    """None where no test utterance has a value that training utterances have."""
    values, own = context.corpus.labels[label], context.label(label)
    train = torch.tensor(
        [values.index(context.corpus.utterances[row].labels[label]) for row in rows]
    )
    known = set(train.tolist())
    places = [i for i, value in enumerate(own) if values.index(value) in known]
    if not places:
        return None
    test = torch.tensor([values.index(own[i]) for i in places])
    return _Task(label, len(values), train, test, places)


def _probe_audio(
    context: EvaluationContext,
    result: Result,
    task: _Task,
    on_audio: Callable[[Sequence[Tensor]], Correct],
) -> None:
    """Recordings, copies and reconstructions, by a probe of recordings' cepstra."""
    figures: dict[str, MetricValue | None] = {"floor": task.chance}
    sources: Mapping[str, Sequence[Wave]] = {"ceiling": context.waves, "mu-law": context.mu_law}
    if context.reconstructs:
        outputs = {system: context.outputs.reconstructed(system) for system in context.systems}
        sources = {**sources, **outputs}
    for column, waves in sources.items():
        right = on_audio(cepstra([waves[i] for i in task.places], context.rate))
        figures[column] = _accuracy(context, right, "recordings" if column == "ceiling" else "")
    title = f"{task.name}, linear probe on audio"
    result.add(f"probes.{task.name}.audio.linear", title, "%", "higher", figures)


def _probe_codes(
    context: EvaluationContext,
    result: Result,
    task: _Task,
    train: _TrainingSet,
    on_audio: Callable[[Sequence[Tensor]], Correct],
) -> None:
    """Codes, by a linear probe and a network; the ceiling is the same probe of recordings."""
    own = [_embedded(context, context.coded[i].codes) for i in task.places]
    recorded = cepstra([context.waves[i] for i in task.places], context.rate)
    with context.progress(f"probes of {task.name}", 2, "networks") as advance:
        networks: list[Probe] = []
        for fitted_on, tested_on in ((train.vectors, own), (train.cepstra, recorded)):
            networks.append(probe_accuracy(fitted_on, task.train, tested_on, task.test))
            advance(1)
    model, ceiling = (np.array(probe.right) for probe in networks)
    better: Better = "higher" if task.label == "text" else "lower"
    for kind, what, codes, audio in (
        ("linear", "linear probe", task.linear(train.vectors)(own), on_audio(recorded)),
        ("network", "CNN probe", model, ceiling),
    ):
        figures: dict[str, MetricValue | None] = {
            "ceiling": _accuracy(context, audio, "the same probe on MFCC of the recordings"),
            "model": _accuracy(context, codes),
            "floor": task.chance,
        }
        title = f"{task.name}, {what} on codes"
        result.add(f"probes.{task.name}.codes.{kind}", title, "%", better, figures)


def _accuracy(context: EvaluationContext, right: Correct, what: str = "") -> MetricValue:
    estimate = mean(right.astype(np.float64), resamples=context.settings.resamples)
    return MetricValue.of(estimate, what, 100)
