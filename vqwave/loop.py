"""The training loop, written once: accumulation, precision, clipping, averaging, schedule, logging, saving, resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor
from tqdm import tqdm

from vqwave import config as settings
from vqwave.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint, save_trained, write_text
from vqwave.data import Batch, Segments, counter_key, training_batches
from vqwave.errors import BadInput
from vqwave.experiment import Evaluation, Experiment, Outcome, check_losses
from vqwave.models import Model
from vqwave.nn.ranks import sum_over_ranks
from vqwave.tracking import SampleSheet, Tracker

FREE = ("train.steps", "train.log_every", "train.valid_every", "train.save_every", "train.keep", "train.threads", "train.tracker")


def main(experiment: type[Experiment], argv: Sequence[str] | None = None) -> None:
    """What `experiments/*.py` run. Exit status 0; 2 with one line for bad input; 130 after Ctrl-C, 143 after SIGTERM."""
    try:
        request = settings.parse(
            experiment.config_class,
            sys.argv[1:] if argv is None else argv,
            program=f"experiments/{experiment.name}.py",
            description=(experiment.__doc__ or "").strip(),
        )
        if request.dry_run:
            print(settings.dump(request.config) + "\n" + experiment(request.config).describe())
            return
        Loop(experiment(request.config), fresh=request.fresh, quiet=request.quiet).run()
    except (BadInput, Interrupted) as error:
        print(f"error: {error}" if isinstance(error, BadInput) else error, file=sys.stderr)
        sys.stderr.flush()
        raise SystemExit(2 if isinstance(error, BadInput) else error.status) from None


class Interrupted(Exception):
    """A signal asked the run to stop; all is saved."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Loop:
    """Trains one experiment. `state()` lists all that a resume needs; to resume, run the same command again."""

    def __init__(self, experiment: Experiment, *, fresh: bool = False, quiet: bool = False) -> None:
        self.experiment, self.config = experiment, experiment.config
        train = self.config.train
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            mixed_precision=train.precision,
            gradient_accumulation_steps=train.accumulate,
            log_with=None if train.tracker == "none" else train.tracker,
            project_dir=str(self.config.run),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(train.threads or max(1, (os.cpu_count() or 1) // local))
        self.quiet = quiet or not self.accelerator.is_main_process
        self.signal: int | None = None
        self._claim(fresh)
        torch.manual_seed(counter_key("build", self.config.seed))
        experiment.device = self.accelerator.device
        model = experiment.build()
        experiment.start(model)
        self.model: Model = model.to(experiment.device).eval()
        experiment.model = self.model
        self.averaged = deepcopy(self.model).eval().requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        optim = self.config.optim
        self.optimizer = torch.optim.Adam(trained, optim.lr, betas=optim.betas, eps=optim.eps)
        self.network, self.optimizer = self.accelerator.prepare(experiment.trained(self.model), self.optimizer)
        experiment.network = self.network
        self.step, self.seconds, self.running = 0, 0.0, {}
        self.tracker = Tracker(self.accelerator, self.config.run, train.tracker, settings.to_tree(self.config))
        self._resume()

    def _claim(self, fresh: bool) -> None:
        """Make the run folder, or check that the one there holds the same settings."""
        run, tree = self.config.run, {"experiment": self.experiment.name, **settings.to_tree(self.config)}
        if self.accelerator.is_main_process:
            if fresh and (run / "config.yaml").exists():
                shutil.rmtree(run)
            if (run / "config.yaml").exists():
                changed = [key for key in settings.differences(self._settings_of(run), tree) if key not in FREE]
                if changed:
                    raise BadInput(f"{run}: holds a run with another {', '.join(changed)}; choose another run=..., or --fresh")
            elif run.exists() and any(run.iterdir()):
                raise BadInput(f"{run}: not empty and not a run folder, expected a new one")
            run.mkdir(parents=True, exist_ok=True)
            write_text(run / "config.yaml", f"experiment: {self.experiment.name}\n" + settings.dump(self.config))
        self.accelerator.wait_for_everyone()

    def _settings_of(self, run: Path) -> dict[str, Any]:
        """The settings that a run folder was made with; what they do not name, since it is newer, has its default."""
        tree = yaml.safe_load((run / "config.yaml").read_text())
        name = tree.pop("experiment", None)
        if name != self.experiment.name:
            raise BadInput(f"{run}: holds a run of experiment {name}, expected {self.experiment.name}; choose another run=...")
        return {"experiment": name, **settings.to_tree(settings.build(type(self.config), tree))}

    @property
    def checkpoints(self) -> Path:
        return self.config.run / "checkpoints"

    def state(self) -> Checkpoint:
        """All that a resume needs; the data and every random draw are functions of the seed and the step."""
        progress = {"step": self.step, "seconds": self.seconds, "running": self.running}
        average = {name: p.detach() for name, p in self.averaged.named_parameters()}
        return Checkpoint(self.model.state_dict(), average, self.optimizer.state_dict(), progress, self.experiment.beside())

    def _resume(self) -> None:
        checkpoint, notes = newest_checkpoint(self.checkpoints)
        for note in notes:
            self.accelerator.print(note, file=sys.stderr)
        if checkpoint is None:
            self.tracker.rewind(-1)
            return
        self.model.load_state_dict(checkpoint.network)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.experiment.restore(checkpoint.beside)
        for name, p in self.averaged.named_parameters():
            p.copy_(checkpoint.average[name])
        self.step, self.seconds = checkpoint.progress["step"], checkpoint.progress["seconds"]
        self.running = checkpoint.progress["running"]
        self.tracker.rewind(self.step)
        if not self.quiet:
            print(f"resuming {self.config.run} at step {self.step}", file=sys.stderr)

    def batches(self) -> Iterator[Batch]:
        """This rank's micro-batches from the current step on."""
        data, train = self.config.data, self.config.train
        micro, world = data.batch // train.accumulate, self.accelerator.num_processes
        if micro * train.accumulate != data.batch or micro % world:
            raise BadInput(
                f"data.batch: {data.batch}, expected a multiple of {train.accumulate * world} (accumulation x processes)"
            )
        frames, tracks = self.experiment.samples_of(data.clip), self.experiment.tracks
        segments = Segments(self.experiment.corpus, "train", frames, self.config.seed, tracks)
        rank, start = self.accelerator.process_index, self.step * train.accumulate
        return iter(training_batches(segments, micro, rank=rank, world=world, start_step=start, workers=data.workers))

    def run(self) -> None:
        """Train to the end, evaluate, write the model, and say what was reached."""
        train, batches, began = self.config.train, self.batches(), time.perf_counter()
        bar = tqdm(total=train.steps, initial=self.step, disable=self.quiet, unit="step", dynamic_ncols=True)
        before = self.seconds
        with self._signals(), bar:
            while self.step < train.steps:
                self._optimize(batches)
                self.seconds = before + time.perf_counter() - began
                bar.update()
                if self.step % train.log_every == 0:
                    self._log(bar)
                if self.step % train.valid_every == 0 and self.step < train.steps:
                    self._validate(bar)
                if self.step % train.save_every == 0 or self.step == train.steps or self.signal:
                    self._save()
                if self.signal and self.step < train.steps:
                    where = f"step {self.step} of {train.steps}, all saved in {self.config.run}"
                    raise Interrupted(f"stopped at {where}: run the same command to go on", 128 + self.signal)
        self._finish(bar)

    def _optimize(self, batches: Iterator[Batch]) -> None:
        """One optimizer step: forward, weighted sum, backward, for each micro-batch; then clip, move, average."""
        config, accelerator = self.config, self.accelerator
        lr = config.optim.lr_at(self.step, config.train.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.network.train()
        self.experiment.step = self.step
        for micro in range(config.train.accumulate):
            batch = next(batches).to(accelerator.device, non_blocking=True)
            torch.manual_seed(counter_key("step", config.seed, self.step, micro, accelerator.process_index))
            with accelerator.accumulate(self.network):
                with accelerator.autocast():
                    outcome = self.experiment.losses(batch)
                check_losses(config.losses, outcome.losses, self.experiment.optional_losses)
                total = sum(
                    (config.losses.get(name, 0.0) * value for name, value in outcome.losses.items()),
                    torch.zeros(()).to(accelerator.device),
                )
                self._check_finite(total, outcome, batch)
                accelerator.backward(total)
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.network.parameters(), config.optim.clip)
                    outcome.metrics["gradient_norm"] = norm
                self.optimizer.step()
                self.optimizer.zero_grad()
            self._count(outcome, total)
        self._average()
        self.step += 1

    def _average(self) -> None:
        decay = self.config.optim.average_at(self.step)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay)

    def _check_finite(self, total: Tensor, outcome: Outcome, batch: Batch) -> None:
        if torch.isfinite(total):
            return
        names = [name for name, value in outcome.losses.items() if not torch.isfinite(value)]
        files = ", ".join(self.experiment.corpus.utterances[int(i)].id for i in batch.index)
        last = max((path.name for path in self.checkpoints.glob("step-*")), default="none yet")
        raise BadInput(
            f"step {self.step}: the loss {', '.join(names)} is not finite; clips of {files}; "
            f"last good checkpoint: {last}; try a smaller optim.lr or optim.clip"
        )

    def _count(self, outcome: Outcome, total: Tensor) -> None:
        """Running sums since the last log row; a log row shows their means."""
        values = {"total": total, **outcome.losses, **outcome.metrics}
        for name, value in values.items():
            entry = self.running.setdefault(name, [0.0, 0])
            entry[0] += float(value.detach())
            entry[1] += 1

    def _log(self, bar: tqdm) -> None:
        means = {}
        for name, (value, count) in sorted(self.running.items()):
            pair = sum_over_ranks(torch.tensor([value, float(count)], dtype=torch.float64, device=self.accelerator.device))
            means[f"train/{name}"] = float(pair[0] / pair[1])
        self.running = {}
        means["optim/lr"] = self.config.optim.lr_at(self.step - 1, self.config.train.steps)
        self.tracker.log(self.step, self.seconds, means)
        bar.set_postfix({name.split("/")[1]: f"{means[name]:.3g}" for name in list(means)[:3] if name.startswith("train/")})

    def evaluated_model(self) -> Model:
        """The averaged weights, with the buffers (codebook, statistics) as they are now."""
        with torch.no_grad():
            for mine, theirs in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
                mine.copy_(theirs)
        return self.averaged.eval()

    def _validate(self, bar: tqdm) -> Evaluation:
        with torch.inference_mode(), self.accelerator.autocast():
            evaluation = self.experiment.evaluate(self.evaluated_model())
        values = {f"valid/{name}": value for name, value in evaluation.scalars.items()}
        self.tracker.log(self.step, self.seconds, values)
        if not self.quiet:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in evaluation.scalars.items())
            bar.write(f"step {self.step}: {shown}", file=sys.stderr)
        return evaluation

    def _save(self) -> None:
        """A checkpoint and the model, by the main process."""
        if self.accelerator.is_main_process:
            save_checkpoint(self.checkpoints, self.step, self.state(), self.config.train.keep)
            card = self.experiment.card(self.model, self.step, self.seconds)
            save_trained(self.config.run / "model", self.evaluated_model(), card)
        self.accelerator.wait_for_everyone()

    def _finish(self, bar: tqdm) -> None:
        evaluation = self._validate(bar)
        if self.accelerator.is_main_process:
            run, experiment = self.config.run, self.experiment
            sections = {"split": "valid", "step": self.step, **evaluation.sections}
            write_text(run / "evaluation.json", json.dumps(sections, indent=1))
            sheet = SampleSheet(run / "samples", experiment.corpus.sample_rate, self.step)
            experiment.samples(self.evaluated_model(), sheet)
            sheet.close()
            minutes = self.seconds / 60
            print(f"reached {evaluation.headline} after {self.step:,} steps, {minutes:.1f} min; the run is in {run}")
            print("next: " + "\n      ".join(experiment.next_steps()))
        self.accelerator.wait_for_everyone()
        self.tracker.finish()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the run after the current step, with all saved; a second Ctrl-C ends it at once."""

        def note(number: int, frame: FrameType | None) -> None:
            if self.signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
