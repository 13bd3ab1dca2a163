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
    write_folder(loaded, out, Facts(), half=half)
    written = load_trained(out) if half else loaded  # rounded weights have another fingerprint
    store_description(out, written.model, written.card)
    return loaded
