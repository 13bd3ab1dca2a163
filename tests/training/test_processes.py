"""Two forked processes (gloo) train as one: the same losses, one end, and a word for one that is
lost.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from forked import free_port, of_rank
from safetensors.torch import load_file
from small_experiment import SmallExperiment
from small_models import stack

from vqwave import audio
from vqwave.config import option, spec
from vqwave.data import Batch, prepare
from vqwave.distributed.collectives import Elsewhere, by_main, gather_objects, rank, tensors_of_main
from vqwave.errors import UserInputError
from vqwave.losses import negative_log_likelihood
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.models.wavenet import InputDropoutSpec
from vqwave.nn.condition import ConditionDropoutSpec, ConditionerSpec
from vqwave.nn.encoders import WaveformEncoderSpec
from vqwave.nn.quantize import EMAQuantizerSpec, ResidualQuantizerSpec
from vqwave.rng import keyed
from vqwave.training.experiment import StepOutput
from vqwave.training.settings import DataSpec, ExperimentSpec, OptimSpec, TrainSpec
from vqwave.training.trainer import RunInterruptedError, Trainer

PATIENCE = 240.0  # seconds that a process may take
pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)
CPU = torch.device("cpu")

SMALL = VQVAESpec(
    encoder=WaveformEncoderSpec(strides=(4, 4), channels=4, blocks=1, latent_dim=4),
    quantizer=ResidualQuantizerSpec(
        num_quantizers=2,
        quantizer_dropout=0.5,
        quantizer=EMAQuantizerSpec(codebook_size=4, kmeans_after_steps=2),
    ),
    decoder=WaveNetSpec(
        network=stack(4),
        conditioner=ConditionerSpec(channels=4, dropout=ConditionDropoutSpec(all=0.3)),
        input_dropout=InputDropoutSpec(prob=0.3, span=4, noise_std=0.02),
    ),
    time_jitter=0.3,
)


@spec
class Config(ExperimentSpec):
    losses: dict[str, float] = option(default={"nll": 1.0, "commitment": 0.25})


class Small(SmallExperiment[Config]):
    """A VQ-VAE that draws all there is to draw; clips are of unequal length."""

    name = "small"
    config_class = Config
    model_spec = SMALL
    hop = 16
    loss_names = ("nll", "commitment")
    at: dict[int, Callable[[], object]]  # what happens at a step

    def losses(self, batch: Batch) -> StepOutput:
        self.at.pop(self.step, lambda: None)()
        out = self.network(batch.wave, batch.labels, batch.lengths)
        return StepOutput(
            {
                "nll": negative_log_likelihood(out.distribution, batch.wave, batch.mask),
                **out.quantized.losses,
            }
        )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of 100 to 700 samples, about the clip's 320: some clips are padded."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        (root / "in" / speaker).mkdir(parents=True)
        for take in range(25):
            wave = 0.1 * rng.standard_normal(100 + 24 * take).astype(np.float32)
            audio.write(root / "in" / speaker / f"{take}.wav", wave, 8000)
    prepare("folder", root / "in", root / "out", quiet=True)
    return root / "out"


def config(corpus: Path, run: Path, **train: int | float) -> Config:
    return Config(
        run=run,
        data=DataSpec(
            corpus=corpus, clip_seconds=0.04, batch=4, valid_clip_seconds=0.04, valid_clips=2
        ),
        optim=OptimSpec(lr=3e-3, warmup=2),
        train=TrainSpec(
            **{
                "steps": 10,
                "log_every": 1,
                "valid_every": 100,
                "save_every": 4,
                "threads": 1,
                **train,
            }
        ),
    )


def totals(run: Path) -> list[float]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/total"] for row in found if "train/total" in row]


def _process(
    number: int,
    world: int,
    port: int,
    work: Callable[[int], object],
    sent: multiprocessing.Queue,
) -> None:
    # what this process' parent may have been
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ |= of_rank(number, world, port) | {"ACCELERATE_USE_CPU": "true"}
    try:
        sent.put((number, work(number)))
    except (UserInputError, RunInterruptedError) as error:
        sent.put((number, f"{type(error).__name__}: {error}"))
    sent.close()
    sent.join_thread()
    os._exit(0)


def in_two(work: Callable[[int], object], world: int = 2) -> dict[int, Any]:
    """What each process yields, or the error that it raises in words; nothing from one that is
    killed.
    """
    context = multiprocessing.get_context("fork")
    port, sent = free_port(), context.Queue()
    processes = [
        context.Process(target=_process, args=(number, world, port, work, sent))
        for number in range(world)
    ]
    for process in processes:
        process.start()
    found = {}
    for process in processes:
        process.join(PATIENCE)
    while not sent.empty():
        number, result = sent.get()
        found[number] = result
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, "a process hung"
    return found


def trained(settings: Config, at: dict[int, Callable[[], object]] | None = None) -> None:
    experiment = Small(settings)
    experiment.at = at or {}
    Trainer(experiment, quiet=True).run()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_follow_one(corpus: Path, tmp_path: Path, accumulate: int) -> None:
    """The same items, crops, draws, masked means and codebook, however the items lie on
    processes.
    """
    assert in_two(
        lambda number: trained(config(corpus, tmp_path / "one", grad_accumulation=accumulate)), 1
    ) == {0: None}
    found = in_two(
        lambda number: trained(config(corpus, tmp_path / "two", grad_accumulation=accumulate))
    )
    assert found == {0: None, 1: None}
    one, two = totals(tmp_path / "one"), totals(tmp_path / "two")
    assert len(one) == 10
    assert two == pytest.approx(one, rel=1e-5)
    assert one[0] != pytest.approx(one[-1], rel=1e-4)
    weights = load_file(tmp_path / "two" / "checkpoints" / "step-00000010" / "network.safetensors")
    # kmeans_after_steps counts optimizer steps
    assert weights["quantizer.stages.0.waited"] == 2 * accumulate


def test_validation_waits_for_the_codebook(corpus: Path, tmp_path: Path) -> None:
    """Before k-means has placed the codes, they are noise."""
    assert in_two(
        lambda number: trained(config(corpus, tmp_path / "run", steps=5, valid_every=1)), 1
    ) == {0: None}
    found = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row["step"] for row in found if "valid/clips" in row] == [3, 4, 5]


def test_a_lost_rank_is_named_and_the_same_command_goes_on(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def work(number: int) -> None:
        actions = {6: lambda: os.kill(os.getpid(), signal.SIGKILL)} if number == 1 else None
        trained(config(corpus, run, dist_timeout_minutes=1.0), actions)

    found = in_two(work)
    assert set(found) == {0}
    assert "RunInterruptedError: lost rank 1 of 2" in found[0]
    assert "at step 6; step-00000004 is kept: run the same command to go on" in found[0]
    assert in_two(lambda number: trained(config(corpus, run))) == {0: None, 1: None}
    in_two(lambda number: trained(config(corpus, tmp_path / "whole")))
    assert totals(run) == totals(tmp_path / "whole")


def test_a_signal_to_one_process_stops_both_after_the_same_step(
    corpus: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def work(number: int) -> None:
        trained(
            config(corpus, run, log_every=5),
            {5: lambda: os.kill(os.getpid(), signal.SIGTERM)} if number == 1 else None,
        )

    found = in_two(work)
    said = (
        f"RunInterruptedError: stopped at step 6 of 10, all saved in {run}: run the same command"
        " to go on"
    )
    assert found == {0: said, 1: said}
    assert in_two(lambda number: trained(config(corpus, run, log_every=5))) == {0: None, 1: None}
    in_two(lambda number: trained(config(corpus, tmp_path / "whole", log_every=5)))
    # the sums of both ranks between two rows of the log are kept
    assert totals(run) == totals(tmp_path / "whole")


def test_draws_do_not_depend_on_how_items_lie_on_processes() -> None:
    def work(items: int) -> list[list[float]]:
        PartialState(cpu=True)
        torch.manual_seed(3)
        first = keyed.uniforms(items, 3, like=CPU)
        return torch.cat(
            [first, keyed.normals(items, 2, like=torch.empty((), dtype=torch.float64)).float()], 1
        ).tolist()

    found = in_two(lambda number: work(2))
    (one,) = in_two(lambda number: work(4), 1).values()
    assert found[0] + found[1] == one
    flat = [value for row in one for value in row]
    assert len(set(flat)) == len(flat)


def test_what_the_main_process_does_all_learn() -> None:
    def refuse() -> None:
        raise UserInputError("no")

    def work(number: int) -> tuple[object, ...]:
        PartialState(cpu=True)
        sent = by_main(lambda: {"rank": rank()})
        try:
            by_main(refuse)
        except UserInputError as error:
            sent = (sent, type(error) is Elsewhere, str(error))
        given = {"a": torch.arange(3), "b": torch.tensor(True)} if number == 0 else {}
        return (
            sent,
            {name: value.tolist() for name, value in tensors_of_main(given, CPU).items()},
            gather_objects(number),
        )

    both = {"a": [0, 1, 2], "b": True}
    assert in_two(work) == {n: (({"rank": 0}, n == 1, "no"), both, [0, 1]) for n in (0, 1)}


def test_too_few_validation_clips_are_refused(corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, tmp_path / "run", steps=1)
    few = Config(
        **{**vars(settings), "data": DataSpec(**{**vars(settings.data), "valid_clips": 1})}
    )
    found = in_two(lambda number: trained(few))
    assert all(
        "data.valid_clips: 1 clips" in error and "expected one a process: 2" in error
        for error in found.values()
    )
    assert len(found) == 2
