"""The state of a stream, in memory and as a file, and whether it is one of the stream at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vqwave import parsing
from vqwave.atomic_files import write_bytes
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming.engines import Arrays
from vqwave.errors import UserInputError

FORMAT = 1
# prefixes of the names of saved arrays
ENGINE, ATTRIBUTES, POSTFILTER = "engine.", "told.", "postfilter."
# frames that wait: their last axis
GROWING = (
    *("codes", "z", "pitch_codes", "pitch", "columns"),
    *(f"{POSTFILTER}wave", f"{POSTFILTER}frames"),
)
# of what an engine has begun and not yet sent, by the last part of its name
BEGUN = ("last", "partial", "known", "ready", "samples", "unfinished", "pasts", "phases")
LATEST = 1 << 53  # sample


@dataclass(frozen=True)
class Counts:
    """Frames and samples so far, and the number of the first column that is kept."""

    pushed: parsing.Count
    sent: parsing.Count
    column: parsing.Count
    filtered: parsing.Count = 0  # frames


@dataclass(frozen=True)
class StreamHeader:
    """What of a state is no array."""

    format: Literal[1]
    model: str
    engine: str
    sampling: Sampling
    counts: Counts
    pending: dict[Literal["first", "frame", "pitch_code"], parsing.Count]
    over: bool


@dataclass(frozen=True)
class StreamState:
    """The state of a stream: a header (JSON) and arrays by name."""

    header: dict[str, Any]
    arrays: Arrays

    def save(self, path: str | Path) -> None:
        """As safetensors, the header among its metadata; put in place in one go."""
        data = save(self.arrays, {"stream": json.dumps(self.header)})
        try:
            write_bytes(Path(path), data)
        except OSError as error:
            raise UserInputError(f"{path}: cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: str | Path) -> StreamState:
        """Raises UserInputError for what is no saved stream."""
        try:
            parsing.open_regular(path).close()
            with safe_open(str(path), framework="numpy") as file:
                text = (file.metadata() or {})["stream"]
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        except UserInputError:
            raise
        except (OSError, SafetensorError, LookupError, ValueError, TypeError) as error:
            raise UserInputError(
                f"{path}: cannot be read ({error}), expected a saved stream"
            ) from None
        header = parsing.checked(dict[str, Any], parsing.parse_json(text, str(path)), str(path))
        if header.get("format") != FORMAT:
            raise UserInputError(
                f"{path}: a stream of format {header.get('format')!r}, expected {FORMAT}"
            )
        parsing.checked(StreamHeader, header, str(path))
        unknown = set(header["sampling"]) - set(Sampling.__dataclass_fields__)
        if unknown:
            raise UserInputError(f"{path}: sampling.{min(unknown)}: no setting of a stream")
        return cls(header, arrays)


def check_arrays(given: Arrays, own: Arrays, codes: dict[str, int]) -> None:
    """Whether the arrays of a state are of the stream whose arrays at its beginning are `own`.

    codes: how many there are, by the names of arrays that hold such. Raises UserInputError.
    """
    for name, expected in own.items():
        if name not in given:
            raise UserInputError(f"this stream's state has no {name}")
        _check_array(name, given[name], expected)
    for name, array in given.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserInputError(f"this stream's state: {name} holds NaN or infinity")
        if array.dtype.kind in "iu" and array.size and not name.endswith("rings"):  # bf16 words
            most = codes.get(name, LATEST)
            if int(array.min()) < 0 or int(array.max()) >= most:
                raise UserInputError(f"this stream's state: {name} beyond 0 to {most - 1}")


def check_voices(given: Arrays) -> None:
    """Raises UserInputError unless labels are whole numbers (1,) and vectors numbers (1, V)."""
    for name, x in given.items():
        label, vector = x.dtype.kind == "i" and x.ndim == 1, x.dtype.kind == "f" and x.ndim == 2
        if not (label or vector) or len(x) != 1:
            raise UserInputError(f"this stream's state: {ATTRIBUTES}{name} of shape {x.shape}")


def _check_array(name: str, given: NDArray[Any], expected: NDArray[Any]) -> None:
    shape, wanted = list(given.shape), list(expected.shape)
    last = name.rpartition(".")[2]
    if name in GROWING and len(shape) == len(wanted):
        shape, wanted = shape[:-1], wanted[:-1]
    elif name == "columns" or last in BEGUN:
        shape, wanted = [len(shape)], [len(wanted) if last in BEGUN else 3]
    if given.dtype != expected.dtype or shape != wanted:
        raise UserInputError(
            f"this stream's state: {name} of shape {given.shape}, {given.dtype}, expected"
            f" {expected.shape}, {expected.dtype}"
        )
