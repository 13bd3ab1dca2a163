"""Planted faults: each is found once, in words with what to try; sound runs are left in peace; a
resumed run repeats nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_experiment import SmallExperiment
from small_models import stack

from vqwave.audio import write
from vqwave.data import Batch, prepare
from vqwave.distributions import MixtureOfLogistics
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import codebook
from vqwave.models import VQVAE, VQVAESpec, WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec
from vqwave.training.diagnostics import RULES, About, Monitor
from vqwave.training.experiment import Evaluation, StepOutput
from vqwave.training.settings import DataSpec, ExperimentSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import Trainer

CODES = About(codes=256, code_bits=0.05)
ROOT = Path(__file__).parents[2]
Rows = Iterable[Mapping[str, float]]


def reported(folder: Path, rows: Rows, about: About = CODES) -> list[tuple[int, str]]:
    """(step, rule) of what a watch says to these rows, 10 steps apart."""
    watch = Monitor(folder, about)
    found = [finding for k, row in enumerate(rows, 1) for finding in watch.update(10 * k, row)]
    assert all("try " in finding.text and "\n" not in finding.text for finding in found)
    return [(finding.step, finding.rule) for finding in found]


def norms(*values: float) -> Rows:
    return [{"train/gradient_norm": value} for value in values]


def test_gradients_explode(tmp_path: Path) -> None:
    assert reported(tmp_path, norms(1, 2, 1, 2, 1, 9, 12, 14)) == []
    assert reported(tmp_path, norms(0.01, 5, 40)) == []  # too young to say
    assert reported(tmp_path, norms(1, 2, 1, 2, 1, 2, 30, 90)) == [(70, "exploding_gradients")]
    assert reported(tmp_path, norms(1, math.inf)) == [(20, "exploding_gradients")]
    assert reported(tmp_path, norms(math.nan)) == [(10, "exploding_gradients")]


def valid(perplexity: float, used: int = 100) -> dict[str, float]:
    return {"valid/perplexity": perplexity, "valid/codes_used": used}


def test_a_codebook_collapses(tmp_path: Path) -> None:
    train = [{"train/perplexity": value} for value in (30, 32, 20, 7, 6)]
    assert reported(tmp_path, train) == [(50, "collapsing_codebook")]
    assert reported(tmp_path, [*train[:4], {"train/perplexity": 25.0}]) == []  # one bad row is none
    few = [
        valid(3, 4),
        {"train/perplexity": 3.0},
        valid(3, 4),
        {"train/perplexity": 3.0},
        valid(3, 4),
        valid(3, 4),
    ]
    # the first is from before the start
    assert reported(tmp_path, few) == [(50, "collapsing_codebook")]
    assert reported(tmp_path, [{"train/perplexity": 30.0}, valid(80), valid(100), valid(90)]) == []
    assert reported(tmp_path, [valid(1), valid(1), valid(1)]) == []  # not started
    assert reported(tmp_path, [{"train/perplexity": 3.0}, valid(3), valid(3)], About()) == []


def bits(*gaps: float) -> Rows:
    return [{"valid/bits": 10.0, "valid/bits_shuffled_codes": 10.0 + gap} for gap in gaps]


def test_a_decoder_ignores_its_codes(tmp_path: Path) -> None:
    assert reported(tmp_path, bits(0.001, 0.002, 0.0)) == [(20, "ignored_codes")]
    assert reported(tmp_path, bits(0.001, 0.02, 0.5)) == []  # young at first
    assert reported(tmp_path, bits(0.5, -0.01, -0.01)) == [(30, "ignored_codes")]
    assert (
        reported(tmp_path, [{"valid/bits": 10.0, "valid/bits_shuffled_labels": 10.0}] * 3, About())
        == []
    )


def student(level: float, scale: float = -30.0) -> dict[str, float]:
    return {"valid/level_db": level, "valid/level_db_data": -23.0, "valid/scale_db": scale}


def test_a_student_leaves_the_level_and_the_scale(tmp_path: Path) -> None:
    assert reported(tmp_path, [student(-20), student(-27), student(-25)], About()) == []
    assert reported(tmp_path, [student(-40), student(-41), student(-42)], About()) == [
        (20, "student_level")
    ]
    assert reported(tmp_path, [student(-23), student(-10), student(-5)], About()) == [
        (30, "student_level")
    ]
    assert reported(tmp_path, [student(-math.inf)], About()) == [(10, "student_level")]
    assert reported(tmp_path, [student(-23, -10), student(-23, -9)], About()) == [
        (20, "student_scale")
    ]
    assert reported(tmp_path, [student(-23, -120), student(-23, -130)], About()) == [
        (20, "student_scale")
    ]


def test_a_resumed_run_repeats_nothing(tmp_path: Path) -> None:
    rows = [
        {"step": 10 * k, "seconds": 1.0, "train/gradient_norm": value}
        for k, value in enumerate((1, 2, 1, 2, 1, 50), 1)
    ]
    first = Monitor(tmp_path, CODES)
    assert [
        f.rule
        for row in rows
        for f in first.update(row["step"], {"train/gradient_norm": row["train/gradient_norm"]})
    ]
    noted = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [(row["step"], row["rule"]) for row in noted] == [(60, "exploding_gradients")]
    for kept in (rows, rows[:4]):  # killed after the row, or back to a checkpoint before it
        again = Monitor(tmp_path, CODES)
        again.resume(kept)
        assert [
            f
            for k in range(3)
            for f in again.update(100 + k, {"train/gradient_norm": 90.0 * 10**k})
        ] == []
    assert len((tmp_path / "findings.jsonl").read_text().splitlines()) == 1
    other = Monitor(tmp_path, CODES)
    other.resume(rows)
    assert [f.rule for values in bits(0.0, 0.0) for f in other.update(200, values)] == [
        "ignored_codes"
    ]


@pytest.mark.parametrize("run", ["vqvae-fsdd", "distill-fsdd", "wavenet-fsdd", "prior-fsdd"])
def test_sound_runs_are_left_in_peace(run: str, tmp_path: Path) -> None:
    path = ROOT / "runs" / run / "metrics.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    watch = Monitor(tmp_path, CODES if "vqvae" in run else About())
    values = [{k: v for k, v in row.items() if k not in ("step", "seconds")} for row in rows]
    assert [
        f.text for row, v in zip(rows, values, strict=True) for f in watch.update(row["step"], v)
    ] == []


STACK = stack(4)
MODEL = VQVAESpec(
    encoder=FrameEncoderSpec(features=LogMelSpec(bands=8, fmax=4000), channels=8, latent_dim=4),
    quantizer=EMAQuantizerSpec(codebook_size=16, kmeans_after_steps=2, dead_code_threshold=0.0),
    decoder=WaveNetSpec(
        head=MixtureOfLogistics(components=2),
        network=STACK,
        conditioner=ConditionerSpec(channels=4),
    ),
)


class Collapsing(SmallExperiment[ExperimentSpec]):
    """A VQ-VAE whose encoder is planted to say the same of everything from step 8 on, with no
    restart of dead codes.
    """

    name = "collapsing"
    config_class = ExperimentSpec
    model_spec = MODEL
    hop = 80
    sound = False

    def fit_statistics(self, model: VQVAE) -> None:
        model.encoder.fit(self.recordings.waves())

    def losses(self, batch: Batch) -> StepOutput:
        if self.step >= 8 and not self.sound:
            with torch.no_grad():
                self.model.encoder.out.weight.zero_()
        out = self.network(batch.wave, batch.labels, batch.lengths)
        return StepOutput(
            {"nll": negative_log_likelihood(out.distribution, batch.wave, batch.mask)},
            out.quantized.metrics,
        )

    def evaluate(self, model: VQVAE) -> Evaluation:
        counts, cost = codebook.CodeCounts(1, 16, []), {"bits": 0.0, "bits_shuffled_codes": 0.0}
        for batch in self.valid_batches():
            codes = model.encode(batch.wave, batch.lengths)
            counts.add(codes, torch.ones(codes.shape[0], codes.shape[2], dtype=torch.bool), None)
            for name, decoded in (("bits", codes), ("bits_shuffled_codes", codes.roll(1, 0))):
                distribution = model.decoder.predict(
                    batch.wave, model.condition(decoded, batch.labels)
                )
                cost[name] += float(
                    negative_log_likelihood(distribution, batch.wave, batch.mask)
                ) / math.log(2)
        section = counts.section(100.0)
        return Evaluation(
            "bits", cost | {"perplexity": section["perplexity"], "codes_used": section["used"]}
        )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        (root / "in" / speaker).mkdir(parents=True)
        for take in range(20):
            tone = np.sin(2 * np.pi * np.cumsum(rng.uniform(100, 3000, 4).repeat(400)) / 8000)
            write(root / "in" / speaker / f"{take}.wav", (0.1 * tone).astype(np.float32), 8000)
    prepare("folder", root / "in", root / "out", quiet=True)
    return root / "out"


def test_a_run_with_a_collapsed_codebook_says_so_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ExperimentSpec(
        run=tmp_path / "run",
        data=DataSpec(
            corpus=corpus, clip_seconds=0.1, batch=4, valid_clip_seconds=0.1, valid_clips=4
        ),
        optim=OptimSpec(lr=1e-3, warmup=1, ema_decay=0.5),
        train=TrainSpec(steps=20, log_every=2, valid_every=5, save_every=10, threads=1),
        losses={"nll": 1.0},
    )
    Trainer(Collapsing(config), quiet=True).run()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("watch: ")]
    assert len(lines) == len({line.split(":")[2] for line in lines})
    assert sum("the codebook collapses: perplexity 1.0 in training" in line for line in lines) == 1
    assert sum("the decoder ignores its codes" in line for line in lines) == 1
    found = [
        json.loads(line) for line in (tmp_path / "run" / "findings.jsonl").read_text().splitlines()
    ]
    assert {row["rule"] for row in found} == {"collapsing_codebook", "ignored_codes"}
    assert all(row["step"] > 8 for row in found)

    longer = replace(config, train=replace(config.train, steps=26))
    Trainer(Collapsing(longer), quiet=True).run()  # resumed: nothing is said again
    assert "watch: " not in capsys.readouterr().err

    experiment = Collapsing(replace(config, run=tmp_path / "sound"))
    experiment.sound = True
    Trainer(experiment, quiet=True).run()
    assert "codebook" not in capsys.readouterr().err


class Rootless(Collapsing):
    """A finite loss whose gradient is not: the root of zero, from step 4 on."""

    sound = True

    def losses(self, batch: Batch) -> StepOutput:
        outcome = super().losses(batch)
        weight = next(self.model.decoder.parameters())
        nothing = (weight - weight).square().sum().sqrt() if self.step >= 4 else 0.0
        return StepOutput({"nll": outcome.losses["nll"] + nothing}, outcome.metrics)


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_the_weights(
    corpus: Path, tmp_path: Path
) -> None:
    config = ExperimentSpec(
        run=tmp_path / "run",
        data=DataSpec(
            corpus=corpus, clip_seconds=0.1, batch=2, valid_clip_seconds=0.1, valid_clips=2
        ),
        train=TrainSpec(steps=9, save_every=3, threads=1),
        losses={"nll": 1.0},
    )
    loop = Trainer(Rootless(config), quiet=True)
    with pytest.raises(
        UserInputError,
        match=(
            r"step 4: the gradient norm is not finite; clips of .*/.*; last good checkpoint:"
            r" step-00000003"
        ),
    ):
        loop.run()
    assert all(bool(p.isfinite().all()) for p in loop.model.parameters())


def test_every_rule_is_planted_here() -> None:
    text = Path(__file__).read_text()
    assert all(f'"{name}"' in text for name in RULES)
