"""Ctrl-C and SIGTERM at any moment of a run: a line that says how to go on, status 130 or 143, no
traceback, nothing lost.

Each run is a forked process that sends the signal to itself, so that the moment is exact and no
clock decides.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from forked import fork, free_port
from noise import noise_corpus
from small_experiment import Config, SmallWaveNet

from vqwave.data import Batch
from vqwave.inference.model_folder import ModelCard
from vqwave.models import Model, WaveNet
from vqwave.training import signals
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, StepOutput
from vqwave.training.settings import DataSpec, TrainSpec
from vqwave.training.tracking import SampleSheet
from vqwave.training.trainer import RunInterruptedError, Trainer, accelerator_of

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)
STEPS = 6


class Tiny(SmallWaveNet):
    """A WaveNet that says where it is: `at` names what happens there."""

    at: Callable[[str], object] = staticmethod(lambda moment: None)

    def __init__(self, config: Config) -> None:
        self.at("opening")
        super().__init__(config)

    def build(self) -> Model:
        self.at("building")
        return super().build()

    def fit_statistics(self, model: Model) -> None:
        self.at("statistics")

    def losses(self, batch: Batch) -> StepOutput:
        self.at(f"step {self.step}")
        return super().losses(batch)

    def evaluate(self, model: WaveNet) -> Evaluation:
        self.at(f"validation {self.step + 1}")
        return super().evaluate(model)

    def samples(self, model: WaveNet, sheet: SampleSheet) -> None:
        self.at("samples")
        sheet.add("one", "original", torch.ones(8), speaker=None, text="")

    def card(self, model: Model, step: int, seconds: float) -> ModelCard:
        self.at(f"saving {step}")
        return super().card(model, step, seconds)

    def next_steps(self) -> list[str]:
        self.at("the last line")
        return []


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("torch._dynamo", "torch.distributed.algorithms.ddp_comm_hooks", "numba"):
        if importlib.util.find_spec(name):  # else every process imports it anew
            importlib.import_module(name)
    return noise_corpus(tmp_path_factory.mktemp("corpus"), takes=12, samples=600)


def forked(
    corpus: Path,
    run: Path,
    at: Callable[[str], object],
    log: Path,
    rank: int = 0,
    world: int = 1,
    port: int = 0,
) -> int:
    """The id of a process that does what `experiments/tiny.py` would; `at` is called at each moment
    of it.
    """
    argv = [
        f"run={run}",
        f"data.corpus={corpus}",
        "data.clip_seconds=0.02",
        "data.batch=2",
        "data.valid_clip_seconds=0.02",
        "data.valid_clips=2",
    ]
    every = (
        f"train.steps={STEPS} train.log_every=1 train.valid_every=2 train.save_every=4"
        " train.threads=1 optim.warmup=2".split()
    )

    def work() -> None:
        Tiny.at = staticmethod(at)
        main(Tiny, [*argv, *every])

    return fork(work, log, rank=rank, world=world, port=port)


def train(
    corpus: Path, run: Path, at: Callable[[str], object] = lambda moment: None
) -> tuple[int, str]:
    """Exit status, and what was printed."""
    log = run.with_name(f"{run.name}.log")
    log.unlink(missing_ok=True)
    _, status = os.waitpid(forked(corpus, run, at, log), 0)
    return os.waitstatus_to_exitcode(status), log.read_text()


def struck(number: int, *moments: str) -> Callable[[str], None]:
    """The signal, at each of these moments."""

    def at(moment: str) -> None:
        if moment in moments:
            os.kill(os.getpid(), number)

    return at


def result(run: Path) -> dict[str, object]:
    """All that a run leaves, without times."""
    step = max((run / "checkpoints").glob("step-*"))
    found: dict[str, object] = {path.name: path.read_bytes() for path in step.glob("*.safetensors")}
    found["model"] = (run / "model" / "model.safetensors").read_bytes()
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        found[f"row {number}"] = {
            k: v
            for k, v in json.loads(line).items()
            if k != "seconds" and not k.startswith("time/")
        }
    found["evaluation"] = json.loads((run / "evaluation.json").read_text())
    found["samples"] = sorted(path.name for path in (run / "samples").iterdir())
    return found


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a run leaves that nothing happens to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    status, text = train(corpus, run)
    assert status == 0, text
    return result(run)


def line(text: str) -> str:
    """The one line at the end; the progress bar and validation are before it."""
    assert "Traceback" not in text, text
    return re.split(r"[\r\n]+", text.strip())[-1]


MOMENTS = {
    "opening": "stopped before anything was begun: run the same command again",
    "building": (
        "stopped before the first step, nothing was begun: run the same command to begin again"
    ),
    "statistics": (
        "stopped before the first step, nothing was begun: run the same command to begin again"
    ),
    "step 0": "stopped at step 1 of 6, all saved in {run}: run the same command to go on",
    "validation 2": "stopped at step 2 of 6, all saved in {run}: run the same command to go on",
    "saving 4": "stopped at step 5 of 6, all saved in {run}: run the same command to go on",
    "step 5": "stopped at step 6 of 6, all saved in {run}: run the same command to go on",
    "saving 6": "stopped at step 6 of 6, all saved in {run}: run the same command to go on",
    "validation 6": "stopped at step 6 of 6, all saved in {run}: run the same command to go on",
    "samples": "stopped at step 6 of 6, all saved in {run}: run the same command to go on",
    "the last line": "stopped at step 6 of 6, all saved in {run}: run the same command to go on",
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_in_words_and_loses_nothing(
    corpus: Path, whole: dict[str, object], tmp_path: Path, moment: str, number: int
) -> None:
    run = tmp_path / "run"
    status, text = train(corpus, run, struck(number, moment))
    assert line(text) == MOMENTS[moment].format(run=run)
    assert status == 128 + number
    assert not list(run.rglob(".*"))
    status, text = train(corpus, run)
    assert status == 0, text
    assert result(run) == whole


@pytest.mark.parametrize("moment", ["building", "statistics", "resuming"])
def test_a_signal_before_a_run_goes_on_leaves_it_as_it_is(
    corpus: Path,
    whole: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    run = tmp_path / "run"
    assert train(corpus, run, struck(signal.SIGTERM, "step 2"))[0] == 143
    kept = (run / "checkpoints" / "step-00000003" / "network.safetensors").read_bytes()
    with monkeypatch.context() as patch:

        def state(loop: Trainer, checkpoint: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        if moment == "resuming":
            patch.setattr("vqwave.training.trainer.of_main", state)
        status, text = train(corpus, run, struck(signal.SIGTERM, moment))
    assert (
        line(text)
        == f"stopped before it was resumed, step-00000003 is kept in {run}: run the same command to"
        " go on"
    )
    assert status == 143
    assert (run / "checkpoints" / "step-00000003" / "network.safetensors").read_bytes() == kept
    assert train(corpus, run)[0] == 0
    assert result(run) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_step_at_once(
    corpus: Path,
    whole: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """Without a checkpoint, and after one; two within `AGAIN` are one, as a launcher and a terminal
    send them.
    """
    run, twice = tmp_path / "run", lambda moment: [struck(number, moment), struck(number, moment)]
    first, second = twice("step 1")
    status, text = train(corpus, run, lambda moment: (first(moment), second(moment)))
    assert (
        line(text) == f"stopped at step 2 of 6, all saved in {run}: run the same command to go on"
    )
    monkeypatch.setattr(signals, "AGAIN", -1.0)  # however soon
    run = tmp_path / "another"
    status, text = train(corpus, run, lambda moment: (first(moment), second(moment)))
    assert (
        line(text)
        == "stopped at step 1 of 6, before its first checkpoint: run the same command to begin"
        " again"
    )
    assert status == 128 + number
    first, second = twice("step 4")
    status, text = train(corpus, run, lambda moment: (first(moment), second(moment)))
    assert (
        line(text) == f"stopped at step 4 of 6, all saved in {run}: run the same command to go on"
    )
    first, second = twice("step 5")
    status, text = train(corpus, run, lambda moment: (first(moment), second(moment)))
    assert (
        line(text)
        == f"stopped at step 5 of 6, step-00000004 is kept in {run}: run the same command to go on"
    )
    monkeypatch.undo()
    assert train(corpus, run)[0] == 0
    assert result(run) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_ends_at_once(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Within torch's own code, which waits for ten minutes."""

    def meet(train: TrainSpec) -> Accelerator:
        threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
        return accelerator_of(train)

    monkeypatch.setattr("vqwave.training.trainer.accelerator_of", meet)
    run = tmp_path / "run"
    process = forked(corpus, run, lambda moment: None, tmp_path / "log", 1, 2, free_port())
    left = threading.Timer(60, os.kill, (process, signal.SIGKILL))
    left.start()
    _, status = os.waitpid(process, 0)
    left.cancel()
    assert os.waitstatus_to_exitcode(status) == -number
    assert not run.exists()


def settings(corpus: Path, run: Path) -> Config:
    data = DataSpec(
        corpus=corpus, clip_seconds=0.02, batch=2, valid_clip_seconds=0.02, valid_clips=2
    )
    return Config(run=run, data=data, train=TrainSpec(steps=2, threads=1))


def test_a_loop_without_its_command_listens_too(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its construction on, and no longer than to its end."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for moment, said in (
        ("building", "nothing was begun"),
        ("samples", "stopped at step 2 of 2, all saved"),
    ):
        monkeypatch.setattr(Tiny, "at", staticmethod(struck(signal.SIGINT, moment)))
        with pytest.raises(RunInterruptedError, match=said) as found:
            Trainer(Tiny(settings(corpus, tmp_path / moment)), quiet=True).run()
        assert found.value.status == 130
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_thread_that_is_not_the_main_one_trains(corpus: Path, tmp_path: Path) -> None:
    """Where signals cannot be asked for."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(
            lambda: Trainer(Tiny(settings(corpus, tmp_path / "run")), quiet=True).run()
        ).result()
    assert (tmp_path / "run" / "samples" / "index.json").exists()


def in_two(corpus: Path, run: Path, moments: list[str]) -> tuple[list[int], str]:
    """Two ranks, each of which gets SIGTERM at its moment."""
    log = run.with_name(f"{run.name}.log")
    log.unlink(missing_ok=True)
    port = free_port()
    pids = [
        forked(corpus, run, struck(signal.SIGTERM, moment), log, rank, 2, port)
        for rank, moment in enumerate(moments)
    ]
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids], log.read_text()


@pytest.mark.parametrize("moment", ["building", "statistics", "validation 6", "samples"])
def test_a_signal_to_both_of_two_processes_is_one_line(
    corpus: Path, tmp_path: Path, moment: str
) -> None:
    run = tmp_path / "run"
    status, text = in_two(corpus, run, [moment, moment])
    assert status == [143, 143], text
    assert text.count("run the same command") == 1
    assert "Traceback" not in text
    assert in_two(corpus, run, ["never", "never"])[0] == [0, 0]


def test_a_signal_in_the_last_step_of_one_of_two_processes_ends_both(
    corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, text = in_two(corpus, run, ["never", "step 5"])
    assert status == [143, 143], text
    assert (
        line(text) == f"stopped at step 6 of 6, all saved in {run}: run the same command to go on"
    )


def test_a_signal_to_one_of_two_processes_at_the_end_is_said_by_the_other(
    corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, text = in_two(corpus, run, ["never", "validation 6"])
    assert status == [1, 143], text
    assert "lost rank 1 of 2" in text
    assert "at step 6; step-00000006 is kept: run the same command to go on" in text
    assert "Traceback" not in text
    assert in_two(corpus, run, ["never", "never"])[0] == [0, 0]
