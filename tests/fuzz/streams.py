"""Hostile states of streams: of the reference loop, and of the kernels, which check no index."""

from __future__ import annotations

import importlib.util
import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch

from fuzz.models import DECODERS, coded, model
from fuzz.mutations import any_bytes, any_tree
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming.saved_state import StreamState

HAS_KERNELS = importlib.util.find_spec("numba") is not None


@cache
def saved_stream(decoder: str = "wavenet", backend: str = "reference") -> StreamState:
    stream = model(decoder).stream("ann", sampling=Sampling(seed=0, backend=backend))
    stream.push(coded().codes[:, :6])
    return stream.state()


def stream_state(folder: Path, rng: random.Random) -> None:
    _resume(folder, rng, "wavenet", "reference")


BACKEND = "numba" if HAS_KERNELS else "reference"


def kernel_streams() -> list[StreamState]:
    """A stream of every decoder, which compiles its kernels."""
    return [saved_stream(decoder, BACKEND) for decoder in DECODERS]


def kernel_state(folder: Path, rng: random.Random) -> None:
    _resume(folder, rng, rng.choice(sorted(DECODERS)), BACKEND)


def _resume(folder: Path, rng: random.Random, decoder: str, backend: str) -> None:
    path, state = folder / "x.stream", saved_stream(decoder, backend)
    header, arrays = state.header, dict(state.arrays)
    how = rng.randrange(4)
    if how == 0:
        header = any_tree(json.loads(json.dumps(header)), rng)
    elif how < 3:
        name = rng.choice(sorted(arrays))
        arrays[name] = (_other_array if how == 1 else _other_values)(arrays[name], rng)
        if rng.random() < 0.1:
            del arrays[name]
    StreamState(header, arrays).save(path)
    if how == 3:
        path.write_bytes(any_bytes(path.read_bytes(), rng))
    stream = model(decoder).resume_stream(path)
    stream.push(torch.tensor([[3, 4]]))


def _other_values(array: np.ndarray, rng: random.Random) -> np.ndarray:
    """The same shape and type."""
    other = array.copy()
    if other.size:
        at = rng.randrange(other.size)
        values = (0, 1, 7, 255, 256, 1 << 20, 1e30) if other.dtype.kind == "f" else (0, 1, 7, 99)
        other.flat[at] = rng.choice(values)
    return other


def _other_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    how = rng.randrange(6)
    if how == 0:
        return array.astype(rng.choice((np.float32, np.float64, np.int64, np.int32, np.uint8)))
    if how == 1:
        return np.zeros([rng.randrange(4) for _ in range(rng.randrange(4))], array.dtype)
    if how == 2:
        return array[None]
    if how == 3 and array.dtype.kind == "f":
        return np.full_like(array, rng.choice((np.nan, np.inf, 1e38)))
    if how == 4:
        return np.concatenate([array.ravel(), array.ravel()])
    return np.full_like(array, rng.choice((-1, 10**6, 127)))
