"""Checkpoints: all that a resume needs, written atomically, read with a digest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from vqwave import parsing
from vqwave.atomic_files import _flush, file_digest, new_folder, write_bytes, write_text
from vqwave.config.renamed import new_parameter
from vqwave.distributed.collectives import by_main, tensors_of_main
from vqwave.errors import UserInputError

EXTRA, OLD_EXTRA = "extra.safetensors", "beside.safetensors"
STEP = "step-{:08d}"
# of a checkpoint
NEEDED = {"network.safetensors", "average.safetensors", "optimizer.safetensors", "progress.json"}


def update_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Set entries of a card's `about`, atomically.

    Raises UserInputError where it cannot be written.
    """
    path = folder / "config.json"
    tree = parsing.read_json(path, "the settings of a model", dict[str, Any])
    tree["about"] = {**tree.get("about", {}), **about}
    try:
        write_text(path, json.dumps(tree, indent=1))
    except OSError as error:
        raise UserInputError(f"{path}: cannot be written ({error.strerror})") from None


def update_weights(folder: Path, changed: Mapping[str, Tensor]) -> None:
    """Set tensors of a model's weights, each stored in the type that it has there, atomically.

    Raises UserInputError for a name that is not there, and where it cannot be written.
    """
    path = folder / "model.safetensors"
    weights = load_file(path)
    for name, tensor in changed.items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise UserInputError(f"{path}: no {name} of shape {tuple(tensor.shape)}")
        weights[name] = tensor.detach().to(weights[name])
    try:
        write_bytes(path, save(weights))
    except OSError as error:
        raise UserInputError(f"{path}: cannot be written ({error.strerror})") from None


@dataclass
class Checkpoint:
    """All that a resume needs: tensors by part, and plain numbers. No pickles."""

    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What an experiment keeps in addition to the model, see `Experiment.extra_state`."""


@dataclass(frozen=True)
class Group:
    """Of the parameters of an optimizer."""

    params: list[parsing.Count]
    lr: parsing.Finite


@dataclass(frozen=True)
class Optimizer:
    """What of an optimizer is no tensor."""

    state: dict[str, bool | float | None]
    param_groups: Annotated[list[Group], Field(min_length=1)]


Sums = dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]


@dataclass(frozen=True)
class Progress:
    """`progress.json`; the last two are missing in that of an older release."""

    optimizer: Optimizer
    step: parsing.Count
    seconds: Annotated[parsing.Finite, Field(ge=0)]
    running: Sums | list[Sums]
    rows: parsing.Count | None = None
    steps: parsing.Count | None = None


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as tensors `index/name` and plain numbers."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{index}/{name}"] = value
    groups = [
        {k: v for k, v in group.items() if not isinstance(v, Tensor)}
        for group in state["param_groups"]
    ]
    return tensors, {"state": plain, "param_groups": groups}


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *plain["state"].items()]:
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `folder/step-N` under a temporary name, checksummed and flushed, rename it into place,
    then prune older ones.
    """
    final = folder / STEP.format(step)
    tensors, plain = flatten_optimizer(checkpoint.optimizer)
    with new_folder(final) as temporary:
        save_file(_contiguous(checkpoint.network), temporary / "network.safetensors")
        save_file(_contiguous(checkpoint.average), temporary / "average.safetensors")
        save_file(_contiguous(tensors), temporary / "optimizer.safetensors")
        save_file(_contiguous(checkpoint.extra), temporary / EXTRA)
        (temporary / "progress.json").write_text(
            json.dumps({"optimizer": plain, **checkpoint.progress})
        )
        files = sorted(temporary.iterdir())
        (temporary / "SHA256.json").write_text(
            json.dumps({file.name: file_digest(file) for file in files})
        )
        for file in temporary.iterdir():
            _flush(file)
    _flush(folder)
    _prune(folder, final, keep)
    return final


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Leave `newest` and the keep - 1 before it; what is later was passed over as damaged, and is
    of an abandoned future.
    """
    steps = sorted(folder.glob("step-*"))
    older = [path for path in steps if path.name < newest.name]
    for path in [
        *older[: max(0, len(older) - (keep - 1))],
        *(path for path in steps if path.name > newest.name),
    ]:
        shutil.rmtree(path)


def _read_checkpoint(folder: Path) -> Checkpoint:
    """Raises OSError, ValueError or SafetensorError where the checkpoint is incomplete."""
    digests = parsing.read_json(folder / "SHA256.json", "digests of its files", dict[str, str])
    if not digests.keys() >= NEEDED:
        raise ValueError("SHA256.json does not name all its files")
    for name, digest in digests.items():
        if Path(name).name != name:
            raise ValueError(f"SHA256.json names {name[:60]!r}, expected the name of a file in it")
        parsing.open_regular(folder / name).close()
        if file_digest(folder / name) != digest:
            raise ValueError(f"{name} is damaged")
    path = folder / "progress.json"
    progress = parsing.read_json(path, "what a resume needs", dict[str, Any], finite=False)
    parsing.checked(Progress, progress, str(path))
    optimizer = unflatten_optimizer(
        load_file(folder / "optimizer.safetensors"), progress.pop("optimizer")
    )
    network, average = (
        {
            new_parameter(name): tensor
            for name, tensor in load_file(folder / f"{part}.safetensors").items()
        }
        for part in ("network", "average")
    )
    extra = next((path for name in (EXTRA, OLD_EXTRA) if (path := folder / name).exists()), None)
    return Checkpoint(
        network, average, optimizer, progress, {} if extra is None else load_file(extra)
    )


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run, and a line for each damaged one that was passed
    over.
    """
    notes: list[str] = []
    paths = sorted(folder.glob("step-*"), reverse=True)
    for path in paths:
        try:
            return _read_checkpoint(path), notes
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            then = "the run begins again" if path == paths[-1] else "falling back to the one before"
            notes.append(f"{path}: not complete ({error}); {then}")
    return None, notes


def of_main(checkpoint: Checkpoint | None, device: torch.device) -> Checkpoint | None:
    """The main process' checkpoint on every process, which need not see its disk; all must call."""
    moments, plain = flatten_optimizer(checkpoint.optimizer) if checkpoint else ({}, {})
    numbers = by_main(lambda: None if checkpoint is None else (plain, checkpoint.progress))
    if numbers is None:
        return None
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "moments": {}, "extra": {}}
    if checkpoint is not None:
        parts |= {"network": checkpoint.network, "average": checkpoint.average}
        parts |= {"moments": moments, "extra": checkpoint.extra}
    flat = {
        f"{part}:{name}": value
        for part, tensors in parts.items()
        for name, value in tensors.items()
    }
    received: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    for key, value in tensors_of_main(flat, device).items():
        part, name = key.split(":", 1)
        received[part][name] = value
    optimizer = unflatten_optimizer(received.pop("moments"), numbers[0])
    return Checkpoint(**received, optimizer=optimizer, progress=numbers[1])


def own_running(running: Sums | list[Sums], rank: int, world: int) -> dict[str, list[float]]:
    """A rank's sums since the last log row, from those of an older checkpoint, or by rank; those of
    another number of ranks are all added to the first's.
    """
    every = running if isinstance(running, list) else [running]
    if len(every) == world:
        return every[rank]
    names = sorted({name for each in every for name in each})
    first = rank == 0
    return {
        n: [sum(each[n][k] for each in every if n in each) if first else 0 for k in (0, 1)]
        for n in names
    }
