"""Words and speakers that a recognizer, trained on real recordings, predicts from generated speech:
reconstructions, conversions, samples of a WaveNet and of a prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.codes import CodeSequence
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.outputs import Conversion
from vqwave.evaluation.progress import NotApplicable
from vqwave.evaluation.result import Better, Matrix, MetricValue, Result, confusion
from vqwave.inference.code_prior import CodePrior
from vqwave.metrics.bootstrap import mean

Places = NDArray[np.int64]  # of values in a list of them
Correct = NDArray[np.bool_]
Figures = dict[str, MetricValue | None]

NAMES = {"text": "words", "speaker": "speakers"}
LONGEST_WORD = 3.0  # seconds after which the word of a prior without a longest is cut
BABBLE_SECONDS, BABBLES = 3.0, 4  # of speech that a WaveNet samples, for each speaker
NO_WORDS = "the corpus has no few words that are said again and again"


def words(context: EvaluationContext, result: Result) -> None:
    """Words that are recognised in reconstructions."""
    recognised(context, result, "text")


def speakers(context: EvaluationContext, result: Result) -> None:
    """Speakers that are recognised in reconstructions, or in a WaveNet's samples."""
    context.need_own_voices()
    recognised(context, result, "speaker")


def recognised(context: EvaluationContext, result: Result, label: str) -> None:
    """How often the recognizer predicts the right word (or speaker) for recordings, their copies,
    and the model's reconstructions.
    """
    name, values = _recognizable(context, label)
    if not context.reconstructs:
        _babbled(context, result, label)
        return
    rows = _known_rows(context, label)
    reference = _places(context, label, rows)
    figures: Figures = {"floor": _chance(context, label, reference)}
    sources = {"ceiling": context.waves, "mu-law": context.mu_law}
    sources |= {system: context.outputs.reconstructed(system) for system in context.systems}
    for column, waves in sources.items():
        predicted = context.recognizer.named([waves[i] for i in rows])[label]
        what = {"ceiling": "recordings"}.get(column, "")
        figures[column] = _rate(context, predicted == reference, what)
        if column != "mu-law":
            of = "recordings" if column == "ceiling" else f"reconstructions, {column}"
            matrix = confusion(
                f"{name}.{column}",
                f"{name}: {of}",
                ("reference", "recognised"),
                values,
                reference=reference.tolist(),
                predicted=predicted.tolist(),
            )
            result.matrices.append(matrix)
    title = f"{name} recognised in reconstructions"
    result.add(f"{name}.reconstruction", title, "%", "higher", figures)


@dataclass(frozen=True)
class _Utterances:
    """The measured recordings' labels, those predicted for them, and whether the speaker of each
    has training recordings, without which a recognizer cannot name a speaker.
    """

    speaker: Places
    text: Places | None
    predicted: dict[str, Places]
    trained: Correct

    @classmethod
    def of(cls, context: EvaluationContext) -> _Utterances:
        utterances, rows = context.corpus.utterances, range(len(context.rows))
        trained = {utterances[row].speaker for row in context.training}
        words = "text" in context.recognizer.values
        return cls(
            speaker=_places(context, "speaker", rows),
            text=_places(context, "text", rows) if words else None,
            predicted=context.recognizer.named(context.waves),
            trained=np.array([utterances[row].speaker in trained for row in context.rows]),
        )


def conversion(context: EvaluationContext, result: Result) -> None:
    """Content kept, target reached, source gone: over all conversions, and as matrices by source
    and target speaker.
    """
    context.need(context.has_codes, "the model has no codes to keep while the voice changes")
    context.need(context.speaker_conditioned, "the model is not conditioned on a speaker")
    _recognizable(context, "speaker")
    context.need(len(context.targets) > 1, "fewer than two speakers have enough training speech")
    there = None not in context.pair_rows
    context.need(there, "the corpus has no training recordings of the model's voices")
    utterances = _Utterances.of(context)
    figures = _conversion_references(context, utterances)
    genders: dict[tuple[str, str], Figures] = {}
    for system in context.systems:
        conversions = context.outputs.converted(system)
        correct = _conversions_correct(context, utterances, conversions)
        for part, right in correct.items():
            kept = [
                n
                for n, item in enumerate(conversions)
                if part != "source" or utterances.trained[item.source]
            ]
            some = [conversions[n] for n in kept]
            figures[part][system] = _clustered(context, right[kept], some)
            result.matrices.append(_by_pair(context, (part, system), some, right[kept]))
        by_gender = _by_gender(context, result, system, conversions, correct["target"])
        for pair, figure in by_gender.items():
            genders.setdefault(pair, {})[system] = figure
    _add_conversions(context, result, figures, genders)


def _conversion_references(
    context: EvaluationContext, utterances: _Utterances
) -> dict[str, Figures]:
    """Ceiling and floor of each part of `conversion`, from recordings."""
    own, speaker = utterances.trained, utterances.speaker
    right = utterances.predicted["speaker"][own] == speaker[own]
    others = max(1, len(context.recognizer.values["speaker"]) - 1)
    figures: dict[str, Figures] = {
        "content": {"ceiling": None, "floor": None},
        "target": {
            "ceiling": _rate(context, right, "recordings"),
            "floor": _chance(context, "speaker", speaker[own]),
        },
        "source": {
            "floor": _rate(context, right, "recordings, not converted"),
            "ceiling": _rate(context, (1 - right) / others, "another speaker's recordings"),
        },
    }
    if utterances.text is not None:
        correct = utterances.predicted["text"] == utterances.text
        figures["content"] = {
            "ceiling": _rate(context, correct, "recordings"),
            "floor": _chance(context, "text", utterances.text),
        }
    return figures


def _conversions_correct(
    context: EvaluationContext, utterances: _Utterances, conversions: Sequence[Conversion]
) -> dict[str, Correct]:
    """Of each conversion: target and source recognised, words kept."""
    predicted = context.recognizer.named([item.wave for item in conversions])
    values, sources = context.recognizer.values["speaker"], [c.source for c in conversions]
    to = np.array([values.index(c.target) for c in conversions])
    result = {
        "target": predicted["speaker"] == to,
        "source": predicted["speaker"] == utterances.speaker[sources],
    }
    if utterances.text is not None:
        result["content"] = predicted["text"] == utterances.text[sources]
    return result


def _add_conversions(
    context: EvaluationContext,
    result: Result,
    figures: dict[str, Figures],
    genders: dict[tuple[str, str], Figures],
) -> None:
    titles = {
        "content": "words kept",
        "target": "target speaker reached",
        "source": "source speaker recognised",
    }
    for part, title in titles.items():
        if any(system in figures[part] for system in context.systems):
            better: Better = "lower" if part == "source" else "higher"
            result.add(f"conversion.{part}", f"conversions: {title}", "%", better, figures[part])
    if "text" not in context.recognizer.values:
        result.skip("words kept in conversions", NO_WORDS)
    bounds = {name: figures["target"][name] for name in ("ceiling", "floor")}
    for (from_, to), by_system in genders.items():
        title = f"conversions, {from_} to {to}: target speaker reached"
        key = f"conversion.gender_{from_}_{to}"
        result.add(key, title, "%", "higher", bounds | by_system)


SAID = ("text", "speaker")  # labels that a prior is given


def say(context: EvaluationContext, result: Result) -> None:
    """`say WORD as SPEAKER` from the prior, over all pairs: recognised as that word, as that
    speaker, as both.
    """
    prior = context.codec.prior
    if prior is None:
        raise NotApplicable("the model is no prior")
    if not set(SAID) <= set(prior.labels) or not set(SAID) <= set(context.recognizer.values):
        raise NotApplicable(f"the prior is not conditioned on speaker and text, or {NO_WORDS}")
    pairs = [(text, name) for text in prior.labels["text"] for name in prior.labels["speaker"]]
    correct = _said_correct(context, pairs, _said(context, prior, pairs))
    recorded = _recorded_correct(context)
    chance = {name: 100 / len(prior.labels[name]) for name in SAID} | {"both": 100 / len(pairs)}
    for name, title in (("text", "the word"), ("speaker", "the speaker"), ("both", "both")):
        figures: Figures = {
            "ceiling": _rate(context, recorded[name], "recordings"),
            "model": _rate(context, correct[name]),
            "floor": MetricValue(chance[name], what="chance"),
        }
        row = f"say D as S, all {len(pairs)} pairs: {title} recognised"
        result.add(f"say.{name}", row, "%", "higher", figures)
        texts, names = prior.labels["text"], prior.labels["speaker"]
        rates = correct[name].reshape(context.settings.takes, len(texts), len(names)).mean(0)
        cells: list[list[float | None]] = [[100.0 * float(x) for x in row] for row in rates]
        title = f"say D as S: {title} recognised"
        matrix = Matrix(f"say.{name}", title, "text", "speaker", texts, names, cells, "%")
        result.matrices.append(matrix)


def _said_correct(
    context: EvaluationContext, pairs: Sequence[tuple[str, str]], waves: Sequence[Wave]
) -> dict[str, Correct]:
    """Of each take of each pair: word, speaker, both recognised."""
    predicted, values = context.recognizer.named(waves), context.recognizer.values
    each = list(pairs) * context.settings.takes
    correct = {
        name: np.array(
            [values[name][k] == pair[place] for k, pair in zip(predicted[name], each, strict=True)]
        )
        for place, name in enumerate(SAID)
    }
    return correct | {"both": correct["text"] & correct["speaker"]}


def _recorded_correct(context: EvaluationContext) -> dict[str, Correct]:
    """Of each recording: word, speaker, both recognised."""
    predicted, rows = context.recognizer.named(context.waves), range(len(context.rows))
    correct = {name: predicted[name] == _places(context, name, rows) for name in SAID}
    return correct | {"both": correct["text"] & correct["speaker"]}


def _said(
    context: EvaluationContext, prior: CodePrior, pairs: Sequence[tuple[str, str]]
) -> list[Wave]:
    """The prior's words, `takes` of each pair; the codes of all are sampled before any is
    decoded.
    """
    codec, settings = context.codec, context.settings
    coded: list[CodeSequence] = []
    labels: list[dict[str, str]] = []
    with context.progress("sampling codes", settings.takes * len(pairs), "words") as advance:
        for take in range(settings.takes):
            for number, (text, speaker) in enumerate(pairs):
                given = {"text": text, "speaker": speaker}
                coded += prior.draw(
                    labels=given,
                    seed=settings.sampling.seed + 1000 * take + number,
                    longest=None if prior.longest else LONGEST_WORD,
                    temperature=settings.code_temperature,
                    top_p=settings.code_top_p,
                )
                labels.append(given | context.speaker_labels(speaker))
                advance(1)
    waves: list[Wave] = []
    with context.progress("model: words", sum(c.seconds for c in coded), "s of speech") as advance:
        for first in range(0, len(coded), settings.batch):
            batch = slice(first, first + settings.batch)
            decoded = codec.decode_many(
                coded[batch],
                [None] * len(coded[batch]),
                labels=labels[batch],
                sampling=settings.sampling,
            )
            waves += [wave.numpy() for wave in decoded]
            advance(sum(c.seconds for c in coded[batch]))
    return waves


def _babbled(context: EvaluationContext, result: Result, label: str) -> None:
    """The speaker that is recognised in samples of a WaveNet without codes or frames."""
    context.need(label == "speaker", "the model generates no given words")
    context.need(context.speaker_conditioned, "the model is not conditioned on a speaker")
    values = context.recognizer.values["speaker"]
    names = [name for name in context.targets if name in values]
    waves: list[Wave] = []
    total = BABBLE_SECONDS * BABBLES * len(names)
    with context.progress("model: babble", total, "s of speech") as advance:
        for name in names:
            generated = context.codec.generate(
                BABBLE_SECONDS,
                labels=context.speaker_labels(name) | {"speaker": name},
                count=BABBLES,
                sampling=context.settings.sampling,
            )
            waves += [wave.numpy() for wave in generated]
            advance(BABBLE_SECONDS * BABBLES)
    given = [values.index(name) for name in names for _ in range(BABBLES)]
    rows = _known_rows(context, "speaker")
    recorded = context.recognizer.named([context.waves[i] for i in rows])["speaker"]
    predicted = context.recognizer.named(waves)["speaker"]
    figures: Figures = {
        "ceiling": _rate(context, recorded == _places(context, "speaker", rows), "recordings"),
        "model": _rate(context, predicted == np.array(given)),
        "floor": MetricValue(100 / len(names), what="chance"),
    }
    result.add("speakers.babble", "speakers recognised in babble", "%", "higher", figures)
    matrix = confusion(
        "speakers.model",
        "speakers: babble",
        ("given", "recognised"),
        values,
        reference=given,
        predicted=predicted.tolist(),
    )
    result.matrices.append(matrix)


def _recognizable(context: EvaluationContext, label: str) -> tuple[str, list[str]]:
    """The name of the label's measure, and the label's values.

    Raises `NotApplicable` where no recognizer can be trained on it.
    """
    if len(context.corpus.labels.get(label, [])) < 2:
        no_text = f"{NO_WORDS}, expected for a recognizer of words"
        raise NotApplicable(
            no_text if label == "text" else f"the corpus has no two values of {label}"
        )
    return NAMES[label], context.corpus.labels[label]


def _known_rows(context: EvaluationContext, label: str) -> list[int]:
    """Places of the utterances whose label is also in the training recordings."""
    trained = {context.corpus.utterances[row].labels[label] for row in context.training}
    rows = [i for i, value in enumerate(context.label(label)) if value in trained]
    if not rows:
        raise NotApplicable(f"no {label} of the split is in the training recordings")
    return rows


def _places(context: EvaluationContext, label: str, rows: Sequence[int]) -> Places:
    values, own = context.corpus.labels[label], context.label(label)
    return np.array([values.index(own[i]) for i in rows])


def _chance(context: EvaluationContext, label: str, reference: Places) -> MetricValue:
    """Always predicting what is commonest in training."""
    values = context.corpus.labels[label]
    counts = np.zeros(len(values))
    for row in context.training:
        counts[values.index(context.corpus.utterances[row].labels[label])] += 1
    right = float((reference == counts.argmax()).mean())
    return MetricValue(100 * right, count=len(reference), what="chance")


def _rate(context: EvaluationContext, right: NDArray[np.generic], what: str = "") -> MetricValue:
    estimate = mean(right.astype(np.float64), resamples=context.settings.resamples)
    return MetricValue.of(estimate, what, 100)


def _clustered(
    context: EvaluationContext, correct: Correct, conversions: Sequence[Conversion]
) -> MetricValue:
    """A rate over conversions; its interval resamples utterances, since conversions of one
    utterance are alike.
    """
    sources = sorted({c.source for c in conversions})
    place = {source: i for i, source in enumerate(sources)}
    sums = np.zeros((len(sources), 2))
    for value, item in zip(correct, conversions, strict=True):
        sums[place[item.source]] += (float(value), 1.0)
    share = sums[:, 0] / sums[:, 1]
    return MetricValue.of(mean(share, sums[:, 1], resamples=context.settings.resamples), scale=100)


PARTS = {"content": "words kept", "target": "target reached", "source": "source recognised"}


def _by_pair(
    context: EvaluationContext,
    name: tuple[str, str],
    conversions: Sequence[Conversion],
    correct: Correct,
) -> Matrix:
    """Rates in percent by source (rows) and target speaker (columns). name: part and system."""
    part, system = name
    speakers = context.label("speaker")
    sources, targets = sorted({speakers[c.source] for c in conversions}), context.targets
    sums = np.zeros((len(sources), len(targets), 2))
    for item, value in zip(conversions, correct, strict=True):
        place = sources.index(speakers[item.source]), targets.index(item.target)
        sums[place] += (float(value), 1.0)
    cells = [[100 * float(a / n) if n else None for a, n in row] for row in sums]
    title = f"conversions, {system}: {PARTS[part]}"
    return Matrix(f"conversion.{part}.{system}", title, "from", "to", sources, targets, cells, "%")


def _by_gender(
    context: EvaluationContext,
    result: Result,
    system: str,
    conversions: Sequence[Conversion],
    reached: Correct,
) -> dict[tuple[str, str], MetricValue]:
    """Target reached by gender of source and target, where the corpus has both: from one to the
    other, and a matrix.
    """
    if len(context.corpus.labels.get("gender", [])) < 2:
        return {}
    gender = {u.speaker: u.labels["gender"] for u in context.corpus.utterances}
    names, speakers = context.corpus.labels["gender"], context.label("speaker")
    pairs = [(gender[speakers[item.source]], gender[item.target]) for item in conversions]
    figures: dict[tuple[str, str], MetricValue] = {}
    for pair in sorted(set(pairs)):
        places = [n for n, other in enumerate(pairs) if other == pair]
        figures[pair] = _clustered(context, reached[places], [conversions[n] for n in places])
    cells = [[figures[a, b].value if (a, b) in figures else None for b in names] for a in names]
    title = f"conversions, {system}: target reached by gender"
    result.matrices.append(
        Matrix(f"conversion.gender.{system}", title, "from", "to", names, names, cells, "%")
    )
    return {pair: figure for pair, figure in figures.items() if pair[0] != pair[1]}
