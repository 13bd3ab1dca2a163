"""A trained model on disk: its card and its weights; folders, runs, and the models that ship."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model

from vqwave.atomic_files import new_folder
from vqwave.config import build, spec, to_tree
from vqwave.config.renamed import migrated, new_parameter
from vqwave.distributed.torch_defaults import own_defaults
from vqwave.errors import UserInputError
from vqwave.models import Model, ModelSpec
from vqwave.nn.finite import check_finite

SHIPPED = Path(__file__).parents[1] / "pretrained"


@spec
class ModelCard:
    """`model/config.json`: everything but the weights."""

    format: Literal[2] = 2
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


def save_trained(folder: Path, model: Model, card: ModelCard) -> None:
    """Write `model.safetensors` and `config.json` into `folder`, atomically."""
    with new_folder(folder) as temporary:
        save_model(model, str(temporary / "model.safetensors"))
        tree = {"kind": card.kind, **to_tree(card)}
        (temporary / "config.json").write_text(json.dumps(tree, indent=1))


def find_model(name: str | Path) -> Path:
    """The model folder that a run folder, a model folder, or the name of a shipped model means."""
    path = Path(name)
    for folder in (path / "model", path, SHIPPED / str(name)):
        if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
            return folder
    if path.exists():
        hint = (
            "a run that has saved no model yet"
            if (path / "config.yaml").exists()
            else "no model in it"
        )
        raise UserInputError(
            f"{name}: {hint}, expected a run folder, or a folder with config.json and"
            " model.safetensors"
        )
    shipped = sorted(p.name for p in SHIPPED.glob("*")) if SHIPPED.exists() else []
    known = f", or one of {', '.join(shipped)}" if shipped else ""
    raise UserInputError(f"{name}: no such model, expected a run folder or a model folder{known}")


@own_defaults()
def load_trained(name: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """Build the model and read its weights; nothing is unpickled. The model is in evaluation mode.

    Raises UserInputError for a folder that cannot be read, and for weights that are not finite.
    """
    if str(device).startswith("cuda") and not torch.cuda.is_available():
        raise UserInputError(f"device {device}: there is none here, expected cpu")
    folder = find_model(name)
    try:
        tree = json.loads((folder / "config.json").read_text())
        if not isinstance(tree, dict):
            raise UserInputError(
                f"{folder / 'config.json'}: a {type(tree).__name__}, expected the settings of a"
                " model"
            )
        tree.pop("kind", None)
        older = tree.get("format") == 1
        card = build(ModelCard, migrated(ModelCard, tree) | ({"format": 2} if older else {}))
        model = card.build()
        weights = load_file(folder / "model.safetensors", device=str(device))
        model.load_state_dict(
            {new_parameter(name) if older else name: w for name, w in weights.items()}
        )
        check_finite(model, folder)
    except UserInputError:
        raise
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise UserInputError(f"{folder}: the model cannot be read ({reason})") from None
    return Loaded(model.to(device).eval(), card, folder)


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Parameters of each child, and their `total`."""
    counts = {
        name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()
    }
    return {name: count for name, count in counts.items() if count} | {
        "total": sum(p.numel() for p in model.parameters())
    }
