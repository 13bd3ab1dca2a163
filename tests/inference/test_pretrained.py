"""The models that come with the package: small, complete, their decodings finite and not silent;
and, among the slow tests, the figures of their cards measured again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest
import torch

import vqwave
from vqwave.cli import main
from vqwave.decode.sampling import Sampling
from vqwave.distributed.threads import limited_to
from vqwave.errors import UnavailableError
from vqwave.evaluation.registry import BY_PANEL
from vqwave.inference.model_files import SHIPPED
from vqwave.metrics import f0
from vqwave.metrics.naturalness import dnsmos
from vqwave.metrics.recognition import recogniser
from vqwave.speaker_encoder import speaker_encoder

ROOT = Path(__file__).resolve().parents[2]
NAMES = (
    sorted(folder.name for folder in SHIPPED.iterdir() if (folder / "config.json").exists())
    if SHIPPED.exists()
    else []
)
CODECS = [name for name in NAMES if not name.endswith("-prior")]
BYTES = 8_700_000
CORPORA = {"fsdd": "data/fsdd", "speech": "data/librispeech"}


def test_the_package_has_its_models() -> None:
    assert {"fsdd", "fsdd-student", "fsdd-prior"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_small_and_has_its_card(name: str) -> None:
    folder = SHIPPED / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= BYTES
    card = (folder / "README.md").read_text()
    for words in ("license: ", "seed", "steps", "seconds", "machine", "Limits"):
        assert words in card, words
    about = json.loads((folder / "config.json").read_text())["about"]
    assert about["steps"] > 0
    assert (ROOT / about["config"]).is_file() if "config" in about else True


@pytest.mark.parametrize("name", CODECS)
def test_it_speaks_in_another_voice(name: str) -> None:
    """Codes of a sound and their voice: of the right length, finite, and not silent.

    The words are left to the slow tests.
    """
    model = vqwave.load(name)
    hop = model.card.about["hop"]
    t = torch.arange(4 * hop) / model.sample_rate
    coded = model.encode((0.1 * torch.sin(2 * torch.pi * 220 * t)).numpy(), model.sample_rate)
    assert coded.codes.shape[1] == 4
    wave = model.decode(coded, speaker=model.speakers[0])
    assert len(wave) == 4 * hop
    assert torch.isfinite(wave).all()
    assert wave.square().mean() > 1e-8


def test_a_student_reads_its_teachers_codes() -> None:
    teacher, student, prior = (vqwave.load(name) for name in ("fsdd", "fsdd-student", "fsdd-prior"))
    assert teacher.fingerprint == student.fingerprint == prior.fingerprint


@pytest.mark.parametrize("name", ["fsdd-student", "fsdd"])
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    """From the codes on: the condition, which torch makes, and the samples."""
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
    model = vqwave.load(name)
    noise = torch.randn(12 * model.card.about["hop"], generator=torch.Generator().manual_seed(0))
    coded = model.encode(0.05 * noise, speaker=model.speakers[0])
    conditions, waves = [], []
    for threads in (1, 2):
        with limited_to(threads):
            conditions.append(model.task(coded, None).condition.features)
            waves.append(model.decode(coded))
    assert torch.equal(*conditions)
    assert torch.equal(*waves)


@pytest.mark.parametrize(("precision", "bound"), [("bf16-dot", 2e-4), ("int8", 1e-3)])
def test_narrow_numbers_cost_a_trained_model_little(precision: str, bound: float) -> None:
    """KL from float32 in nats a sample, teacher-forced on a word that the model itself says; by
    draws from the exact law.
    """
    pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
    from vqwave.decode.cpu.precision import missing
    from vqwave.decode.cpu.wavenet.decoder import score_wavenet

    if missing(precision):
        pytest.skip(missing(precision))
    prior = vqwave.load("fsdd-prior")
    coded = prior.prior.draw(None, labels={"speaker": "theo", "text": "7"}, seed=0)[0]
    decoder = prior.decoder
    wave = prior.decode(coded, "theo", sampling=Sampling(seed=0))[None]
    with torch.no_grad():
        condition = prior.task(coded, "theo").condition
        scores = [
            score_wavenet(decoder, wave, condition, weights=each, threads=1)
            for each in ("float32", precision)
        ]
        exact, coarse = (decoder.head(score.double()) for score in scores)
        numbers = torch.rand(
            32, 4, *wave.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        cost = torch.stack(
            [exact.log_prob(x) - coarse.log_prob(x) for x in map(exact.sample, numbers)]
        ).mean()
    assert -bound / 4 < cost < bound
    assert not torch.equal(*scores)


FLAGS = {  # of `vqwave evaluate`, by a setting's name in what it writes
    "split": "--split",
    "limit": "--max-utterances",
    "seconds": "--max-seconds",
    "targets": "--max-targets",
    "pairs": "--max-conversions",
    "takes": "--samples-per-pair",
    "code_temperature": "--code-temperature",
    "code_top_p": "--code-top-p",
    "batch": "--batch",
    "resamples": "--resamples",
    "speakers": "--speakers",
    "whisper": "--whisper",
    "seed": "--seed",
    "temperature": "--temperature",
    "scale_temperature": "--scale-temperature",
    "voiced_temperature": "--voiced-temperature",
    "top_p": "--top-p",
    "guidance": "--guidance",
    "backend": "--backend",
    "precision": "--precision",
    "metrics": "--metrics",
    "student": "--student",
}
AS_WRITTEN = (
    *("utterances", "seconds", "temperature", "student_temperature", "postfilter"),
    *("finished", "skipped"),
)


def flags_of(report: dict[str, Any]) -> list[str]:
    """The flags by which `vqwave evaluate` measures again what a report has; temperatures that
    were the models' own are left to the models.
    """
    settings = dict(report["provenance"]["settings"])
    given = settings.pop("sampling") | settings
    given |= {"metrics": list(report["finished"]), "student": report["student"]}
    texts = {
        FLAGS[name]: ",".join(value) if isinstance(value, list) else str(value)
        for name, value in given.items()
        if value not in (None, [])
    }
    return [text for flag, value in texts.items() for text in (flag, value)]


def figures_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By row and column."""
    return {
        f"{row['key']} of {column}": figure
        for row in report["rows"]
        for column, figure in row["figures"].items()
    }


def need_judges(measures: Container[str]) -> None:
    """Skips the test where what a measure is taken by is missing."""
    judges: list[Callable[[], object]] = []
    if any(name in measures for name in BY_PANEL):
        judges += [recogniser, speaker_encoder, dnsmos]
    if "pitch" in measures:
        judges.append(lambda: f0.tracker(8000))
    try:
        for load in judges:
            load()
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in NAMES if (SHIPPED / name / "metrics.json").exists()]
)
def test_the_cards_figures_come_out_again(name: str, tmp_path: Path) -> None:
    """`vqwave evaluate` on the test split, with the card's own settings: every figure, also of the
    student and of the references, within its printed interval.
    """
    corpus = ROOT / CORPORA[name.split("-")[0]]
    if not (corpus / "corpus.json").exists():
        pytest.skip(f"{corpus.relative_to(ROOT)} is not prepared: vqwave prepare")
    torch.set_num_threads(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    written = json.loads((SHIPPED / name / "metrics.json").read_text())
    need_judges(written["finished"])
    out = tmp_path / "again.json"
    settings = [*flags_of(written), "--quiet", "--out", str(out)]
    main(["evaluate", name, "--data", str(corpus), *settings])
    again = json.loads(out.read_text())
    assert again["provenance"]["settings"] == written["provenance"]["settings"]
    for key in AS_WRITTEN:
        assert again.get(key) == written.get(key), key
    figures, measured = figures_of(written), figures_of(again)
    assert figures.keys() <= measured.keys()
    outside = {}
    for key, figure in figures.items():
        value, remeasured = figure["value"], measured[key]["value"]
        bounds = [bound for bound in (value, figure["low"], figure["high"]) if bound is not None]
        margin = max(0.02 * abs(value), 1e-3)
        if not min(bounds) - margin <= remeasured <= max(bounds) + margin:
            outside[key] = (remeasured, figure)
    assert not outside
    assert len(figures) >= 5
