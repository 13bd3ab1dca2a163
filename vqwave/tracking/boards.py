"""What shows a run while it goes on: wandb, or tensorboard. Both are imported when a board is opened, and not before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import BadInput

BARS = 512  # that wandb draws at most


class Board(Protocol):
    """Takes numbers and media of one run; everything by name and optimizer step."""

    def numbers(self, step: int, values: Mapping[str, float]) -> None: ...

    def sound(self, step: int, name: str, wave: Wave, sample_rate: int, caption: str) -> None:
        """wave (T,)."""

    def picture(self, step: int, name: str, image: NDArray[np.uint8], caption: str) -> None:
        """image (height, width, 3)."""

    def bars(self, step: int, name: str, counts: Sequence[int]) -> None:
        """How often each code (by number) is used."""

    def finish(self) -> None: ...


class WandbBoard:
    """A wandb run: online, offline or disabled, as WANDB_MODE says; WANDB_PROJECT names the project, else it is vqwave.

    The axis of all charts is `step`, a column of its own: a resumed run may say again what it said before it was killed, which
    wandb would refuse for its own counter.
    """

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.wandb = wandb
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "vqwave"),
            name=folder.name,
            id=identity,
            resume="allow",
            dir=str(folder),
            mode=os.environ.get("WANDB_MODE"),
            config=dict(config),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def _log(self, step: int, values: Mapping[str, object]) -> None:
        self.run.log({"step": step, **values})

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    def sound(self, step: int, name: str, wave: Wave, sample_rate: int, caption: str) -> None:
        self._log(step, {name: self.wandb.Audio(wave, sample_rate=sample_rate, caption=caption)})

    def picture(self, step: int, name: str, image: NDArray[np.uint8], caption: str) -> None:
        self._log(step, {name: self.wandb.Image(image, caption=caption)})

    def bars(self, step: int, name: str, counts: Sequence[int]) -> None:
        width = -(-len(counts) // BARS)
        edges = np.arange(0, len(counts) + width, width)
        joined = np.add.reduceat(np.asarray(counts), edges[:-1])
        self._log(step, {name: self.wandb.Histogram(np_histogram=(joined, edges))})

    def finish(self) -> None:
        self.run.finish()


class TensorBoard:
    """Event files in `tensorboard/` of the run folder. What a killed run wrote after `step` is struck out."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise BadInput("train.tracker: tensorboard is not installed; pip install 'vqwave[track]'") from None
        place = folder / "tensorboard"
        again = place.exists() and step >= 0
        self.writer = SummaryWriter(str(place), purge_step=step + 1 if again else None)
        if not again:
            rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
            self.writer.add_text("config", f"| setting | value |\n|---|---|\n{rows}", 0)

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def sound(self, step: int, name: str, wave: Wave, sample_rate: int, caption: str) -> None:
        self.writer.add_audio(name, torch.from_numpy(wave)[None], step, sample_rate)

    def picture(self, step: int, name: str, image: NDArray[np.uint8], caption: str) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def bars(self, step: int, name: str, counts: Sequence[int]) -> None:
        uses, codes = np.asarray(counts, np.float64), np.arange(len(counts), dtype=np.float64)
        self.writer.add_histogram_raw(
            name,
            min=0.0,
            max=float(len(counts)),
            num=uses.sum(),
            sum=(uses * codes).sum(),
            sum_squares=(uses * codes**2).sum(),
            bucket_limits=(codes + 1).tolist(),
            bucket_counts=uses.tolist(),
            global_step=step,
        )

    def finish(self) -> None:
        self.writer.close()
