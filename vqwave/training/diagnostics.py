"""What goes wrong in training runs, detected in the numbers that they log: each problem is reported
once, with a suggested fix.

A rule is a function of the series logged so far. Nothing is kept in checkpoints: the series are
those of `metrics.jsonl`, and what was reported is in `findings.jsonl`, so that a resumed run does
not report it again. A loss that is not finite stops the run instead (in the loop, which can name
the clips).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vqwave import parsing

Series = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) by name, in order."""

# rows before that give the usual gradient norm (least, most); times it
NORMS, EXPLODED = (5, 20), 10.0
# perplexity against its best; against the number of codes, within bounds
FALLEN, FEW, FEWEST = 0.25, 0.02, (1.5, 8.0)
IGNORED = 0.1  # share of what the codes could carry at most
LEVEL_DB = 6.0  # a student's level or scale against the recordings' level
SCALE_DB = -100.0  # a tenth of half a step of 16 bits


@dataclass(frozen=True)
class About:
    """Of the model at hand: `codes` a book and `code_bits`, what all books carry a sample at most;
    None without codes.
    """

    codes: int | None = None
    code_bits: float | None = None


@dataclass(frozen=True)
class Diagnostic:
    """A row of `findings.jsonl`."""

    step: int
    rule: str
    text: str


def exploding_gradients(series: Series, _about: About) -> str | None:
    """The gradient norm is not finite, or many times the median of the rows before."""
    norms = [value for _, value in series.get("train/gradient_norm", ())]
    before = norms[-1 - NORMS[1] : -1]
    if not norms or (math.isfinite(norms[-1]) and len(before) < NORMS[0]):
        return None
    advice = "try a smaller optim.lr, a longer optim.warmup, or a smaller optim.max_grad_norm"
    if not math.isfinite(norms[-1]):
        return f"the gradient norm is {norms[-1]}: {advice}"
    usual = median(before)
    if norms[-1] <= EXPLODED * usual:
        return None
    return (
        f"the gradient norm is {norms[-1]:.3g}, {norms[-1] / usual:.0f} times what it was"
        f" ({usual:.3g}): {advice}"
    )


def collapsing_codebook(series: Series, about: About) -> str | None:
    """Perplexity far below what it was, in two rows; or almost no codes in use at two validations
    after the start.
    """
    train = [value for _, value in series.get("train/perplexity", ())]
    if not train or about.codes is None:  # the codebook has not started yet
        return None
    advice = (
        "try a higher model.quantizer.dead_code_threshold, a later kmeans_after_steps, a smaller"
        " optim.lr, or model.quantizer.kind=fsq"
    )
    best = max(train)
    if len(train) > 2 and max(train[-2:]) < FALLEN * best:
        return (
            f"the codebook collapses: perplexity {train[-1]:.1f} in training, after {best:.1f};"
            f" {advice}"
        )
    since = series["train/perplexity"][0][0]
    valid = [value for step, value in series.get("valid/perplexity", ()) if step >= since]
    least = min(max(FEW * about.codes, FEWEST[0]), FEWEST[1])
    if len(valid) > 1 and max(valid[-2:]) < least:
        used = series.get("valid/codes_used", [(0, math.nan)])[-1][1]
        return (
            f"the codebook is hardly used: perplexity {valid[-1]:.1f} on held-out speech,"
            f" {used:.0f} codes in all; {advice}"
        )
    return None


def ignored_codes(series: Series, about: About) -> str | None:
    """Another clip's codes cost the decoder no more than the right ones, at two validations."""
    true, shuffled = (series.get(f"valid/{name}", ()) for name in ("bits", "bits_shuffled_codes"))
    if about.code_bits is None or len(shuffled) < 2:
        return None
    gaps = [b - a for (_, a), (_, b) in zip(true[-2:], shuffled[-2:], strict=True)]
    if max(gaps) > IGNORED * about.code_bits:
        return None
    return (
        f"the decoder ignores its codes: another clip's codes cost {gaps[-1]:+.4f} bits a sample,"
        f" of {about.code_bits:.4f} that they carry; try more steps, a decoder of a smaller"
        " receptive field, losses.spectral (with model.spectral_decoder), or a later"
        " model.quantizer.kmeans_after_steps"
    )


def student_level(series: Series, _about: About) -> str | None:
    """A student is much louder or softer than the recordings, at two validations; or silent."""
    ours, theirs = (series.get(f"valid/{name}", ()) for name in ("level_db", "level_db_data"))
    if not ours or not theirs:
        return None
    off = [a - b for (_, a), (_, b) in zip(ours[-2:], theirs[-2:], strict=True)]
    if math.isfinite(off[-1]) and (len(off) < 2 or min(map(abs, off)) <= LEVEL_DB):
        return None
    return (
        f"the student's level is {ours[-1][1]:.1f} dB, the recordings' {theirs[-1][1]:.1f} dB; try"
        " a larger losses.power, a model.initial_scale nearer the recordings' level, or a smaller"
        " optim.lr"
    )


def student_scale(series: Series, _about: About) -> str | None:
    """A student's noise is louder than the recordings, or has gone below what 16 bits can hold, at
    two validations.
    """
    ours, theirs = (series.get(f"valid/{name}", ()) for name in ("scale_db", "level_db_data"))
    if len(ours) < 2 or len(theirs) < 2:
        return None
    levels, above = [value for _, value in ours[-2:]], theirs[-1][1] + LEVEL_DB
    advice = (
        "try more kl.num_samples, losses.log_scale_regularizer (of a Gaussian student), a smaller"
        " optim.lr, or another model.initial_scale"
    )
    if min(levels) > above or not math.isfinite(levels[-1]):
        return (
            f"the student's scale is {levels[-1]:.1f} dB, above the recordings' level of"
            f" {theirs[-1][1]:.1f} dB: {advice}"
        )
    if max(levels) < SCALE_DB:
        return (
            f"the student's scale is {levels[-1]:.1f} dB, below what 16 bits can hold: its noise"
            f" has died; {advice}"
        )
    return None


RULES: dict[str, Callable[[Series, About], str | None]] = {
    rule.__name__: rule
    for rule in (
        exploding_gradients,
        collapsing_codebook,
        ignored_codes,
        student_level,
        student_scale,
    )
}


class Monitor:
    """Applies the rules to each row that a run logs.

    `run` is the run folder; the main process alone may call.
    """

    def __init__(self, run: Path, about: About) -> None:
        self.path, self.about = run / "findings.jsonl", about
        self.series: dict[str, list[tuple[int, float]]] = {}
        self.reported: set[str] = set()

    def resume(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take up the rows of `metrics.jsonl`, and what was reported before."""
        for row in rows:
            self._add(
                row["step"],
                {
                    name: value
                    for name, value in row.items()
                    if name not in ("step", "seconds") and isinstance(value, int | float)
                },
            )
        if self.path.exists():
            earlier = parsing.read_json_lines(self.path, "findings", Diagnostic, torn="any")
            self.reported |= {diagnostic.rule for _, diagnostic in earlier}

    def update(self, step: int, values: Mapping[str, float]) -> list[Diagnostic]:
        """The problems that these numbers show for the first time; kept in `findings.jsonl`."""
        self._add(step, values)
        diagnostics = []
        for name, rule in RULES.items():
            text = None if name in self.reported else rule(self.series, self.about)
            if text:
                diagnostics.append(Diagnostic(step, name, f"step {step}: {text}"))
        for diagnostic in diagnostics:
            self.reported.add(diagnostic.rule)
            with self.path.open("a") as file:
                file.write(json.dumps(asdict(diagnostic)) + "\n")
        return diagnostics

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.series.setdefault(name, []).append((step, float(value)))
