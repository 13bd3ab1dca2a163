"""The recordings that a run makes to be listened to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from vqwave.atomic_files import new_folder
from vqwave.audio import Wave, level_db, write
from vqwave.distributed.collectives import gather_objects, rank
from vqwave.names import file_names


class SampleSheet:
    """`samples/`: recordings that a run made, and `index.json`, which describes each one.

    Written atomically.

    Every rank adds its own; `close`, which all must call, has the main process write all of them.
    """

    def __init__(self, folder: Path, sample_rate: int, step: int) -> None:
        self.folder, self.sample_rate, self.step = folder, sample_rate, step
        self.rows: list[dict[str, Any]] = []
        self._waves: list[tuple[Wave, dict[str, Any]]] = []

    def add(
        self,
        utterance: str,
        kind: str,
        wave: Tensor,
        *,
        speaker: str | None,
        text: str,
        target: str | None = None,
    ) -> None:
        """wave (T,) of one kind: original, reconstruction, conversion (to `target`), student,
        generation.
        """
        samples = wave.cpu().numpy()
        row = {
            "utterance": utterance,
            "speaker": speaker,
            "text": text,
            "kind": kind,
            "target": target,
            "path": "",  # known once all are
            "seconds": len(samples) / self.sample_rate,
            "level_db": level_db(samples),
        }
        self._waves.append((samples, row))

    def close(self) -> None:
        waves = [item for share in gather_objects(self._waves) for item in share]
        self.rows = [row for _, row in waves]
        names = file_names((_parts(row) for row in self.rows), ".wav")
        for row in self.rows:
            row["path"] = names[_parts(row)]
        if rank() > 0:
            return
        with new_folder(self.folder) as folder:
            for samples, row in waves:
                write(folder / row["path"], samples, self.sample_rate)
            index = {"step": self.step, "sample_rate": self.sample_rate, "rows": self.rows}
            (folder / "index.json").write_text(json.dumps(index, indent=1))


def _parts(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What the name of a recording's file consists of."""
    return tuple(part for part in (row["utterance"], row["kind"], row["target"]) if part)
