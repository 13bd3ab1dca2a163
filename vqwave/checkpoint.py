"""What is on disk: the trained model (`model/`), and the checkpoints from which a killed run goes on as if nothing had happened."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

from vqwave.config import build, spec, to_tree
from vqwave.errors import BadInput
from vqwave.models import Model, ModelSpec
from vqwave.nn.finite import check_finite
from vqwave.nn.ranks import by_main, tensors_of_main
from vqwave.torch_defaults import own_defaults

SHIPPED = Path(__file__).parent / "pretrained"
STEP = "step-{:08d}"
NEEDED = {"network.safetensors", "average.safetensors", "optimizer.safetensors", "progress.json"}  # of a checkpoint
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}  # what a disk may answer
PATIENCE = 6.0  # seconds that a run folder's other process is waited for
LEFT = re.compile(r"\..+\.(\d+|old)")  # names under which a killed process was writing


@spec
class ModelCard:
    """`model/config.json`: everything but the weights."""

    format: Literal[1] = 1
    sample_rate: int
    labels: dict[str, list[str]]
    spec: ModelSpec
    about: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.spec.kind

    def build(self) -> Model:
        """The model, with untrained weights."""
        return self.spec.build(self.sample_rate, self.labels)


@dataclass(frozen=True)
class Loaded:
    """A trained model and its card."""

    model: Model
    card: ModelCard
    folder: Path


@contextmanager
def writing(run: Path, what: str) -> Iterator[None]:
    """Raises BadInput, a line, where the disk does not take what is written into a run folder within."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BadInput(f"{run}: {what} cannot be written ({error.strerror}); {_kept(run)}") from error
    except SafetensorError as error:  # its text ends in "(os error 28)"
        number = re.search(r"os error (\d+)", str(error))
        if number is None or int(number[1]) not in FULL:
            raise
        raise BadInput(f"{run}: {what} cannot be written ({os.strerror(int(number[1]))}); {_kept(run)}") from error


def newest_name(run: Path) -> str | None:
    """The name of a run's newest checkpoint, whole or not."""
    return max((path.name for path in (run / "checkpoints").glob("step-*")), default=None)


def _kept(run: Path) -> str:
    newest = newest_name(run)
    kept = "there is no checkpoint yet" if newest is None else f"{newest} is kept"
    return f"{kept}: make room and run the same command to go on"


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Raises BadInput while another process is within for the same run folder, which is made if need be.

    What a process holds ends with it; one that was killed may live on for moments in its children, which are waited for. Where a
    file system knows no locks, or there is no `fcntl`, nothing is held.
    """
    if run.exists() and not run.is_dir():
        raise BadInput(f"{run}: a file, expected a run folder")
    run.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    folder, until = os.open(run, os.O_RDONLY), time.monotonic() + PATIENCE  # the folder itself: nothing is left in it
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BadInput(f"{run}: another process trains there, expected to be alone") from None
                time.sleep(0.2)
            except OSError:  # no locks here
                break
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # for children, too, that have the descriptor
        os.close(folder)


def empty(folder: Path) -> None:
    """Remove all in a folder; what says that it is a run goes last, so that a killed removal can be done again."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.yaml"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_left(path: Path) -> bool:
    """Whether a killed process was writing under this name."""
    return LEFT.fullmatch(path.name) is not None


def sweep(run: Path) -> None:
    """Remove what killed processes left half-written in a run folder. No other process may be writing there."""
    for place in (run, run / "checkpoints"):
        for path in place.iterdir() if place.is_dir() else ():
            if is_left(path):
                final = path.with_name(path.name[1:].rpartition(".")[0])
                if path.suffix == ".old" and not final.exists():  # killed between the two renames
                    os.replace(path, final)
                    continue
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in place of an older one; a kill in between leaves the older one under a name of its own."""
    retired = final.with_name(f".{final.name}.old")
    shutil.rmtree(retired, ignore_errors=True)
    if final.exists():
        os.replace(final, retired)
    os.replace(temporary, final)
    shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def save_trained(folder: Path, model: Model, card: ModelCard) -> None:
    """Write `model.safetensors` and `config.json` into `folder`, atomically."""
    with new_folder(folder) as temporary:
        save_model(model, str(temporary / "model.safetensors"))
        tree = {"kind": card.kind, **to_tree(card)}
        (temporary / "config.json").write_text(json.dumps(tree, indent=1))


def update_card(folder: Path, about: Mapping[str, Any]) -> None:
    """Set entries of a card's `about`, atomically. Raises BadInput where it cannot be written."""
    path = folder / "config.json"
    tree = json.loads(path.read_text())
    tree["about"] |= about
    try:
        write_text(path, json.dumps(tree, indent=1))
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """An empty folder beside `final` that takes its place once it is filled; after an error nothing of it is left."""
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    replace_folder(temporary, final)


def find_model(name: str | Path) -> Path:
    """The model folder that a run folder, a model folder, or the name of a shipped model means."""
    path = Path(name)
    for folder in (path / "model", path, SHIPPED / str(name)):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    if path.exists():
        hint = "a run that has saved no model yet" if (path / "config.yaml").exists() else "no model in it"
        raise BadInput(f"{name}: {hint}, expected a run folder, or a folder with config.json and model.safetensors")
    shipped = sorted(p.name for p in SHIPPED.glob("*")) if SHIPPED.exists() else []
    known = f", or one of {', '.join(shipped)}" if shipped else ""
    raise BadInput(f"{name}: no such model, expected a run folder or a model folder{known}")


@own_defaults()
def load_trained(name: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """Build the model and read its weights; nothing is unpickled. The model is in evaluation mode.

    Raises BadInput for a folder that cannot be read, and for weights that are not finite.
    """
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"device {device}: there is none here, expected cpu")
    folder = find_model(name)
    try:
        tree = json.loads((folder / "config.json").read_text())
        if not isinstance(tree, dict):
            raise BadInput(f"{folder / 'config.json'}: a {type(tree).__name__}, expected the settings of a model")
        tree.pop("kind", None)
        card = build(ModelCard, tree)
        model = card.build()
        load_model(model, str(folder / "model.safetensors"), device=str(device))
        check_finite(model, folder)
    except BadInput:
        raise
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise BadInput(f"{folder}: the model cannot be read ({reason})") from None
    return Loaded(model.to(device).eval(), card, folder)


@dataclass
class Checkpoint:
    """All that a resume needs: tensors by part, and plain numbers. No pickles."""

    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Tensor] = field(default_factory=dict)


def flatten_optimizer(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as tensors `index/name` and plain numbers."""
    tensors, plain = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else plain)[f"{index}/{name}"] = value
    groups = [{k: v for k, v in group.items() if not isinstance(v, Tensor)} for group in state["param_groups"]]
    return tensors, {"state": plain, "param_groups": groups}


def unflatten_optimizer(tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *plain["state"].items()]:
        index, name = key.split("/", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `folder/step-N` under a temporary name, checksummed and flushed, rename it into place, then prune older ones."""
    final = folder / STEP.format(step)
    tensors, plain = flatten_optimizer(checkpoint.optimizer)
    with new_folder(final) as temporary:
        save_file(_contiguous(checkpoint.network), temporary / "network.safetensors")
        save_file(_contiguous(checkpoint.average), temporary / "average.safetensors")
        save_file(_contiguous(tensors), temporary / "optimizer.safetensors")
        save_file(_contiguous(checkpoint.beside), temporary / "beside.safetensors")
        (temporary / "progress.json").write_text(json.dumps({"optimizer": plain, **checkpoint.progress}))
        files = sorted(temporary.iterdir())
        (temporary / "SHA256.json").write_text(json.dumps({file.name: file_digest(file) for file in files}))
        for file in temporary.iterdir():
            _flush(file)
    _flush(folder)
    _prune(folder, final, keep)
    return final


def _flush(path: Path) -> None:
    """To the disk itself: a file's content, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Leave `newest` and the keep - 1 before it; what is later was passed over as damaged, and is of an abandoned future."""
    steps = sorted(folder.glob("step-*"))
    older = [path for path in steps if path.name < newest.name]
    for path in [*older[: len(older) - (keep - 1)], *(path for path in steps if path.name > newest.name)]:
        shutil.rmtree(path)


def _read_checkpoint(folder: Path) -> Checkpoint:
    """Raises OSError, ValueError or SafetensorError where the checkpoint is not whole."""
    digests = json.loads((folder / "SHA256.json").read_text())
    if not isinstance(digests, dict) or not digests.keys() >= NEEDED:
        raise ValueError("SHA256.json does not name all its files")
    for name, digest in digests.items():
        if file_digest(folder / name) != digest:
            raise ValueError(f"{name} is damaged")
    progress = json.loads((folder / "progress.json").read_text())
    optimizer = unflatten_optimizer(load_file(folder / "optimizer.safetensors"), progress.pop("optimizer"))
    network, average = load_file(folder / "network.safetensors"), load_file(folder / "average.safetensors")
    beside = folder / "beside.safetensors"
    return Checkpoint(network, average, optimizer, progress, load_file(beside) if beside.exists() else {})


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint of a run, and a line for each damaged one that was passed over."""
    notes = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            return _read_checkpoint(path), notes
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            notes.append(f"{path}: not whole ({error}); falling back to the one before")
    return None, notes


def of_main(checkpoint: Checkpoint | None, device: torch.device) -> Checkpoint | None:
    """The main process' checkpoint on every process, which need not see its disk; all must call."""
    moments, plain = flatten_optimizer(checkpoint.optimizer) if checkpoint else ({}, {})
    told = by_main(lambda: None if checkpoint is None else (plain, checkpoint.progress))
    if told is None:
        return None
    parts = (
        {}
        if checkpoint is None
        else {"network": checkpoint.network, "average": checkpoint.average, "moments": moments, "beside": checkpoint.beside}
    )
    flat = {f"{part}:{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
    found: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "moments": {}, "beside": {}}
    for key, value in tensors_of_main(flat, device).items():
        part, name = key.split(":", 1)
        found[part][name] = value
    optimizer = unflatten_optimizer(found.pop("moments"), told[0])
    return Checkpoint(**found, optimizer=optimizer, progress=told[1])


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Parameters of each child, and their `total`."""
    counts = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    return {name: count for name, count in counts.items() if count} | {"total": sum(p.numel() for p in model.parameters())}
