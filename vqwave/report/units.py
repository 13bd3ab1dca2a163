"""The unit of each run's likelihoods: only figures of one unit, at one sample rate, share an axis.

A bit per 16-bit sample, per mu-law class and per code measure different things, and so do the mass
of a discretised mixture and a density in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

from vqwave.config import build, spec
from vqwave.config.renamed import migrated
from vqwave.distributions import AnyHead, Head
from vqwave.errors import UserInputError
from vqwave.report.run import Run

OF_CODES = ("prior",)  # experiments whose likelihood is that of codes


@spec
class _Settings:
    head: AnyHead


def head_of(run: Run) -> Head | None:
    """The output head in a run's settings, of either format; None where there is none."""
    model = run.tree.get("model")
    part = model.get("decoder", model) if isinstance(model, dict) else None
    head = part.get("head") if isinstance(part, dict) else None
    if not isinstance(head, dict):
        return None
    try:
        return build(_Settings, migrated(_Settings, {"head": head})).head
    except UserInputError:
        return None


def bits_unit(run: Run) -> str:
    """The unit of a negative log-likelihood in bits."""
    if run.evaluation and run.evaluation.likelihood:
        return run.evaluation.likelihood.unit
    if run.experiment in OF_CODES:
        return "bits per code"
    head = head_of(run)
    return "bits per sample" if head is None else head.cost_unit


def nats_unit(run: Run) -> str:
    """The unit of a training loss in nats."""
    if run.experiment in OF_CODES:
        return "nats per code"
    head = head_of(run)
    if head is None:
        return "nats per sample"
    if head.discrete:
        return head.cost_unit.replace("bits", "nats", 1)
    return "nats per sample, of the density"


UNITS = {"bits": bits_unit, "nll": nats_unit}


def axes(runs: Sequence[Run], quantity: str) -> list[str]:
    """For each run the axis on which its `quantity` is drawn, which is its unit in words.

    Likelihoods of samples at several rates have an axis each; a run that has no model yet, so that
    its rate is not known, takes that of the first run of its unit.
    """
    if quantity not in UNITS:
        return [""] * len(runs)
    units = [UNITS[quantity](run) for run in runs]
    rates = [run.card.sample_rate if run.card else None for run in runs]
    result = []
    for unit, rate in zip(units, rates, strict=True):
        known = [r for u, r in zip(units, rates, strict=True) if u == unit and r is not None]
        rate = known[0] if rate is None and known else rate
        several = len(set(known)) > 1 and rate is not None
        result.append(f"{unit} at {rate / 1000:g} kHz" if several and rate else unit)
    return result
