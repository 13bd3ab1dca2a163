"""The training loop of all experiments: accumulation, precision, clipping, averaging, schedule,
logging, saving, resuming.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor
from tqdm import tqdm

from vqwave import config as settings
from vqwave import terminal
from vqwave.atomic_files import write_text, writing
from vqwave.data import Batch, counter_key, training_batches
from vqwave.distributed.collectives import (
    Peers,
    by_main,
    gather_objects,
    lost,
    sum_over_ranks,
)
from vqwave.distributed.threads import busy_cores, denormals_flushed, threads_of_process
from vqwave.errors import UserInputError
from vqwave.inference.model_description import store_description
from vqwave.inference.model_folder import save_trained
from vqwave.models import Model
from vqwave.nn.module_lists import submodules
from vqwave.nn.quantize import Quantizer
from vqwave.nn.wavenet import Stack
from vqwave.training.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    of_main,
    own_running,
    save_checkpoint,
)
from vqwave.training.diagnostics import About, Monitor
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.launcher import check_launcher
from vqwave.training.pace import Pace
from vqwave.training.run_folder import claim, resume_line
from vqwave.training.settings import TrainSpec
from vqwave.training.signals import LOST, RunInterruptedError, StopSignal, stopped_line
from vqwave.training.tracking import Phases, SampleSheet, Tracker


def accelerator_of(train: TrainSpec) -> Accelerator:
    """What the settings of a training ask accelerate for."""
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        mixed_precision="no" if train.precision == "fp32" else train.precision,
        dynamo_backend="inductor" if train.compile else "no",
        gradient_accumulation_steps=train.grad_accumulation,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(minutes=train.dist_timeout_minutes)),
        ],
    )


class Trainer:
    """Trains one experiment.

    `state()` lists all that a resume needs; to resume, run the same command again.
    """

    def __init__(
        self,
        experiment: Experiment[Any, Any],
        *,
        restart: bool = False,
        quiet: bool = False,
        stop: StopSignal | None = None,
    ) -> None:
        self.experiment, self.config = experiment, experiment.config
        self.quiet = quiet
        self.step, self.seconds = 0, 0.0
        self.running: dict[str, list[float]] = {}  # sum and count by name, since the last log row
        self.peers: Peers | None = None
        self.pace = Pace(self.config.train)
        self.stop = stop or StopSignal()
        self.held = ExitStack()  # signals and the run folder, until the end
        self.held.enter_context(self.stop.handling_signals())
        try:
            with self._stoppable(), self._together():
                self._begin(restart=restart)
        except BaseException:
            self.held.close()
            raise

    def _begin(self, *, restart: bool) -> None:
        """Everything before the first step; what may refuse the settings comes first."""
        experiment, train = self.experiment, self.config.train
        check_launcher(train)
        with self.stop.meeting():
            self.accelerator = accelerator_of(train)
        self.peers = Peers()
        torch.set_num_threads(train.threads or threads_of_process())
        self.quiet = self.quiet or not self.accelerator.is_main_process
        torch.manual_seed(counter_key("build", self.config.seed))
        experiment.device = self.accelerator.device
        parts = train.grad_accumulation * self.accelerator.num_processes
        self.config.data.check_batch(parts)
        model = experiment.build()
        # after what may refuse the settings, since a restart empties the run folder
        before = by_main(lambda: claim(experiment, self.held, restart=restart))
        experiment.fit_statistics(model)
        checkpoint = self._newest_checkpoint()
        if checkpoint is None:
            began = time.perf_counter()
            experiment.before_first_step(model, quiet=self.quiet)
            self.pace.spend(time.perf_counter() - began)
        self._prepare(model)
        self.phases = Phases(experiment.device)
        self.tracker = Tracker(
            self.accelerator, self.config.run, train.tracker, settings.to_tree(self.config)
        )
        self.monitor = Monitor(self.config.run, self._about())
        self.pace.resume(self.config.run)
        self.sampled = by_main((self.config.run / "samples").exists)
        self._resume(checkpoint, before)
        if not self.quiet and (note := busy_cores(torch.get_num_threads())):
            terminal.message(note)

    def _prepare(self, model: Model) -> None:
        """The model, its average, its optimizer and its trained part, on the device."""
        experiment, train, optim = self.experiment, self.config.train, self.config.optim
        for quantizer in submodules(model, Quantizer):
            quantizer.calls_per_step = train.grad_accumulation
        for stack in submodules(model, Stack):
            stack.checkpointing = train.activation_checkpointing
        self.model: Model = model.to(experiment.device).eval()
        experiment.model = self.model
        self.averaged = deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        groups = [{"params": part} for part in experiment.parameter_groups(self.model)]
        self.optimizer = torch.optim.Adam(
            groups, optim.lr, betas=optim.betas, eps=optim.eps, fused=True
        )
        # newer releases of accelerate rename a setting that older ones need
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            self.network, self.optimizer = self.accelerator.prepare(
                experiment.trainable(self.model), self.optimizer
            )
        experiment.network = self.network

    @property
    def steps(self) -> int:
        """Of the run, see `Pace`."""
        return self.pace.steps

    @property
    def checkpoints(self) -> Path:
        return self.config.run / "checkpoints"

    def state(self, rows: int | None = None) -> Checkpoint:
        """All that a resume needs; the data and every random draw are functions of the seed and the
        step. rows: of `metrics.jsonl`, if not all that it has.
        """
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "running": gather_objects(self.running),
            "rows": len(self.tracker.rows()) if rows is None else rows,
            "steps": self.steps,
        }
        average = {name: p.detach() for name, p in self.averaged.named_parameters()}
        return Checkpoint(
            self.model.state_dict(),
            average,
            self.optimizer.state_dict(),
            progress,
            self.experiment.extra_state(),
        )

    def _newest_checkpoint(self) -> Checkpoint | None:
        """The newest complete one of the run, on all processes."""
        main = self.accelerator.is_main_process
        checkpoint, notes = newest_checkpoint(self.checkpoints) if main else (None, [])
        for note in notes:
            terminal.message(note)
        return of_main(checkpoint, self.accelerator.device)

    def _resume(self, checkpoint: Checkpoint | None, before: int) -> None:
        """From a checkpoint, if there is one; `before`: `train.steps` of the settings that are
        there.
        """
        if checkpoint is None:
            self.tracker.rewind(-1)
            return
        try:
            self.model.load_state_dict(checkpoint.network)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            self.experiment.load_extra_state(checkpoint.extra)
            for name, p in self.averaged.named_parameters():
                p.copy_(checkpoint.average[name])
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            # a run without identity.json, of another corpus
            reason = " ".join(str(error).split())[:200]
            raise UserInputError(
                f"{self.config.run}: its checkpoint is of another model than these settings build"
                f" ({reason})"
            ) from None
        self.step, self.seconds = checkpoint.progress["step"], checkpoint.progress["seconds"]
        place, world = self.accelerator.process_index, self.accelerator.num_processes
        self.running = own_running(checkpoint.progress["running"], place, world)
        self.tracker.rewind(self.step, checkpoint.progress.get("rows"))
        if self.accelerator.is_main_process:
            self.monitor.resume(self.tracker.rows())
        if not self.quiet:
            terminal.message(
                resume_line(
                    self.config, self.step, checkpoint.progress.get("steps", before), self.steps
                ),
            )

    def batches(self) -> Iterator[Batch]:
        """This rank's micro-batches from the current step on."""
        data, train = self.config.data, self.config.train
        micro, world = data.batch // train.grad_accumulation, self.accelerator.num_processes
        segments = self.experiment.training_segments()
        rank, start = self.accelerator.process_index, self.step * train.grad_accumulation
        return iter(
            training_batches(
                segments, micro, rank=rank, world=world, start_step=start, workers=data.workers
            )
        )

    def run(self) -> None:
        """Train to the end, evaluate, write the model, print the result."""
        with self.held, self._stoppable(), self._together():
            self._run()

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Raises RunInterruptedError where a signal ends the block at once."""
        try:
            yield
        except KeyboardInterrupt:
            if not self.stop.signal:
                raise
            message = stopped_line(self.config.run, self.step, self._steps_begun)
            abrupt = int(os.environ.get("WORLD_SIZE", "1")) > 1
            raise RunInterruptedError(message, 128 + self.stop.signal, abrupt=abrupt) from None

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Raises RunInterruptedError where a collective fails since another process is gone or
        stuck.
        """
        try:
            yield
        except RuntimeError as error:
            if not lost(error):
                raise
            who = (
                "not all processes came to the start"
                if self.peers is None
                else self.peers.missing()
            )
            newest = max(
                (path.name for path in self.checkpoints.glob("step-*")), default="no checkpoint"
            )
            who += "" if who.startswith("lost") else f" ({str(error).splitlines()[0][:160]})"
            message = f"{who}, at step {self.step}; {newest} is kept: run the same command to go on"
            message = message if self.peers is None or self.peers.first_here() else ""
            raise RunInterruptedError(message, LOST, abrupt=True) from error

    @property
    def _steps_begun(self) -> int:
        """Those of the run; before they are known, those of the settings."""
        return self.steps if self.pace.known else self.config.train.steps

    def _run(self) -> None:
        train, began, first = self.config.train, time.perf_counter(), self.step
        bar = tqdm(
            total=self.steps if self.pace.known else None,
            initial=self.step,
            disable=self.quiet,
            unit="step",
            dynamic_ncols=True,
        )
        before = self.seconds
        with bar, self.stop.deferring():
            self._introduce(bar)
            batches = self.batches()
            while self.step < self.steps and not self.experiment.over:
                self._optimize(batches)
                self.seconds = before + time.perf_counter() - began
                bar.update()
                self._estimate(bar, self.step - first)
                if self.step % train.log_every == 0:
                    self._log(bar)
                    self._first_sample(bar)
                if (
                    self.step % train.valid_every == 0
                    and self.step < self.steps
                    and self.experiment.ready()
                ):
                    self._validate(bar)
                stop = self.stop.agreed(self.accelerator.device)
                if self.step % train.save_every == 0 or self.step == self.steps or stop:
                    self._save()
                if stop:
                    where = f"step {self.step} of {self._steps_begun}, all saved in"
                    raise RunInterruptedError(
                        f"stopped at {where} {self.config.run}: run the same command to go on",
                        128 + stop,
                    )
        self._finish(bar)

    def _introduce(self, bar: tqdm) -> None:
        """What a run begins with; where validation selects, its value before the first step."""
        for line in self.experiment.introduction():
            self._say(bar, line)
        if self.experiment.selection is not None and not self.step:
            self._validate(bar)

    def _estimate(self, bar: tqdm, done: int) -> None:
        if (line := self.pace.after(done, self.step, time.perf_counter())) is not None:
            bar.total = self.steps
            self._say(bar, line)

    def _first_sample(self, bar: tqdm) -> None:
        """Recordings made with the weights of the first minutes, once."""
        minutes = self.config.train.first_sample_minutes
        if self.sampled or not self.experiment.trains_decoder:
            return
        self.sampled = by_main(lambda: self.seconds >= 60 * minutes)
        if self.sampled and self.step < self.steps:
            self._sample()
            self._say(bar, f"step {self.step}: first samples in {self.config.run / 'samples'}")

    def _say(self, bar: tqdm, line: str) -> None:
        if not self.quiet:
            bar.write(terminal.printable(line), file=sys.stderr)

    def _sample(self) -> SampleSheet:
        experiment, folder = self.experiment, self.config.run / "samples"
        sheet = SampleSheet(folder, experiment.corpus.sample_rate, self.step)
        experiment.samples(self.saved_model(), sheet)
        with writing(self.config.run, "samples"):
            sheet.close()
        return sheet

    @denormals_flushed()  # each time: a library that samples are made with may end the mode
    def _optimize(self, batches: Iterator[Batch]) -> None:
        """One optimizer step: forward, weighted sum, backward, for each micro-batch; then clip,
        move, average.
        """
        config, accelerator = self.config, self.accelerator
        lr = config.optim.lr_at(self.step, self.steps)
        factors = self.experiment.lr_factors(self.step / self.steps)
        for group, factor in zip(self.optimizer.param_groups, factors, strict=True):
            group["lr"] = lr * factor
        self.network.train()
        self.experiment.step = self.step
        for micro in range(config.train.grad_accumulation):
            with self.phases.of("data"):
                batch = next(batches).to(accelerator.device, non_blocking=True)
            # alike on all ranks: see rng/keyed.py
            torch.manual_seed(counter_key("step", config.seed, self.step, micro))
            with accelerator.accumulate(self.network):
                with self.phases.of("forward"), accelerator.autocast():
                    output = self.experiment.losses(batch)
                total = sum(
                    (config.losses.get(name, 0.0) * value for name, value in output.losses.items()),
                    torch.zeros(()).to(accelerator.device),
                )
                self._check_finite(total, output, batch)
                with self.phases.of("backward"):
                    accelerator.backward(total)
                with self.phases.of("optimizer"):
                    if accelerator.sync_gradients:
                        norm = accelerator.clip_grad_norm_(
                            self.network.parameters(), config.optim.max_grad_norm
                        )
                        if not torch.isfinite(norm):  # a step on it would spoil the weights
                            raise self._not_finite("gradient norm", batch)
                        output.metrics["gradient_norm"] = norm
                    self.optimizer.step()
                    self.optimizer.zero_grad()
            self._count(output, total)
        with self.phases.of("optimizer"):
            self._average()
        self.phases.steps += 1
        self.step += 1

    def _average(self) -> None:
        """Of what is trained alone: averaging would make 0 of the -0 of a frozen codec's weight."""
        decay = self.config.optim.average_at(self.step)
        pairs = zip(self.averaged.parameters(), self.model.parameters(), strict=True)
        averages, now = zip(*(pair for pair in pairs if pair[1].requires_grad), strict=True)
        with torch.no_grad():
            torch._foreach_lerp_(list(averages), list(now), 1 - decay)

    def _check_finite(self, total: Tensor, output: StepOutput, batch: Batch) -> None:
        if torch.isfinite(total):
            return
        names = [name for name, value in output.losses.items() if not torch.isfinite(value)]
        what = f"loss {', '.join(names)}" if names else "weighted sum of the losses"
        raise self._not_finite(what, batch)

    def _not_finite(self, what: str, batch: Batch) -> UserInputError:
        files = ", ".join(self.experiment.corpus.utterances[int(i)].id for i in batch.index)
        last = max((path.name for path in self.checkpoints.glob("step-*")), default="none yet")
        return UserInputError(
            f"step {self.step}: the {what} is not finite; clips of {files}; "
            f"last good checkpoint: {last}; try a smaller optim.lr or optim.max_grad_norm"
        )

    def _count(self, output: StepOutput, total: Tensor) -> None:
        """Running sums since the last log row; a log row shows their means."""
        values = {"total": total, **output.losses, **output.metrics}
        for name, value in values.items():
            entry = self.running.setdefault(name, [0.0, 0])
            entry[0] += float(value.detach())
            entry[1] += 1

    def _log(self, bar: tqdm) -> None:
        names = sorted(self.running)
        sums = torch.tensor(
            [self.running[name] for name in names],
            dtype=torch.float64,
            device=self.accelerator.device,
        )
        means = {
            f"train/{name}": value / count
            for name, (value, count) in zip(names, sum_over_ranks(sums).tolist(), strict=True)
        }
        self.running = {}
        means["optim/lr"] = self.config.optim.lr_at(self.step - 1, self.steps)
        self._note(means | self.phases.taken())
        bar.set_postfix(
            {
                name.split("/")[1]: f"{means[name]:.3g}"
                for name in list(means)[:3]
                if name.startswith("train/")
            }
        )

    def _note(self, values: dict[str, float]) -> None:
        """Numbers go to the tracker; each diagnostic that they trigger is reported once."""
        with writing(self.config.run, "metrics.jsonl"):
            self.tracker.log(self.step, self.seconds, values)
        if not self.accelerator.is_main_process:
            return
        for diagnostic in self.monitor.update(self.step, values):
            tqdm.write(terminal.printable(f"watch: {diagnostic.text}"), file=sys.stderr)

    def _about(self) -> About:
        quantizer = getattr(self.model, "quantizer", None)
        return (
            About()
            if quantizer is None
            else About(quantizer.codebook_size, quantizer.bits_per_frame / self.model.hop)
        )

    def evaluated_model(self) -> Model:
        """The averaged weights, with the buffers (codebook, statistics) as they are now."""
        with torch.no_grad():
            for mine, theirs in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)
        return self.averaged.eval()

    def saved_model(self) -> Model:
        """The evaluated model, or where validation selects, the best one so far."""
        model = self.evaluated_model()
        selection = self.experiment.selection
        return model if selection is None else selection.selected(model)

    @denormals_flushed()
    def _validate(self, bar: tqdm) -> Evaluation:
        with torch.inference_mode(), self.accelerator.autocast():
            evaluation = self.experiment.evaluate(self.evaluated_model())
        if self.experiment.selection is not None:
            self.experiment.selection.offer(self.step, evaluation.scalars, self.averaged)
        values = {f"valid/{name}": value for name, value in evaluation.scalars.items()}
        self._note(values)
        self.tracker.codes(self.step, evaluation.sections)
        shown = (f"{name} {value:.4g}" for name, value in evaluation.scalars.items())
        self._say(bar, f"step {self.step}: {', '.join(shown)}")
        return evaluation

    def _save(self, rows: int | None = None) -> None:
        """The model, then the checkpoint, by the main process: a run whose last checkpoint is there
        has its model, too. rows: see `state`.
        """
        state = self.state(rows)

        def write() -> None:
            with writing(self.config.run, f"step {self.step}"):
                card = self.experiment.card(self.model, self.step, self.seconds)
                folder, model = self.config.run / "model", self.saved_model()
                save_trained(folder, model, card, self.experiment.speaker_vectors)
                store_description(folder, model, card)
                save_checkpoint(
                    self.checkpoints, self.step, state, self.config.train.keep_checkpoints
                )

        by_main(write)

    def _finish(self, bar: tqdm) -> None:
        rows = len(self.tracker.rows())
        evaluation, run, experiment = self._validate(bar), self.config.run, self.experiment
        headline, selection = evaluation.headline, experiment.selection
        if selection is not None:
            headline = selection.headline
            # the last weights may be the best; a run that ends once more validates once more
            self._save(rows)
        sheet = self._sample()
        if self.accelerator.is_main_process:
            self.tracker.samples(sheet)
            sections = {"split": "valid", "step": self.step, **evaluation.sections}
            sections |= {} if selection is None else {"selection": selection.section}
            with writing(run, "evaluation.json"):
                write_text(run / "evaluation.json", json.dumps(sections, indent=1))
            minutes = self.seconds / 60
            terminal.output(
                f"reached {headline} after {self.step:,} steps, {minutes:.1f} min; the"
                f" run is in {run}"
            )
            for line in experiment.reservations():
                terminal.message(line)
            terminal.output("next: " + "\n      ".join(experiment.next_steps()))
        self.accelerator.wait_for_everyone()
        self.tracker.finish()
