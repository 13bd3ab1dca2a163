"""The complete page: what was trained, in words and in numbers, around the parts that the other
modules prepare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vqwave.report.conversions import conversions
from vqwave.report.curves import training
from vqwave.report.differences import differences, sentence
from vqwave.report.figures import number
from vqwave.report.listen import listening
from vqwave.report.measured import findings
from vqwave.report.numbers import Table, codebooks, hundredths, likelihood, tables
from vqwave.report.run import Card, Codes, Likelihood, Run

HERE = Path(__file__).parent
TRAINED = {
    "wavenet": "a WaveNet",
    "vqvae": "a VQ-VAE whose decoder is a WaveNet",
    "distill": "a Parallel WaveNet student",
    "student": "a Parallel WaveNet student",
    "prior": "a prior over codes",
    "pitch": "a pitch codec",
    "classifier": "a classifier",
    "flow": "a flow",
}
CODES_ONLY = "a codes-only VQ-VAE (encoder and codebook, no trained decoder)"
USED = 0.02  # bits a sample: a smaller loss from shuffling is taken for none


@dataclass(frozen=True)
class KeyNumber:
    """A card: its name, the number, and a remark."""

    name: str
    value: str
    more: str = ""


@dataclass(frozen=True)
class Heading:
    """The page's summary of one run, before all detail."""

    name: str
    colour: int
    summary: list[str]
    notes: list[str]
    cards: list[KeyNumber]
    settings: str


@dataclass(frozen=True)
class Live:
    """A page that is written again: `every` so many seconds, 0 for its last version; `status` is a
    line on how far the runs are.
    """

    every: float = 0.0
    status: str = ""


def page(runs: Sequence[Run], live: Live = Live()) -> str:
    """The HTML of one or several runs.

    Raises `UserInputError` where their sounds cannot be read.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sounds = listening(runs)
    parts = {
        "listening": sounds,
        "conversions": conversions(runs, sounds),
        "findings": findings(runs),
        "training": training(runs),
        "bars": likelihood(runs),
        "codebooks": codebooks(runs),
        "tables": tables(runs),
        "model": model(runs),
    }
    names = (
        "Listen",
        "Conversion",
        "Quality",
        "Training",
        "Likelihood",
        "Codes",
        "Measures",
        "Model",
    )
    unlike = differences(runs)
    sections = [
        (name.lower(), name, bool(part)) for name, part in zip(names, parts.values(), strict=True)
    ]
    return environment.get_template("page.html").render(
        title=listed([run.name for run in runs]),
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        runs=[_heading(index, run) for index, run in enumerate(runs)],
        several=len(runs) > 1,
        live=live,
        differences=unlike,
        sentences=[sentence(table) for table in unlike],
        sections=[*sections, ("settings", "Settings", True)],
        **parts,
    )


def _heading(index: int, run: Run) -> Heading:
    return Heading(
        name=run.name,
        colour=index % 4,
        summary=summary(run),
        notes=_notes(run),
        cards=key_numbers(run),
        settings=run.settings.rstrip(),
    )


def _notes(run: Run) -> list[str]:
    """What is missing, and how to get it."""
    if not run.is_run:
        silent = "--recordings FILE adds sounds made by it"
        return [] if run.clips else [f"{run.name} is a trained model, without curves; {silent}."]
    parts = {
        "training curves": run.series,
        "an evaluation": run.evaluation,
        "samples": run.clips or run.codes_only,
        "a model": run.card,
    }
    missing = [name for name, part in parts.items() if not part]
    notes = [f"{run.name} has not written {listed(missing)} yet."] if missing else []
    if run.codes_only:
        notes.append(
            f"{run.name} has nothing to play: a decoder is trained on its codes by"
            f" frozen_codec={run.folder}."
        )
    return notes


def summary(run: Run) -> list[str]:
    """Sentences, the first without its subject: what was trained, on what, how long, and where it
    stands.
    """
    card, steps, seconds = run.card, *_effort(run)
    what = TRAINED.get(run.experiment) or TRAINED.get(card.kind if card else "") or "a model"
    what = CODES_ONLY if run.codes_only else what
    what += f" of {Path(run.teacher).name}" if run.teacher else ""
    on = f" on {card.about.corpus}" if card and card.about.corpus else ""
    if card:
        speakers = len(card.trained("speaker"))
        on += (
            f" ({f'{speakers} speakers, ' if speakers > 1 else ''}{card.sample_rate / 1000:g} kHz)"
        )
    if steps:
        on += f" for {steps:,} steps"
    if seconds:
        on += f" in {duration(seconds)}" if steps else f" for {duration(seconds)}"
    sentences = [f"is {what}, trained{on}." if on else f"is {what}."]
    if run.evaluation and run.evaluation.likelihood:
        sentences += _standing(run.evaluation.likelihood)
    if (divergence := _divergence(run)) is not None:
        sentences.append(
            f"On held-out speech it is {hundredths(divergence)} nats per sample away from its"
            " teacher."
        )
    if run.evaluation and run.evaluation.codes:
        sentences.append(_coding(run.evaluation.codes))
    return sentences


def _divergence(run: Run) -> float | None:
    """KL from the teacher, which the distillation's evaluation holds."""
    tables = run.evaluation.tables if run.evaluation else {}
    return tables.get("distillation", {}).get("", {}).get("kl")


def _standing(part: Likelihood) -> list[str]:
    others = [
        f"{hundredths(value)} {'with no model at all' if name == 'uniform' else f'for a {name}'}"
        for name, value in sorted(part.baselines.items(), key=lambda pair: pair[1])
    ]
    against = f", against {listed(others)}" if others else ""
    sentences = [f"Held-out speech costs it {hundredths(part.model)} {part.unit}{against}."]
    rises = {
        name.removeprefix("shuffled "): value - part.model for name, value in part.shuffled.items()
    }
    if used := {name: hundredths(rise) for name, rise in rises.items() if rise > USED}:
        costs = f"shuffled, they cost it {listed(list(used.values()))} more"
        sentences.append(f"It uses the {listed(list(used))}: {costs}.")
    if unused := {name: hundredths(rise, "+") for name, rise in rises.items() if rise <= USED}:
        costs = f"shuffled, they change its cost by {listed(list(unused.values()))}"
        sentences.append(f"It hardly uses the {listed(list(unused))}: {costs}.")
    return sentences


def _coding(codes: Codes) -> str:
    rate = (
        f"Speech becomes {codes.bit_rate:,.0f} bit/s of codes, of which"
        if codes.bit_rate
        else "Of its codes,"
    )
    return f"{rate} {codes.used:,} of {codes.books * codes.size:,} are in use."


def key_numbers(run: Run) -> list[KeyNumber]:
    """The cards of a run; what is not known is left out."""
    card, evaluation, (steps, seconds) = run.card, run.evaluation, _effort(run)
    cards = []
    if evaluation and evaluation.likelihood:
        part = evaluation.likelihood
        cards.append(KeyNumber("Held-out cost", hundredths(part.model), part.unit))
        if "linear predictor" in part.baselines:
            gain = part.baselines["linear predictor"] - part.model
            side = "below" if gain >= 0 else "above"
            cards.append(KeyNumber("Gain", hundredths(gain), f"bits {side} a linear predictor"))
    if (divergence := _divergence(run)) is not None:
        cards.append(KeyNumber("From its teacher", hundredths(divergence), "nats per sample"))
    if evaluation and evaluation.codes:
        codes = evaluation.codes
        if codes.bit_rate is not None:
            entropy = (
                f", {codes.entropy_rate:,.0f} by entropy" if codes.entropy_rate is not None else ""
            )
            cards.append(KeyNumber("Bit rate", f"{codes.bit_rate:,.0f}", f"bit/s{entropy}"))
        cards.append(KeyNumber("Perplexity", number(codes.perplexity), f"of {codes.size:,} codes"))
    elif card and card.about.bit_rate:
        cards.append(KeyNumber("Bit rate", f"{card.about.bit_rate:,.0f}", "bit/s"))
    if card and card.about.parameters:
        total = _total(card.about.parameters)
        cards.append(KeyNumber("Parameters", _count(total), f"{total:,}"))
    if card and card.about.receptive_field and not run.codes_only:
        field = card.about.receptive_field
        cards.append(
            KeyNumber(
                "Receptive field",
                f"{1000 * field / card.sample_rate:,.0f}",
                f"ms, {field:,} samples",
            )
        )
    if steps:
        cards.append(
            KeyNumber(
                "Training", f"{steps:,}", f"steps in {duration(seconds)}" if seconds else "steps"
            )
        )
    return cards


def model(runs: Sequence[Run]) -> Table | None:
    """The model cards, a column each; None where there is none."""
    columns = [(run.name, _facts(run, run.card)) for run in runs if run.card]
    rows = []
    for part in zip(*(facts for _, facts in columns), strict=True):
        names = dict.fromkeys(name for facts in part for name in facts)
        rows += [(name, [facts.get(name, "") for facts in part]) for name in names]
    return Table("Model", [name for name, _ in columns], rows) if columns else None


def _facts(run: Run, card: Card) -> list[dict[str, str]]:
    """What it is, its labels, its parameters, its sizes."""
    about, rate = card.about, card.sample_rate
    kind = {"kind": card.kind, "corpus": about.corpus or "", "sample rate": f"{rate:,} Hz"}
    labels = {
        name: f"{len(values)}: {_some(values)}"
        for name in card.labels
        if (values := card.trained(name))
    }
    parameters = {
        f"parameters, {name}": f"{n:,}" for name, n in about.parameters.items() if name != "total"
    }
    if about.parameters:
        parameters["parameters, all"] = f"{_total(about.parameters):,}"
    sizes = {}
    if about.receptive_field:
        sizes["receptive field"] = _samples_and_ms(about.receptive_field, rate)
    if about.hop and about.hop > 1:
        sizes["hop"] = f"{_samples_and_ms(about.hop, rate)}; {rate / about.hop:.4g} frames a second"
    if about.bit_rate is not None:
        sizes["bit rate"] = f"{about.bit_rate:,.0f} bit/s"
    if run.evaluation and run.evaluation.codes:
        codes = run.evaluation.codes
        if codes.entropy_rate is not None:
            sizes["bit rate by entropy"] = f"{codes.entropy_rate:,.0f} bit/s"
        sizes["codebooks"] = f"{codes.books} of {codes.size:,} codes"
    if run.clips_step is not None:
        sizes["samples made at step"] = f"{run.clips_step:,}"
    return [kind, labels, parameters, sizes]


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> [duration(s) for s in (42.3, 634, 9000, 200000)]
    ['42 s', '11 min', '2 h 30 min', '2 d 8 h']
    """
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if hours < 48
        else f"{hours // 24} d {hours % 24} h"
    )


def listed(parts: Sequence[str]) -> str:
    """The parts as an enumeration.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _effort(run: Run) -> tuple[int | None, float | None]:
    """Steps and seconds of training, by the model card, else by the metrics."""
    about = run.card.about if run.card else None
    return (about.steps if about else None) or run.steps, (
        about.seconds if about else None
    ) or run.seconds


def _total(parameters: dict[str, int]) -> int:
    return parameters.get("total", sum(parameters.values()))


def _count(n: int) -> str:
    return f"{n / 1e6:.1f} M" if n >= 950_000 else f"{n / 1e3:.0f} k" if n >= 1000 else str(n)


def _samples_and_ms(samples: int, sample_rate: int) -> str:
    return f"{samples:,} samples, {1000 * samples / sample_rate:.4g} ms"


def _some(values: Sequence[str], limit: int = 12) -> str:
    return ", ".join(values[:limit]) + (" …" if len(values) > limit else "")
