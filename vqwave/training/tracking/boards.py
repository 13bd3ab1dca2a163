"""What shows a run while it goes on: wandb, or tensorboard. Both are imported only when used."""

from __future__ import annotations

import importlib
import netrc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy.typing import NDArray

from vqwave.audio import Wave
from vqwave.errors import UserInputError
from vqwave.terminal import message

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


def check_board(kind: str) -> None:
    """Raises UserInputError where a board cannot be opened; to be asked before anything is
    written.
    """
    if kind == "tensorboard":
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError:
            what = "tensorboard is not installed"
            raise UserInputError(f"train.tracker: {what}; pip install 'vqwave[track]'") from None
    elif kind == "wandb":
        wandb_mode()


def wandb_mode() -> str | None:
    """The mode to open a run in: WANDB_MODE, else offline without a login, else None: as set.

    Raises UserInputError where WANDB_MODE is online without a login, or wandb does not start at
    all.
    """
    mode = os.environ.get("WANDB_MODE") or None
    if mode == "disabled" or open_run() is not None:
        return mode
    settings = _wandb_settings()
    if mode not in (None, "online") or _has_login(settings):
        return mode
    if mode == "online":
        what = "WANDB_MODE is online, and wandb has no login"
        raise UserInputError(
            f"train.tracker: {what}; expected WANDB_API_KEY, or `wandb login` first"
        )
    return "offline"


def open_run() -> Any | None:  # noqa: ANN401 - wandb's
    """The run of wandb that this process has open: one of `wandb.agent(function=...)`, say."""
    return getattr(sys.modules.get("wandb"), "run", None)


def _wandb_settings() -> Any:  # noqa: ANN401 - wandb's
    """Raises UserInputError where wandb cannot have any: without a home directory, say."""
    try:
        return importlib.import_module("wandb").setup().settings
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        way = "expected HOME to be a folder, or another tracker"
        raise UserInputError(f"train.tracker: wandb cannot start ({reason}); {way}") from None


def _has_login(settings: Any) -> bool:  # noqa: ANN401 - wandb's
    """Whether wandb has a key where it looks for one, or needs none, since it is set offline.

    wandb has no call for it in all its releases: `wandb.login` would ask at a terminal, and wait.
    """
    if settings.mode not in ("online", "run", "shared"):
        return True
    keys = (os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"))
    if any(keys) or getattr(settings, "api_key", None):
        return True
    default = "~/_netrc" if sys.platform == "win32" else "~/.netrc"
    try:
        file = netrc.netrc(os.path.expanduser(os.environ.get("NETRC") or default))  # noqa: PTH111
    except (OSError, netrc.NetrcParseError):
        return False
    return file.authenticators(urlsplit(settings.base_url).netloc) is not None


class WandbBoard:
    """A wandb run; WANDB_PROJECT names the project, else it is vqwave.

    Online, offline or disabled, by WANDB_MODE; where wandb has no login, offline, with a line
    on how to upload it. A run that is open already is taken, and left open.

    The axis of all charts is `step`, a column of its own: a resumed run may repeat rows from
    before it was killed, which wandb would refuse for its own counter.
    """

    def __init__(self, folder: Path, identity: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.wandb, self.mode = wandb, wandb_mode()
        self.own = open_run() is None
        if self.own:
            self.run = self._opened(folder, identity, config)
        else:
            self.run = open_run()
            self.run.config.update(dict(config), allow_val_change=True)
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def _opened(self, folder: Path, name: str, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
        mode: Any = self.mode  # wandb itself refuses what is none of its modes
        try:
            run = self.wandb.init(
                project=os.environ.get("WANDB_PROJECT", "vqwave"),
                name=folder.name,
                id=name,
                resume="allow",
                dir=str(folder),
                mode=mode,
                config=dict(config),
            )
        except (self.wandb.errors.Error, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            way = "WANDB_MODE=offline does without"
            raise UserInputError(
                f"train.tracker: wandb cannot open a run ({reason}); {way}"
            ) from None
        if self.mode == "offline" and not os.environ.get("WANDB_MODE"):
            place = Path(run.dir).parent
            message(
                "note: wandb has no login, the run is kept offline; to upload it: wandb login,"
                f" then wandb sync {place}",
            )
        return run

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
        if self.own:
            self.run.finish()


class TensorBoard:
    """Event files in `tensorboard/` of the run folder.

    What a killed run wrote after `step` is struck out.
    """

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]) -> None:
        check_board("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

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

    def sound(
        self,
        step: int,
        name: str,
        wave: Wave,
        sample_rate: int,
        caption: str,  # noqa: ARG002 - of `Board`
    ) -> None:
        self.writer.add_audio(name, torch.from_numpy(wave)[None], step, sample_rate)

    def picture(
        self,
        step: int,
        name: str,
        image: NDArray[np.uint8],
        caption: str,  # noqa: ARG002 - of `Board`
    ) -> None:
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
