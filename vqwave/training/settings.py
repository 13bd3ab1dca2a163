"""The settings that every experiment has: recordings, optimizer, loop, weights of the losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vqwave.config import option, spec

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]


@spec
class DataSpec:
    """Which recordings, and how they are cut."""

    corpus: Path = option(Path("data/demo"), "folder that `vqwave prepare` wrote")
    speakers: tuple[str, ...] = option(
        (), "those whose recordings are taken, of a corpus of more; none: all"
    )
    clip_seconds: Annotated[float, Field(gt=0)] = option(
        0.5, "seconds of a training clip (rounded to whole frames)"
    )
    batch: Positive = option(
        8, "clips of one optimizer step, over all processes and accumulation steps"
    )
    workers: Count = option(
        0, "processes a rank that read clips ahead; 0 reads in the training process"
    )
    valid_clip_seconds: Annotated[float, Field(gt=0)] = option(1.0, "seconds of a validation clip")
    valid_clips: Positive = option(64, "validation clips, spread evenly over the split")


@spec
class OptimSpec:
    """Adam and its schedule."""

    lr: Annotated[float, Field(ge=0)] = option(4e-4, "peak learning rate")
    betas: tuple[float, float] = option((0.9, 0.999), "Adam's")
    eps: Annotated[float, Field(gt=0)] = option(1e-8, "Adam's")
    schedule: Literal["constant", "cosine"] = option(
        "cosine", "after the warm-up; cosine falls to `final_lr_ratio` x lr"
    )
    warmup: Count = option(100, "steps of linear warm-up")
    final_lr_ratio: Annotated[float, Field(ge=0, le=1)] = option(
        0.05, "share of lr at the end of the cosine"
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = option(1.0, "largest gradient norm")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = option(
        0.999, "decay of the averaged weights, which validation and inference use"
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

    steps: Positive = option(10000, "optimizer steps")
    grad_accumulation: Positive = option(1, "micro-batches an optimizer step")
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "bf16: autocast of the networks; likelihoods stay in float32"
    )
    compile: bool = option(
        False, "torch.compile of the trained network; the first steps take minutes"
    )
    activation_checkpointing: bool = option(
        False, "compute gates again in the backward pass: a third of the layers' memory, more time"
    )
    log_every: Positive = option(50, "steps")
    valid_every: Positive = option(500, "steps")
    save_every: Positive = option(500, "steps")
    keep_checkpoints: Positive = option(2, "checkpoints kept")
    threads: Count = option(
        0, "torch threads a process; 0 shares the cores among the processes of this host"
    )
    dist_timeout_minutes: Annotated[float, Field(gt=0)] = option(
        10.0, "minutes that processes wait for one another before the run ends"
    )
    tracker: Literal["none", "wandb", "tensorboard"] = option(
        "none", "shows the numbers of metrics.jsonl elsewhere, too"
    )


@spec
class ExperimentSpec:
    """What every experiment has."""

    run: Path = option(Path("runs/unnamed"), "run folder; the same command resumes it")
    seed: Count = option(0, "of everything")
    data: DataSpec = option(DataSpec(), "recordings")
    optim: OptimSpec = option(OptimSpec(), "optimizer")
    train: TrainSpec = option(TrainSpec(), "the loop")
    losses: dict[str, float] = option({}, "weight of each named loss")
