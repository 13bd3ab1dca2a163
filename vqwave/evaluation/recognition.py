"""What a judge that was trained on real recordings hears in speech that was made: words, speakers,
conversions, said words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.evaluation.context import Conversion, EvaluationContext, NotApplicable
from vqwave.evaluation.result import Matrix, MetricValue, Result, confusion
from vqwave.metrics.bootstrap import mean

NAMES = {"text": "words", "speaker": "speakers"}
LONGEST_WORD = 3.0  # seconds after which a prior's word is cut
BABBLE_SECONDS, BABBLES = 3.0, 4  # of what a WaveNet says of its own accord, for each speaker


def recognised(material: EvaluationContext, result: Result, label: str) -> None:
    """How often the judge hears the right word (or speaker) in recordings, in copies, and in what
    the model makes of them.
    """
    name, known = _judged(material, label)
    if not material.copies:
        _babbled(material, result, label)
        return
    rows = _known_rows(material, label)
    said = _places(material, label, rows)
    figures: dict[str, MetricValue | None] = {"floor": _chance(material, label, said)}
    sources = {"ceiling": material.waves, "mu-law": material.mu_law}
    sources |= {system: material.reconstructed(system) for system in material.systems}
    for column, waves in sources.items():
        heard = material.judge.named([waves[i] for i in rows])[label]
        figures[column] = _rate(material, heard == said, {"ceiling": "recordings"}.get(column, ""))
        if column != "mu-law":
            title = (
                f"{name}: {'recordings' if column == 'ceiling' else f'reconstructions, {column}'}"
            )
            result.matrices.append(
                confusion(
                    f"{name}.{column}",
                    title,
                    ("said", "heard"),
                    known,
                    said.tolist(),
                    heard.tolist(),
                )
            )
    result.add(
        f"{name}.reconstruction", f"{name} recognised in reconstructions", "%", "higher", figures
    )


def words(material: EvaluationContext, result: Result) -> None:
    """Words that are heard in reconstructions."""
    recognised(material, result, "text")


def speakers(material: EvaluationContext, result: Result) -> None:
    """Speakers that are heard in reconstructions, or in what a WaveNet babbles."""
    recognised(material, result, "speaker")


def conversion(material: EvaluationContext, result: Result) -> None:
    """Content kept, target reached, source gone: over all conversions, and as matrices by source
    and target speaker.
    """
    material.need(material.has_codes, "the model has no codes to keep while the voice changes")
    material.need(material.hears_speakers, "the model hears no speaker")
    _judged(material, "speaker")
    material.need(len(material.targets) > 1, "fewer than two speakers have enough training speech")
    known = material.judge.values["speaker"]
    trained = {material.corpus.utterances[row].speaker for row in material.corpus.of("train")}
    said = _places(material, "speaker", range(len(material.rows)))
    real = material.judge.named(material.waves)
    own = np.array([material.corpus.utterances[row].speaker in trained for row in material.rows])
    ceiling = mean(real["speaker"][own] == said[own], resamples=material.settings.resamples)
    rates: dict[str, dict[str, MetricValue | None]] = {
        "content": {"ceiling": None, "floor": None},
        "target": {
            "ceiling": MetricValue.of(ceiling, "recordings", 100),
            "floor": _chance(material, "speaker", said[own]),
        },
        "source": {
            "floor": _rate(material, real["speaker"][own] == said[own], "recordings, not converted")
        },
    }
    others = 1 - (real["speaker"][own] == said[own])
    rates["source"]["ceiling"] = _rate(
        material, others / max(1, len(known) - 1), "another speaker's recordings"
    )
    if "text" in material.judge.values:
        texts = _places(material, "text", range(len(material.rows)))
        rates["content"] |= {
            "ceiling": _rate(material, real["text"] == texts, "recordings"),
            "floor": _chance(material, "text", texts),
        }
    genders: dict[tuple[str, str], dict[str, MetricValue | None]] = {}
    for system in material.systems:
        made = material.converted(system)
        heard = material.judge.named([item.wave for item in made])
        from_, to = said[[c.source for c in made]], np.array([known.index(c.target) for c in made])
        found = {"target": heard["speaker"] == to, "source": heard["speaker"] == from_}
        if "text" in heard:
            found["content"] = heard["text"] == texts[[c.source for c in made]]
        # speakers whom the judge never heard cannot be recognised
        unknown = ~own[[c.source for c in made]]
        for part, right in found.items():
            counted = ~unknown if part == "source" else np.ones(len(made), bool)
            kept = [c for c, use in zip(made, counted, strict=True) if use]
            rates[part][system] = _clustered(material, right[counted], kept)
            result.matrices.append(
                _by_pair(
                    material, f"conversion.{part}.{system}", part, system, kept, right[counted]
                )
            )
        for pair, figure in _by_gender(material, result, system, made, found["target"]).items():
            genders.setdefault(pair, {})[system] = figure
    titles = {
        "content": "words kept",
        "target": "target speaker reached",
        "source": "source speaker recognised",
    }
    for part, title in titles.items():
        if any(system in rates[part] for system in material.systems):
            better = "lower" if part == "source" else "higher"
            result.add(f"conversion.{part}", f"conversions: {title}", "%", better, rates[part])
    if "text" not in material.judge.values:
        result.skipped["words kept in conversions"] = (
            "the corpus has no few words that are said again and again"
        )
    beside = {name: rates["target"][name] for name in ("ceiling", "floor")}
    for (from_, to), figures in genders.items():
        title = f"conversions, {from_} to {to}: target speaker reached"
        result.add(f"conversion.gender_{from_}_{to}", title, "%", "higher", beside | figures)


def say(material: EvaluationContext, result: Result) -> None:
    """`say WORD as SPEAKER` from the prior, over all pairs: heard as that word, as that speaker, as
    both.
    """
    prior = material.codec.prior
    if prior is None:
        raise NotApplicable("the model is no prior")
    if (
        "text" not in prior.labels
        or "speaker" not in prior.labels
        or "text" not in material.judge.values
    ):
        raise NotApplicable(
            "the prior hears no speaker and text, or the corpus has no few words that are said"
            " again and again"
        )
    values = {name: prior.labels[name] for name in ("text", "speaker")}
    pairs = [(text, speaker) for text in values["text"] for speaker in values["speaker"]]
    waves = _said(material, pairs)
    heard = material.judge.named(waves)
    known = material.judge.values
    right = {
        name: np.array(
            [
                known[name][k] == pair[place]
                for k, pair in zip(heard[name], pairs * material.settings.takes, strict=True)
            ]
        )
        for place, name in enumerate(("text", "speaker"))
    }
    right["both"] = right["text"] & right["speaker"]
    real = material.judge.named(material.waves)
    true = {
        name: real[name] == _places(material, name, range(len(material.rows)))
        for name in ("text", "speaker")
    }
    true["both"] = true["text"] & true["speaker"]
    chance = {name: 100 / len(values[name]) for name in values} | {"both": 100 / len(pairs)}
    for name, title in (("text", "the word"), ("speaker", "the speaker"), ("both", "both")):
        figures = {
            "ceiling": _rate(material, true[name], "recordings"),
            "model": _rate(material, right[name]),
            "floor": MetricValue(chance[name], what="chance"),
        }
        result.add(
            f"say.{name}",
            f"say D as S, all {len(pairs)} pairs: {title} recognised",
            "%",
            "higher",
            figures,
        )
        rates = (
            right[name]
            .reshape(material.settings.takes, len(values["text"]), len(values["speaker"]))
            .mean(0)
        )
        title = f"say D as S: {title} recognised"
        cells = [[100.0 * float(value) for value in row] for row in rates]
        result.matrices.append(
            Matrix(
                f"say.{name}",
                title,
                "text",
                "speaker",
                values["text"],
                values["speaker"],
                cells,
                "%",
            )
        )


def _said(material: EvaluationContext, pairs: Sequence[tuple[str, str]]) -> list[Wave]:
    """The prior's words, `takes` of each pair; the codes of all are drawn before any is decoded."""
    codec, settings = material.codec, material.settings
    drawn, labels = [], []
    with material.stage("drawing codes", material.settings.takes * len(pairs), "words") as advance:
        for take in range(material.settings.takes):
            for number, (text, speaker) in enumerate(pairs):
                told = {"text": text, "speaker": speaker}
                seed = settings.sampling.seed + 1000 * take + number
                drawn += codec.prior.draw(
                    labels=told,
                    seed=seed,
                    longest=LONGEST_WORD,
                    temperature=settings.code_temperature,
                    top_p=settings.code_top_p,
                )
                labels.append(told | material.more_labels(speaker))
                advance(1)
    waves: list[Wave] = []
    with material.stage("model: words", sum(c.seconds for c in drawn), "s of speech") as advance:
        for first in range(0, len(drawn), settings.batch):
            part = slice(first, first + settings.batch)
            made = codec.decode_many(
                drawn[part],
                [None] * len(drawn[part]),
                labels=labels[part],
                sampling=settings.sampling,
            )
            waves += [wave.numpy() for wave in made]
            advance(sum(c.seconds for c in drawn[part]))
    return waves


def _babbled(material: EvaluationContext, result: Result, label: str) -> None:
    """The speaker that is heard in what a WaveNet without codes or frames says of its own
    accord.
    """
    material.need(label == "speaker", "the model says no given words")
    material.need(material.hears_speakers, "the model hears no speaker")
    known = material.judge.values["speaker"]
    names = [name for name in material.targets if name in known]
    waves, said = [], []
    with material.stage(
        "model: babble", BABBLE_SECONDS * BABBLES * len(names), "s of speech"
    ) as advance:
        for name in names:
            told = material.more_labels(name) | {"speaker": name}
            drawn = material.codec.generate(
                BABBLE_SECONDS, labels=told, count=BABBLES, sampling=material.settings.sampling
            )
            waves += [wave.numpy() for wave in drawn]
            said += [known.index(name)] * BABBLES
            advance(BABBLE_SECONDS * BABBLES)
    rows = _known_rows(material, "speaker")
    real = material.judge.named([material.waves[i] for i in rows])["speaker"] == _places(
        material, "speaker", rows
    )
    heard = material.judge.named(waves)["speaker"]
    figures = {
        "ceiling": _rate(material, real, "recordings"),
        "model": _rate(material, heard == np.array(said)),
        "floor": MetricValue(100 / len(names), what="chance"),
    }
    result.add("speakers.babble", "speakers recognised in babble", "%", "higher", figures)
    result.matrices.append(
        confusion(
            "speakers.model", "speakers: babble", ("told", "heard"), known, said, heard.tolist()
        )
    )


def _judged(material: EvaluationContext, label: str) -> tuple[str, list[str]]:
    """How the label's measure is called, and its values.

    Raises `Undefined` where no judge can be trained on it.
    """
    if len(material.corpus.labels.get(label, [])) < 2:
        words = (
            "the corpus has no few words that are said again and again, expected for a judge of"
            " words"
        )
        raise NotApplicable(
            words if label == "text" else f"the corpus has no two values of {label}"
        )
    return NAMES[label], material.corpus.labels[label]


def _known_rows(material: EvaluationContext, label: str) -> list[int]:
    """Places of the utterances whose label is also in the training recordings."""
    trained = {material.corpus.utterances[row].labels[label] for row in material.corpus.of("train")}
    rows = [i for i, value in enumerate(material.label(label)) if value in trained]
    if not rows:
        raise NotApplicable(f"no {label} of the split is in the training recordings")
    return rows


def _places(material: EvaluationContext, label: str, rows: Sequence[int]) -> NDArray[np.int64]:
    values, found = material.corpus.labels[label], material.label(label)
    return np.array([values.index(found[i]) for i in rows])


def _chance(material: EvaluationContext, label: str, said: NDArray[np.int64]) -> MetricValue:
    """Always saying what is commonest in training."""
    values = material.corpus.labels[label]
    counts = np.zeros(len(values))
    for row in material.corpus.of("train"):
        counts[values.index(material.corpus.utterances[row].labels[label])] += 1
    return MetricValue(
        100 * float((said == counts.argmax()).mean()), count=len(said), what="chance"
    )


def _rate(material: EvaluationContext, right: NDArray[np.generic], what: str = "") -> MetricValue:
    return MetricValue.of(
        mean(right.astype(np.float64), resamples=material.settings.resamples), what, 100
    )


def _clustered(
    material: EvaluationContext, right: NDArray[np.bool_], made: Sequence[Conversion]
) -> MetricValue:
    """A rate over conversions; its interval draws utterances, since conversions of one utterance
    are alike.
    """
    sources = sorted({c.source for c in made})
    place = {source: i for i, source in enumerate(sources)}
    sums = np.zeros((len(sources), 2))
    for value, item in zip(right, made, strict=True):
        sums[place[item.source]] += (float(value), 1.0)
    share = sums[:, 0] / sums[:, 1]
    return MetricValue.of(mean(share, sums[:, 1], resamples=material.settings.resamples), scale=100)


def _by_pair(
    material: EvaluationContext,
    key: str,
    part: str,
    system: str,
    made: Sequence[Conversion],
    right: NDArray[np.bool_],
) -> Matrix:
    """Rates in percent by source (rows) and target speaker (columns)."""
    titles = {"content": "words kept", "target": "target reached", "source": "source recognised"}
    speakers = material.label("speaker")
    sources, targets = sorted({speakers[c.source] for c in made}), material.targets
    sums = np.zeros((len(sources), len(targets), 2))
    for item, value in zip(made, right, strict=True):
        sums[sources.index(speakers[item.source]), targets.index(item.target)] += (
            float(value),
            1.0,
        )
    cells = [[100 * float(a / n) if n else None for a, n in row] for row in sums]
    return Matrix(
        key, f"conversions, {system}: {titles[part]}", "from", "to", sources, targets, cells, "%"
    )


def _by_gender(
    material: EvaluationContext,
    result: Result,
    system: str,
    made: Sequence[Conversion],
    reached: NDArray[np.bool_],
) -> dict[tuple[str, str], MetricValue]:
    """Target reached by gender of source and target, where the corpus tells genders apart: from one
    to the other, and a matrix.
    """
    if len(material.corpus.labels.get("gender", [])) < 2:
        return {}
    gender = {u.speaker: u.labels["gender"] for u in material.corpus.utterances}
    names, speakers = material.corpus.labels["gender"], material.label("speaker")
    pairs = [(gender[speakers[item.source]], gender[item.target]) for item in made]
    figures: dict[tuple[str, str], MetricValue] = {}
    for pair in sorted(set(pairs)):
        there = np.array([p == pair for p in pairs])
        kept = [item for item, use in zip(made, there, strict=True) if use]
        figures[pair] = _clustered(material, reached[there], kept)
    cells = [[figures[a, b].value if (a, b) in figures else None for b in names] for a in names]
    title = f"conversions, {system}: target reached by gender"
    result.matrices.append(
        Matrix(f"conversion.gender.{system}", title, "from", "to", names, names, cells, "%")
    )
    return {pair: figure for pair, figure in figures.items() if pair[0] != pair[1]}
