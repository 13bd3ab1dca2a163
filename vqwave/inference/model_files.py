"""Where models are: run folders, model folders, and the models that ship; and what is stored of
them. Imported without torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vqwave import parsing
from vqwave.atomic_files import write_text
from vqwave.errors import UserInputError
from vqwave.inference import hub

CARD, WEIGHTS, DESCRIPTION = "config.json", "model.safetensors", "description.json"
ROWS = b"1"  # another number for other rows, so that those stored by older versions are not taken
SHIPPED = Path(__file__).parents[1] / "pretrained"


def find_model(name: str | Path) -> Path:
    """The model folder that a run folder, a model folder, the name of a shipped model, or one of a
    hub means; of a hub, it is fetched. Raises UserInputError.
    """
    if hub.is_address(name):
        return hub.fetch(hub.HubAddress.parse(str(name)))
    path = Path(name)
    places = [path / "model", path]
    if Path(name).name == str(name) and not (path / "config.yaml").exists():  # no path, no run
        places.append(SHIPPED / str(name))
    for folder in places:
        if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
            return folder
    if path.exists():
        hint = (
            "a run that has saved no model yet"
            if (path / "config.yaml").exists()
            else "no model in it"
        )
        raise UserInputError(
            f"{name}: {hint}, expected a run folder, or a folder with {CARD} and {WEIGHTS}"
        )
    shipped = sorted(p.name for p in SHIPPED.glob("*")) if SHIPPED.exists() else []
    known = f", or one of {', '.join(shipped)}" if shipped else ""
    wanted = f"expected a run folder, a model folder, or hf://USER/REPO{known}"
    raise UserInputError(f"{name}: no such model, {wanted}")


def own_folder(name: str | Path) -> Path:
    """The same of a model that is to be changed: of a hub, only the cache could be, and one that
    ships belongs to the package.

    Raises UserInputError.
    """
    wanted = "expected a folder of your own, such as save_pretrained and export write"
    if hub.is_address(name):
        raise UserInputError(f"{name}: a model of a hub, {wanted}")
    folder = find_model(name)
    if folder.parent == SHIPPED and Path(name).name == str(name):  # by its name
        raise UserInputError(f"{name}: a model of the package, {wanted}")
    return folder


@dataclass(frozen=True)
class Description:
    """`description.json`: the rows of `vqwave info`, of the card and weights that `check` names."""

    check: str
    rows: dict[str, str]


def stored_rows(folder: Path) -> dict[str, str] | None:
    """The rows stored with a model; None where there are none, or card or weights have changed.

    Raises UserInputError for a card or weights that cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    try:
        stored = parsing.read_json(path, "a model's description", Description)
    except UserInputError:
        return None
    return stored.rows if stored.check == _check(folder) else None


def store_rows(folder: Path, rows: dict[str, str]) -> None:
    """Store the rows of the model in `folder`."""
    tree = {"check": _check(folder), "rows": rows}
    write_text(folder / DESCRIPTION, json.dumps(tree, indent=1))


def _check(folder: Path) -> str:
    """Names card, weights and the version of the rows."""
    digest = hashlib.sha256(ROWS)
    for name in (CARD, WEIGHTS):
        try:
            with parsing.open_regular(folder / name) as file:
                while piece := file.read(parsing.PIECE):
                    digest.update(piece)
        except OSError as error:
            reason = error.strerror
            raise UserInputError(f"{folder / name}: cannot be read ({reason})") from None
    return digest.hexdigest()[:16]


def shortened(values: Sequence[str], most: int = 100) -> str:
    """How many, and the first of them."""
    return f"{len(values)}: " + ", ".join(values[:most]) + (", ..." if len(values) > most else "")
