"""The settings that every experiment has: recordings, optimizer, loop, weights of the losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vqwave import parsing
from vqwave.config import option, spec
from vqwave.errors import UserInputError

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, le=3600)]  # of a clip: an hour is longer than any
Clips = Annotated[int, Field(gt=0, le=1_000_000)]
Steps = Annotated[int, Field(gt=0, le=1_000_000_000)]
Minutes = Annotated[float, Field(gt=0, le=1_000_000)]  # two years
Beta = Annotated[float, Field(ge=0, lt=1)]
Weights = dict[str, parsing.Finite]  # of losses, by name
LARGEST = 24  # hours of recordings in a micro-batch: 5.5 GB at 16 kHz


@spec
class DataSpec:
    """Which recordings, and how they are cut."""

    corpus: Path = option(default=Path("data/demo"), help="folder that `vqwave prepare` wrote")
    speakers: tuple[str, ...] = option(
        default=(), help="those whose recordings are taken, of a corpus of more; none: all"
    )
    clip_seconds: Seconds = option(
        default=0.5, help="seconds of a training clip (rounded to full frames)"
    )
    batch: Clips = option(
        default=8, help="clips of one optimizer step, over all processes and accumulation steps"
    )
    workers: Annotated[int, Field(ge=0, le=1000)] = option(
        default=0, help="processes a rank that read clips ahead; 0 reads in the training process"
    )
    valid_clip_seconds: Seconds = option(default=1.0, help="seconds of a validation clip")
    valid_clips: Clips = option(default=64, help="validation clips, spread evenly over the split")

    def check_batch(self, parts: int) -> None:
        """Raises UserInputError for a batch that `parts` micro-batches do not divide, and for one
        of more than LARGEST hours.
        """
        if self.batch % parts:
            raise UserInputError(
                f"data.batch: {self.batch}, expected a multiple of {parts} (accumulation x"
                " processes)"
            )
        if self.batch // parts * self.clip_seconds > 3600 * LARGEST:
            raise UserInputError(
                f"data.batch: {self.batch} clips of {self.clip_seconds:g} s, expected at most"
                f" {LARGEST} hours for a process at once"
            )


@spec
class OptimSpec:
    """Adam and its schedule."""

    lr: Annotated[parsing.Finite, Field(ge=0)] = option(default=4e-4, help="peak learning rate")
    betas: tuple[Beta, Beta] = option(default=(0.9, 0.999), help="Adam's")
    eps: Annotated[float, Field(gt=0)] = option(default=1e-8, help="Adam's")
    schedule: Literal["constant", "cosine"] = option(
        default="cosine", help="after the warm-up; cosine falls to `final_lr_ratio` x lr"
    )
    warmup: Count = option(default=100, help="steps of linear warm-up")
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = option(
        default=0.05, help="share of lr at the end of the cosine"
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = option(default=1.0, help="largest gradient norm")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = option(
        default=0.999, help="decay of the averaged weights, which validation and inference use"
    )

    def lr_at(self, step: int, steps: int) -> float:
        """The learning rate of optimizer step `step` (from 0) of `steps`."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        if self.schedule == "constant":
            return self.lr * warm
        progress = min(1.0, max(0, step - self.warmup) / max(1, steps - self.warmup))
        return (
            self.lr
            * warm
            * (
                self.final_lr_ratio
                + (1 - self.final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
            )
        )

    def average_at(self, step: int) -> float:
        """The averaging decay after optimizer step `step` (from 0): young runs forget their start
        sooner.
        """
        return min(self.ema_decay, (1 + step) / (10 + step))


@spec
class TrainSpec:
    """How long, how precise, how often what is written."""

    steps: Steps = option(default=10000, help="optimizer steps")
    minutes: Minutes | None = option(
        default=None,
        help="in place of steps: as many as fit into so many minutes, by the speed of the first",
    )
    first_sample_minutes: Annotated[float, Field(ge=0)] = option(
        default=2.0, help="after which samples/ is made for the first time"
    )
    grad_accumulation: Positive = option(default=1, help="micro-batches an optimizer step")
    precision: Literal["fp32", "bf16"] = option(
        default="fp32", help="bf16: autocast of the networks; likelihoods stay in float32"
    )
    compile: bool = option(
        default=False, help="torch.compile of the trained network; the first steps take minutes"
    )
    activation_checkpointing: bool = option(
        default=False,
        help="compute gates again in the backward pass: a third of the layers' memory, more time",
    )
    log_every: Positive = option(default=50, help="steps")
    valid_every: Positive = option(default=500, help="steps")
    save_every: Positive = option(default=500, help="steps")
    keep_checkpoints: Positive = option(default=2, help="checkpoints kept")
    threads: Annotated[int, Field(ge=0, le=1024)] = option(
        default=0,
        help="torch threads a process; 0: OMP_NUM_THREADS, else a share of this host's cores",
    )
    dist_timeout_minutes: Minutes = option(
        default=10.0, help="minutes that processes wait for one another before the run ends"
    )
    tracker: Literal["none", "wandb", "tensorboard"] = option(
        default="none", help="shows the numbers of metrics.jsonl elsewhere, too"
    )


@spec
class ExperimentSpec:
    """What every experiment has."""

    run: Path = option(default=Path("runs/unnamed"), help="run folder; the same command resumes it")
    seed: Count = option(default=0, help="of everything")
    data: DataSpec = option(default=DataSpec(), help="recordings")
    optim: OptimSpec = option(default=OptimSpec(), help="optimizer")
    train: TrainSpec = option(default=TrainSpec(), help="the loop")
    losses: Weights = option(default={}, help="weight of each named loss")
