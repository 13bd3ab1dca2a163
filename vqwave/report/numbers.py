"""The parts that are numbers: likelihood against baselines, codebook use, further tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from vqwave.report.figures import Line, chart, data_uri, number, strip
from vqwave.report.run import Codes, Likelihood, Run

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Bar:
    """One row of a bar chart; `share` is its length in percent."""

    name: str
    value: str
    share: str
    style: str
    change: str = ""


@dataclass(frozen=True)
class Bars:
    """The bar chart of one run."""

    colour: int
    caption: str
    unit: str
    rows: list[Bar]


@dataclass(frozen=True)
class Speaker:
    """How one speaker uses the codes: `most` is the largest share (percent), `apart` the divergence
    from all (bits).
    """

    name: str
    picture: str
    most: str
    used: str
    perplexity: str
    apart: str


@dataclass(frozen=True)
class Use:
    """How the codes of one run are used."""

    name: str
    text: str
    picture: Markup
    speakers: list[Speaker]
    speaker_text: str


@dataclass(frozen=True)
class Table:
    """Rows (name, values); without columns, each row has one value."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def likelihood(runs: Sequence[Run]) -> list[Bars]:
    """For each run the model, its cost when its conditions are shuffled, and the baselines.

    Bars of one unit have one scale.
    """
    known = [
        (index, run, run.evaluation, run.evaluation.likelihood)
        for index, run in enumerate(runs)
        if run.evaluation and run.evaluation.likelihood
    ]
    longest: dict[str, float] = {}
    for _, _, _, part in known:
        values = [part.model, *part.shuffled.values(), *part.baselines.values()]
        finite = [value for value in values if math.isfinite(value)]
        longest[part.unit] = max([longest.get(part.unit, 0.0), *finite]) or 1.0
    result = []
    for index, run, evaluation, part in known:
        at = f", step {evaluation.step:,}" if evaluation.step is not None else ""
        caption = f"{run.name}: {part.unit}, {evaluation.split} split{at}"
        bars = _bars(run.name, part, longest[part.unit])
        result.append(Bars(index % 4, caption, part.unit, bars))
    return result


def _bars(name: str, part: Likelihood, longest: float) -> list[Bar]:
    baselines = sorted(part.baselines.items(), key=lambda pair: pair[1])

    def bar(name: str, value: float, style: str, change: str = "") -> Bar:
        share = min(max(100 * value / longest, 0), 100) if math.isfinite(value) else 0
        return Bar(name, hundredths(value), f"{share:.1f}", style, change)

    shuffled = [
        bar(f"with {name}", value, "shuffled", hundredths(value - part.model, "+"))
        for name, value in part.shuffled.items()
    ]
    return [
        bar(name, part.model, "model"),
        *shuffled,
        *(bar(name, value, "baseline") for name, value in baselines),
    ]


def hundredths(value: float, sign: str = "-") -> str:
    """Two decimals, with a true minus; with `sign="+"` a plus, too.

    >>> hundredths(-1.234), hundredths(-0.001, "+")
    ('−1.23', '+0.00')
    """
    return f"{round(value, 2) + 0.0:{sign}.2f}".replace("-", "−") if math.isfinite(value) else "n/a"


def codebooks(runs: Sequence[Run]) -> list[Use]:
    """How evenly the codes are used, and by whom; runs that counted none are left out."""
    known = [(index, run, run.evaluation.codes) for index, run in enumerate(runs) if run.evaluation]
    return [
        _use(index % 4, run.name, codes)
        for index, run, codes in known
        if codes and np.any(codes.counts)
    ]


def _use(colour: int, name: str, codes: Codes) -> Use:
    ranks = np.arange(1, codes.size + 1, dtype=np.float64)
    lines = [Line(ranks, np.full(codes.size, 100 / codes.size), "level")]
    for row in codes.counts:
        share = np.sort(np.array(row, np.float64))[::-1]
        lines.append(
            Line(ranks[: len(share)], 100 * share / max(share.sum(), 1), f"run-{colour} held-out")
        )
    each = f", {codes.size:,} a codebook," if codes.books > 1 else ""
    mean = ", the codebooks' mean" if codes.books > 1 else ""
    text = (
        f"{codes.used:,} of {codes.books * codes.size:,} codes{each} are in use, as evenly as"
        f" {number(codes.perplexity)} equally frequent codes would be (perplexity{mean})."
    )
    counts = {
        speaker: np.array(row, np.float64) for speaker, row in codes.by_speaker.items() if any(row)
    }
    return Use(
        name=name,
        text=text,
        picture=chart("share of each code", lines, "codes, the most used first", "percent"),
        speakers=_speakers(counts) if counts else [],
        speaker_text=_speaker_text(counts) if counts else "",
    )


def _speakers(counts: dict[str, Counts]) -> list[Speaker]:
    everyone = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-everyone)[: int((everyone > 0).sum())]
    return [
        Speaker(
            name=name,
            picture=data_uri(strip(row[order] / row.sum()), "image/png"),
            most=f"{100 * row.max() / row.sum():.0f}",
            used=f"{int((row > 0).sum()):,}",
            perplexity=f"{2 ** _entropy(row):.0f}",
            apart=f"{_divergence(row, everyone):.2f}",
        )
        for name, row in counts.items()
    ]


def _speaker_text(counts: dict[str, Counts]) -> str:
    """The information of a code about the speaker, and how much of it is the bias of counting
    (first order, Miller, 1955).
    """
    joint = np.stack(list(counts.values()))
    used, frames = int((joint.sum(0) > 0).sum()), joint.sum()
    chance = (used - 1) * (len(joint) - 1) / (2 * frames * math.log(2))
    return (
        f"A code carries {mutual_information(joint):.2f} bits of information about the speaker, of"
        f" {_entropy(joint.sum(1)):.2f}; about {chance:.2f} of them would result by chance in"
        f" {frames:,.0f} frames."
    )


def _entropy(counts: Counts) -> float:
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


def _divergence(counts: Counts, everyone: Counts) -> float:
    """KL(counts || everyone) in bits."""
    p, q = counts / counts.sum(), everyone / everyone.sum()
    used = p > 0
    return float((p[used] * np.log2(p[used] / q[used])).sum())


def mutual_information(joint: Counts) -> float:
    """I(speaker; code) in bits from joint counts (speakers, K), without correction for the number
    of frames.
    """
    weights = joint.sum(1) / joint.sum()
    return float(
        sum(
            weight * _divergence(row, joint.sum(0))
            for weight, row in zip(weights, joint, strict=True)
        )
    )


def tables(runs: Sequence[Run]) -> list[Table]:
    """The further sections of each evaluation, as they are."""
    result = []
    for run in runs:
        for name, rows in (run.evaluation.tables if run.evaluation else {}).items():
            result.append(
                _table(f"{run.name}: {spoken(name)}" if len(runs) > 1 else spoken(name), rows)
            )
    return result


def _table(caption: str, rows: dict[str, dict[str, float]]) -> Table:
    if set(rows) == {""}:  # plain numbers by name: one a line
        return Table(
            caption, [], [(spoken(name), [number(value)]) for name, value in rows[""].items()]
        )
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    values = {
        name: [number(row[column]) if column in row else "" for column in columns]
        for name, row in rows.items()
    }
    return Table(
        caption,
        [spoken(column) for column in columns],
        [(spoken(name), row) for name, row in values.items()],
    )


def spoken(name: str) -> str:
    """A key as words, its unit behind a comma.

    >>> spoken("log_spectral_distance_db")
    'log spectral distance, dB'
    """
    if name.endswith("_data"):
        return f"{spoken(name.removesuffix('_data'))}, of the recordings"
    words = name.replace("_", " ")
    for ending, unit in ((" db", "dB"), (" hz", "Hz"), (" ms", "ms"), (" seconds", "s")):
        if words.endswith(ending):
            return f"{words.removesuffix(ending)}, {unit}"
    return words
