"""Where a run's numbers and sounds go: `metrics.jsonl` and `samples/` always, wandb or tensorboard when asked."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from vqwave.audio import level_db, write
from vqwave.checkpoint import replace_folder, write_text


class Tracker:
    """Rows {"step", "seconds", name: value} in `metrics.jsonl`, and the same numbers in accelerate's tracker, main process only."""

    def __init__(self, accelerator: Accelerator, run: Path, tracker: str, config: Mapping[str, Any]) -> None:
        self.accelerator = accelerator
        self.path = run / "metrics.jsonl"
        self.external = tracker != "none"
        if self.external:
            wandb = {"name": run.name, "id": self._identity(run), "resume": "allow", "dir": str(run)}
            accelerator.init_trackers("vqwave", dict(flatten(config)), {"wandb": wandb} if tracker == "wandb" else {})

    def _identity(self, run: Path) -> str:
        """The tracker's name of this run, drawn once and kept in the run folder, so that a resumed run goes on in the same one."""
        path = run / "tracker_id"
        if self.accelerator.is_main_process and not path.exists():
            write_text(path, secrets.token_hex(4))
        return path.read_text() if path.exists() else ""

    def rewind(self, step: int) -> None:
        """Forget rows after `step`: a resumed run writes them again. A torn last row is dropped, too."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["step"] <= step:
                kept.append(line)
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text("".join(f"{line}\n" for line in kept))
        os.replace(temporary, self.path)

    def log(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "seconds": round(seconds, 3), **values}) + "\n")
        if self.external:
            self.accelerator.log(dict(values), step=step)

    def finish(self) -> None:
        if self.external:
            self.accelerator.end_training()


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
            flat[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) or value is None else str(value)
    return flat


class SampleSheet:
    """`samples/`: recordings that a run made, and `index.json` which says what each one is. Put in place as a whole."""

    def __init__(self, folder: Path, sample_rate: int, step: int) -> None:
        self.folder, self.sample_rate, self.step = folder, sample_rate, step
        self.temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        self.rows: list[dict[str, Any]] = []
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def add(self, utterance: str, kind: str, wave: Tensor, *, speaker: str | None, text: str, target: str | None = None) -> None:
        """wave (T,) of one kind: original, reconstruction, conversion (to `target`), student, generation."""
        samples = wave.cpu().numpy()
        stem = utterance.replace("/", "_")
        name = ".".join(part for part in (stem, kind, target) if part) + ".wav"
        write(self.temporary / name, samples, self.sample_rate)
        self.rows.append(
            {
                "utterance": utterance,
                "speaker": speaker,
                "text": text,
                "kind": kind,
                "target": target,
                "path": name,
                "seconds": len(samples) / self.sample_rate,
                "level_db": level_db(samples),
            }
        )

    def close(self) -> None:
        index = {"step": self.step, "sample_rate": self.sample_rate, "rows": self.rows}
        (self.temporary / "index.json").write_text(json.dumps(index, indent=1))
        replace_folder(self.temporary, self.folder)
