"""A model folder that stands alone, of a model by its name."""

from __future__ import annotations

from pathlib import Path

from vqwave.inference.model_description import store_description
from vqwave.inference.model_folder import Loaded, load_trained
from vqwave.inference.standalone_folder import Facts, write_folder


def export_folder(name: str | Path, out: Path, *, half: bool = False) -> Loaded:
    """A folder that `vqwave.load` reads, with a page for model hubs: see `write_folder`.

    half: weights in 16 bits, half the bytes. They are rounded, so that a few codes differ: it is a
    codec of its own. Raises UserInputError.
    """
    loaded = load_trained(name)

    def describe(folder: Path) -> None:
        written = load_trained(folder) if half else loaded  # rounded weights: another fingerprint
        store_description(folder, written.model, written.card)

    write_folder(loaded, out, Facts(), half=half, finish=describe)
    return loaded
