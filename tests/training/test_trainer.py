"""The loop: a killed run resumes bit for bit; a run folder is refused when its settings differ; NaN
stops with names.
"""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from noise import noise_corpus
from small_experiment import Config, SmallWaveNet

from vqwave import config as specs
from vqwave.data import Batch
from vqwave.errors import UserInputError
from vqwave.training.checkpoint import newest_checkpoint
from vqwave.training.experiment import StepOutput
from vqwave.training.settings import DataSpec, ExperimentSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import RunInterruptedError, Trainer, accelerator_of


class Tiny(SmallWaveNet):
    """Counts its micro-batches, of which one may stop it, be no number, or call something."""

    die_at = poison_at = -1
    seen = 0
    # what happens before a micro-batch
    at: Mapping[int, Callable[[], object]] = MappingProxyType({})

    def losses(self, batch: Batch) -> StepOutput:
        self.seen += 1
        self.at.get(self.seen, lambda: None)()
        if self.seen == self.die_at:
            raise KeyboardInterrupt
        out = super().losses(batch)
        if self.seen == self.poison_at:
            return StepOutput({"nll": out.losses["nll"] * float("nan")})
        return out


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_corpus(tmp_path_factory.mktemp("corpus"), takes=30, samples=600)


def config(corpus: Path, run: Path) -> Config:
    return Config(
        run=run,
        data=DataSpec(
            corpus=corpus, clip_seconds=0.02, batch=4, valid_clip_seconds=0.02, valid_clips=2
        ),
        optim=OptimSpec(lr=1e-2, warmup=2),
        train=TrainSpec(
            steps=12, grad_accumulation=2, log_every=4, valid_every=6, save_every=3, threads=1
        ),
    )


def rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k != "seconds" and not k.startswith("time/")}
        for row in found
    ]


def same(a: Path, b: Path) -> bool:
    """Weights, averages and optimizer state of two runs' last checkpoints, byte for byte."""
    names = ("network", "average", "optimizer")
    first, second = (sorted((run / "checkpoints").glob("step-*"))[-1] for run in (a, b))
    return all(
        (first / f"{n}.safetensors").read_bytes() == (second / f"{n}.safetensors").read_bytes()
        for n in names
    )


def test_a_killed_run_resumes_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    broken = Tiny(config(corpus, tmp_path / "broken"))
    broken.die_at = 17  # the first micro-batch of step 9; the last checkpoint is of step 6 or 9
    with pytest.raises(KeyboardInterrupt):
        Trainer(broken, quiet=True).run()
    Trainer(Tiny(config(corpus, tmp_path / "broken")), quiet=True).run()
    assert same(tmp_path / "whole", tmp_path / "broken")
    assert rows(tmp_path / "whole") == rows(tmp_path / "broken")


def test_a_damaged_checkpoint_is_passed_over(corpus: Path, tmp_path: Path) -> None:
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    Trainer(Tiny(config(corpus, tmp_path / "hurt")), quiet=True).run()
    newest = sorted((tmp_path / "hurt" / "checkpoints").glob("step-*"))[-1]
    weights = newest / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3] + b"abc")
    checkpoint, notes = newest_checkpoint(tmp_path / "hurt" / "checkpoints")
    assert checkpoint is not None
    assert checkpoint.progress["step"] == 9
    assert "network.safetensors is damaged" in notes[0]
    Trainer(Tiny(config(corpus, tmp_path / "hurt")), quiet=True).run()
    assert same(tmp_path / "whole", tmp_path / "hurt")


def test_other_settings_are_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "run")
    Trainer(Tiny(settings), quiet=True).run()
    with pytest.raises(UserInputError, match=r"optim\.lr, optim\.warmup"):
        Trainer(Tiny(replace(settings, optim=OptimSpec(lr=1e-3, warmup=3))), quiet=True)
    Trainer(Tiny(replace(settings, optim=OptimSpec(lr=1e-3))), quiet=True, restart=True).run()


def test_nan_stops_with_step_files_and_checkpoint(corpus: Path, tmp_path: Path) -> None:
    experiment = Tiny(config(corpus, tmp_path / "run"))
    experiment.poison_at = 15
    with pytest.raises(
        UserInputError,
        match=(
            r"step 7: the loss nll is not finite; clips of .*; last good checkpoint: step-00000006"
        ),
    ):
        Trainer(experiment, quiet=True).run()
    assert not any(
        "NaN" in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    )


def test_weights_of_losses_may_be_too_large(corpus: Path, tmp_path: Path) -> None:
    settings = replace(config(corpus, tmp_path / "run"), losses={"nll": 1e300})
    with pytest.raises(UserInputError, match="step 0: the weighted sum of the losses is not"):
        Trainer(Tiny(settings), quiet=True).run()


def test_a_signal_saves_and_says_how_to_go_on(corpus: Path, tmp_path: Path) -> None:
    loop = Trainer(Tiny(config(corpus, tmp_path / "run")), quiet=True)
    loop.stop.signal = 15
    with pytest.raises(
        RunInterruptedError,
        match=r"stopped at step 1 of 12, all saved in .*: run the same command to go on",
    ):
        loop.run()
    Trainer(Tiny(config(corpus, tmp_path / "run")), quiet=True).run()
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    assert same(tmp_path / "whole", tmp_path / "run")


def test_a_run_that_is_over_stays_as_it_is(corpus: Path, tmp_path: Path) -> None:
    """Killed after its last checkpoint, or run once more: evaluated again, with no row of the log
    twice.
    """
    run = tmp_path / "run"
    Trainer(Tiny(config(corpus, run)), quiet=True).run()
    before, weights = rows(run), (run / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(run / "samples")
    Trainer(Tiny(config(corpus, run)), quiet=True).run()
    assert rows(run) == before
    assert (run / "samples" / "index.json").exists()
    assert (run / "model" / "model.safetensors").read_bytes() == weights


def test_a_checkpoint_of_an_older_release_is_resumed(corpus: Path, tmp_path: Path) -> None:
    """Sums for the log were of the main process alone, and the log's length was not kept."""
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    run = tmp_path / "run"
    loop = Trainer(Tiny(config(corpus, run)), quiet=True)
    loop.stop.signal = 15
    with pytest.raises(RunInterruptedError):
        loop.run()
    step = run / "checkpoints" / "step-00000001"
    progress = json.loads((step / "progress.json").read_text())
    (progress["running"],) = progress["running"]
    del progress["rows"]
    (step / "progress.json").write_text(json.dumps(progress))
    digests = json.loads((step / "SHA256.json").read_text())
    digests["progress.json"] = hashlib.sha256((step / "progress.json").read_bytes()).hexdigest()
    (step / "SHA256.json").write_text(json.dumps(digests))
    Trainer(Tiny(config(corpus, run)), quiet=True).run()
    assert same(tmp_path / "whole", run)
    assert rows(tmp_path / "whole") == rows(run)


def test_a_full_disk_stops_the_run_and_loses_nothing(corpus: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk's end."""
    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    experiment = Tiny(config(corpus, run))
    # in step 6, whose save is due at 9
    experiment.at = {13: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))}
    try:
        with pytest.raises(
            UserInputError,
            match=(
                r"cannot be written \(File too large\); step-00000006 is kept: make room and"
                r" run the"
            ),
        ):
            Trainer(experiment, quiet=True).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(run.rglob(".*"))
    Trainer(Tiny(config(corpus, run)), quiet=True).run()
    Trainer(Tiny(config(corpus, tmp_path / "whole")), quiet=True).run()
    assert same(tmp_path / "whole", run)
    assert rows(tmp_path / "whole") == rows(run)


def test_an_unknown_loss_and_an_odd_batch_are_refused(corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "run")
    with pytest.raises(
        UserInputError, match=r"losses\.nlll: no such loss, expected of nll; did you mean nll"
    ):
        Trainer(Tiny(replace(settings, losses={"nlll": 1.0})), quiet=True)
    assert not settings.run.exists()
    with pytest.raises(UserInputError, match="expected a multiple of 2"):
        Trainer(
            Tiny(replace(settings, run=tmp_path / "odd", data=replace(settings.data, batch=3))),
            quiet=True,
        )
    assert not (tmp_path / "odd").exists()


def test_one_process_trains_in_a_run_folder(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vqwave.atomic_files.LOCK_TIMEOUT", 0.3)
    settings, run = config(corpus, tmp_path / "run"), tmp_path / "run"
    hold = (
        f"import fcntl, os; fcntl.flock(os.open({str(run)!r}, os.O_RDONLY), fcntl.LOCK_EX);"
        " print('held', flush=True); input()"
    )
    run.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for restart in (False, True):
            with pytest.raises(UserInputError, match="run: another process trains there"):
                Trainer(Tiny(settings), restart=restart, quiet=True)
        other.communicate(b"\n")
    Trainer(Tiny(settings), quiet=True).run()
    (tmp_path / "file").touch()
    with pytest.raises(UserInputError, match="file: a file, expected a run folder"):
        Trainer(Tiny(config(corpus, tmp_path / "file")), quiet=True)


def test_buffers_are_not_sent_between_processes() -> None:
    """A codebook is the same everywhere by its own sums; sent, it would be as old as a step."""
    assert accelerator_of(TrainSpec()).ddp_handler.broadcast_buffers is False


def test_weights_of_zero_alone_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserInputError, match="losses: all weights are 0, expected one of nll"):
        Tiny(replace(config(corpus, tmp_path / "run"), losses={"nll": 0.0}))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optim.betas=[0.9, 1.5]", r"optim\.betas\[1\]: should be less than 1, found 1\.5"),
        ("optim.lr=inf", r"optim\.lr: should be a finite number, found inf"),
        ("losses.nll=nan", r"losses\.nll: should be a finite number, found nan"),
    ],
)
def test_numbers_that_no_training_survives_are_refused(setting: str, said: str) -> None:
    with pytest.raises(UserInputError, match=said):
        specs.parse(ExperimentSpec, [setting])
