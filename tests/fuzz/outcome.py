"""What becomes of one hostile input."""

from __future__ import annotations

import random
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.errors import UserInputError

if TYPE_CHECKING:
    from fuzz.surfaces import Surface

NO_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def outcome_of(surface: Surface, seed: int, number: int) -> tuple[str, str]:
    """`refused`, `accepted`, `tracebacks` or `memory`, and the refusal or the traceback."""
    rng = random.Random(f"{surface.name} {seed} {number}")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            surface.attempt(Path(folder), rng)
        except UserInputError as error:
            line = str(error)
            if "\n" in line or folder not in line:
                return "tracebacks", f"a refusal of several lines, or without its file: {line!r}"
            return "refused", line
        except MemoryError:
            return "memory", traceback.format_exc()
        except Exception as error:
            kind = "memory" if any(word in str(error) for word in NO_MEMORY) else "tracebacks"
            return kind, traceback.format_exc()
    return "accepted", ""
