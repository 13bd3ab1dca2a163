"""Likelihoods of different kinds never share an axis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from vqwave.report.curves import training
from vqwave.report.numbers import likelihood
from vqwave.report.run import read_run
from vqwave.report.units import axes, bits_unit, nats_unit

pytest.importorskip("matplotlib")

MU_LAW = {"kind": "mu_law", "classes": 256}
MIXTURE = {"kind": "mixture_of_logistics", "components": 5}
OLDER = {"kind": "mixture_of_logistics", "components": 5, "levels": 16, "location_unit": 0.01}
GAUSSIAN = {"kind": "gaussian"}
COARSE = {"kind": "mixture_of_logistics", "sample_bits": 8}


def make_run(
    folder: Path,
    head: dict[str, Any] | None,
    *,
    experiment: str = "wavenet",
    rate: int | None = None,
    bits: float = 7.0,
) -> Path:
    """A run that has logged `bits` and `nll` and been timed; with a card where it has a rate."""
    folder.mkdir(parents=True)
    tree: dict[str, Any] = {"experiment": experiment, "losses": {"nll": 1.0}, "model": {}}
    if head is not None:
        tree["model"] = {"decoder": {"head": head}} if experiment == "vqvae" else {"head": head}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    rows = [
        {
            "step": step,
            "train/bits": bits,
            "train/nll": bits * 0.69,
            "train/total": bits,
            "time/forward": 80.0 + step,
            "time/loader_share": 0.25,
        }
        for step in (1, 2, 3)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if rate:
        (folder / "model").mkdir()
        card = {"kind": "wavenet", "sample_rate": rate}
        (folder / "model" / "config.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize(
    ("head", "experiment", "bits", "nats"),
    [
        (MU_LAW, "wavenet", "bits per sample of 256 classes", "nats per sample of 256 classes"),
        (MIXTURE, "vqvae", "bits per 16-bit sample", "nats per 16-bit sample"),
        (OLDER, "vqvae", "bits per 16-bit sample", "nats per 16-bit sample"),
        (COARSE, "wavenet", "bits per 8-bit sample", "nats per 8-bit sample"),
        # a density's training loss is no mass; its bits are at 16-bit resolution
        (GAUSSIAN, "wavenet", "bits per 16-bit sample", "nats per sample, of the density"),
        (None, "prior", "bits per code", "nats per code"),
        (None, "flow", "bits per sample", "nats per sample"),
        ({"kind": "no.such:Head"}, "wavenet", "bits per sample", "nats per sample"),
    ],
)
def test_a_unit_follows_from_the_settings(
    head: dict[str, Any] | None, experiment: str, bits: str, nats: str, tmp_path: Path
) -> None:
    run = read_run(make_run(tmp_path / "run", head, experiment=experiment))
    assert (bits_unit(run), nats_unit(run)) == (bits, nats)


def test_a_unit_that_was_written_goes_before(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", MU_LAW)
    (folder / "evaluation.json").write_text(json.dumps({"nll": {"unit": "bits", "model": 1.0}}))
    assert bits_unit(read_run(folder)) == "bits"


def test_bits_of_three_kinds_have_three_charts(tmp_path: Path) -> None:
    kinds = {"mu": (MU_LAW, "wavenet"), "mixture": (MIXTURE, "wavenet"), "prior": (None, "prior")}
    runs = [
        read_run(make_run(tmp_path / name, head, experiment=experiment))
        for name, (head, experiment) in kinds.items()
    ]
    section = training(runs)
    assert section is not None
    bits = [chart for chart in section.charts if chart.unit.startswith("bits")]
    assert sorted(chart.unit for chart in bits) == [
        "bits per 16-bit sample",
        "bits per code",
        "bits per sample of 256 classes",
    ]
    assert all(str(chart.picture).count("<polyline") == 1 for chart in bits)
    nats = [chart.unit for chart in section.charts if chart.unit.startswith("nats")]
    assert len(nats) == 3


def test_runs_of_one_kind_share_a_chart(tmp_path: Path) -> None:
    runs = [read_run(make_run(tmp_path / name, MIXTURE)) for name in "ab"]
    section = training(runs)
    assert section is not None
    (bits,) = (chart for chart in section.charts if chart.unit.startswith("bits"))
    assert str(bits.picture).count("<polyline") == 2
    (total,) = (chart for chart in section.charts if chart.title.startswith("weighted"))
    assert str(total.picture).count("<polyline") == 2


def test_sample_rates_are_kept_apart_once_they_are_known(tmp_path: Path) -> None:
    rates = {"eight": 8000, "sixteen": 16000, "begun": None}
    runs = [read_run(make_run(tmp_path / n, MIXTURE, rate=rate)) for n, rate in rates.items()]
    eight, sixteen, begun = axes(runs, "bits")
    assert eight == "bits per 16-bit sample at 8 kHz"
    assert sixteen == "bits per 16-bit sample at 16 kHz"
    assert begun == eight
    assert axes(runs[:1], "bits") == ["bits per 16-bit sample"]
    assert axes(runs, "lr") == ["", "", ""]


def test_sums_of_other_losses_are_kept_apart(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, MIXTURE) for name in "ab")
    tree = yaml.safe_load((second / "config.yaml").read_text())
    (second / "config.yaml").write_text(yaml.safe_dump(tree | {"losses": {"nll": 2.0}}))
    section = training([read_run(first), read_run(second)])
    assert section is not None
    totals = [chart.title for chart in section.charts if chart.title.startswith("weighted")]
    assert totals == ["weighted sum of the losses: a", "weighted sum of the losses: b"]


def test_speed_is_apart_in_milliseconds_and_percent(tmp_path: Path) -> None:
    section = training([read_run(make_run(tmp_path / "run", MIXTURE))])
    assert section is not None
    assert [(chart.title, chart.unit) for chart in section.speed] == [
        ("forward", "ms per step"),
        ("waiting for data", "% of a step"),
    ]
    assert not [chart for chart in section.charts if "forward" in chart.title]
    assert ">25<" in str(section.speed[1].picture)  # of 0.25, as a share


def test_bars_of_one_unit_have_one_scale(tmp_path: Path) -> None:
    runs = []
    for name, unit, bits in (("a", "x", 4.0), ("b", "x", 8.0), ("c", "y", 1.0)):
        folder = make_run(tmp_path / name, None)
        nll = {"unit": unit, "model": bits}
        (folder / "evaluation.json").write_text(json.dumps({"nll": nll}))
        runs.append(read_run(folder))
    assert [bars.rows[0].share for bars in likelihood(runs)] == ["50.0", "100.0", "100.0"]
