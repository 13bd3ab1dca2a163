"""A model folder that stands alone, with a card for model hubs."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from vqwave.atomic_files import write_text
from vqwave.errors import UserInputError
from vqwave.inference.model_description import store_description
from vqwave.inference.model_folder import Loaded, load_trained, save_trained


def export_folder(name: str | Path, out: Path, *, half: bool = False) -> Loaded:
    """A folder that `vqwave.load` reads: `model.safetensors`, `config.json`, and a card
    `README.md`. Raises UserInputError.

    half: weights in 16 bits, half the bytes. They are rounded, so that a few codes differ: it is a
    codec of its own.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserInputError(f"{out}: there already, expected a new or empty folder")
    loaded = load_trained(name)
    model = copy.deepcopy(loaded.model).half() if half else loaded.model
    save_trained(out, model, loaded.card)
    store_description(out, model, loaded.card)
    write_text(out / "README.md", model_page(loaded))
    return loaded


def model_page(loaded: Loaded) -> str:
    """The folder's card, as model hubs read it: what it is, what it was trained on, how to use
    it.
    """
    card = loaded.card
    about = "\n".join(
        f"| {key.replace('_', ' ')} | {_cell(value)} |" for key, value in card.about.items()
    )
    head = "---\nlibrary_name: vqwave\npipeline_tag: audio-to-audio\ntags: [speech, vqwave]\n---\n"
    use = 'import vqwave\n\nmodel = vqwave.load("path/of/this/folder")\nprint(model)'
    return (
        f"{head}\n# {card.kind} at {card.sample_rate:,} Hz\n\n```python\n{use}\n```\n\n| |"
        f" |\n|---|---|\n{about}\n"
        + "".join(
            f"| {label} | {len(values)}: {_cell(values)} |\n"
            for label, values in card.labels.items()
        )
    )


def _cell(value: object) -> str:
    shown = (
        json.dumps(value)
        if isinstance(value, dict)
        else ", ".join(map(str, value))
        if isinstance(value, list)
        else str(value)
    )
    return shown if len(shown) <= 120 else shown[:117] + "..."
