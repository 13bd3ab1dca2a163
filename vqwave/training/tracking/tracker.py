"""The one place that a run's numbers go through."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from pydantic import Field

from vqwave import parsing
from vqwave.atomic_files import write_text
from vqwave.audio import Wave, read
from vqwave.errors import UserInputError
from vqwave.names import file_name
from vqwave.training.tracking.boards import Board, TensorBoard, WandbBoard, open_run
from vqwave.training.tracking.samples import SampleSheet

SHOWN_DB = 70.0  # range of a spectrogram


class Tracker:
    """Rows {"step", "seconds", name: value} in `metrics.jsonl`, and the same numbers on a board if
    one is asked for.

    Only the main process writes. `rewind` sets the step from which the run goes on, and opens the
    board.
    """

    def __init__(
        self, accelerator: Accelerator, run: Path, tracker: str, config: Mapping[str, Any]
    ) -> None:
        self.main = accelerator.is_main_process
        self.run, self.kind, self.config = run, tracker, flatten(config)
        self.path = run / "metrics.jsonl"
        self.board: Board | None = None

    def _identity(self) -> str:
        """The board's name of this run, kept in the run folder: a resumed run goes on in it.

        That of a run that is open, or given by wandb's agent, or drawn once.
        """
        path = self.run / "tracker_id"
        if not path.exists():
            given = getattr(open_run(), "id", None) or os.environ.get("WANDB_RUN_ID")
            write_text(path, given or secrets.token_hex(4))
        return path.read_text()

    def rewind(self, step: int, rows: int | None = None) -> None:
        """Forget rows after `step`, and after as many `rows` as there were then: a resumed run
        writes them again.

        A torn last row is dropped, too.
        """
        if not self.main:
            return
        if self.path.exists():
            kept = [row for row in self.rows() if row["step"] <= step][:rows]
            write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in kept))
        if self.kind == "wandb":
            self.board = WandbBoard(self.run, self._identity(), self.config)
        elif self.kind == "tensorboard":
            self.board = TensorBoard(self.run, step, self.config)

    def rows(self) -> list[dict[str, Any]]:
        """What `metrics.jsonl` holds."""
        return metrics_rows(self.path)

    def log(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        if not self.main:
            return
        row = {"step": step, "seconds": round(seconds, 3), **values}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            self.board.numbers(step, {name: value for name, value in row.items() if name != "step"})

    def codes(self, step: int, sections: Mapping[str, Any]) -> None:
        """How often each code is used, where an evaluation's sections have `codes`: a histogram a
        book.
        """
        if self.board is None or "codes" not in sections:
            return
        for book, counts in enumerate(sections["codes"]["counts"]):
            self.board.bars(step, f"codes/book{book}", counts)

    def samples(self, sheet: SampleSheet) -> None:
        """The recordings of a closed sheet, each with its spectrogram."""
        board = self.board
        if board is None:
            return
        for row in sheet.rows:
            wave, rate = read(sheet.folder / row["path"])
            name = "/".join(
                file_name(part)  # boards make folders of them
                for part in (row["utterance"], row["kind"], row["target"])
                if part
            )
            spoken = row["speaker"] or ""
            caption = (
                f"{row['kind']}, {spoken}{' as ' + row['target'] if row['target'] else ''}:"
                f" {row['text']}"
            )
            board.sound(sheet.step, f"samples/{name}", wave, rate, caption)
            board.picture(sheet.step, f"spectrograms/{name}", spectrogram(wave, rate), caption)

    def finish(self) -> None:
        if self.board is not None:
            self.board.finish()


def metrics_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, none where there is no file; what is no JSON is left out.

    Raises UserInputError that names the line which is no row.
    """
    if not path.exists():
        return []
    rows = []
    for number, row in parsing.read_json_lines(
        path, "rows of numbers", dict[str, Any], finite=False, torn="any"
    ):
        parsing.checked(Step, row, f"{path}, line {number}")
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Step:
    """What every row of a `metrics.jsonl` has."""

    step: Annotated[int, Field(ge=-1, lt=1 << 53)]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as flat dotted names, as trackers show them.

    >>> flatten({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = (
                value
                if isinstance(value, int | float | str | bool) or value is None
                else str(value)
            )
    return flat


def own_folder(run: Path, tree: Mapping[str, Any], ignored: Collection[str]) -> Path:
    """`{settings}` in a run's name stands for eight digits of all settings but `run` and those
    named in `ignored`.

    So the trials of a sweep, whose commands differ in a setting only, have a folder each: the same
    on every rank, and the same when the command is given again.

    >>> own_folder(Path("runs/{settings}"), {"run": "?", "optim": {"lr": 0.1}}, ())
    PosixPath('runs/fec8c3c8')

    Raises UserInputError for no name.
    """
    if run == Path():  # `run=$RUN` of a variable that is not set
        raise UserInputError("run: empty, expected a folder of its own")
    if "{settings}" not in str(run):
        return run
    named = sorted(
        (name, repr(value))
        for name, value in flatten(tree).items()
        if name != "run" and name not in ignored
    )
    digest = hashlib.blake2b(repr(named).encode(), digest_size=4).hexdigest()
    return Path(str(run).replace("{settings}", digest))


def spectrogram(wave: Wave, sample_rate: int) -> NDArray[np.uint8]:
    """wave (T,) -> a picture (frequencies, frames, 3), low ones below, 70 dB down from the loudest;
    grey without matplotlib.
    """
    window = round(0.025 * sample_rate)
    padded = np.pad(wave, (0, max(0, window - len(wave))))
    spectrum = torch.stft(
        torch.from_numpy(padded),
        n_fft=1 << (window - 1).bit_length(),
        hop_length=max(1, round(0.01 * sample_rate)),
        win_length=window,
        window=torch.hann_window(window),
        pad_mode="constant",
        return_complex=True,
    )
    level = 20 * spectrum.abs().clamp_min(1e-10).log10()
    # (frequencies, frames)
    light = ((level - level.max()) / SHOWN_DB + 1).clamp(0, 1).flip(0).numpy()
    try:
        from matplotlib import colormaps
    except ImportError:
        return np.repeat((255 * light[:, :, None]).astype(np.uint8), 3, axis=2)
    return (255 * colormaps["magma"](light)[:, :, :3]).astype(np.uint8)
