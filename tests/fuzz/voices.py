"""Hostile voices: of models with a melody and vectors of speakers, and of corpora."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch

from fuzz.models import singer, sung
from fuzz.mutations import any_bytes, hostile_value, json_text
from vqwave import audio
from vqwave.app.models import described_voices
from vqwave.data.speaker_vectors import FILE, SpeakerVectors
from vqwave.decode.sampling import Sampling
from vqwave.errors import under
from vqwave.inference.model_description import rows_of
from vqwave.inference.model_folder import save_trained
from vqwave.inference.speech_model import SpeechModel

PLAIN = Sampling(seed=0, backend="reference")
WEIGHTS = "model.safetensors"
TYPES = (np.float16, np.float64, np.int8, np.int64, np.uint8, np.bool_)
VALUES = (0.0, -1.0, 1e-30, 7.0, 1e4, 1e30, 3e38, np.nan, np.inf, -np.inf)


@cache
def saved_singer(folder: Path) -> dict[str, bytes]:
    model = singer()
    save_trained(folder, model.kind.complete, model.card, model.voices)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def singing_model(folder: Path, rng: random.Random, *, home: Path) -> None:
    """A model folder with a hostile card, vectors of voices, or ranges of them."""
    files = dict(saved_singer(home))
    how = rng.random()
    if how < 0.5:
        files["config.json"] = json_text(json.loads(files["config.json"]), rng)
    elif how < 0.85:
        files[FILE] = vectors_file(files[FILE], rng)
    else:
        files[WEIGHTS] = ranges_file(files[WEIGHTS], rng)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    model = SpeechModel.load(folder)
    with under(str(folder)):
        rows_of(model), described_voices(model)
        wave = model.decode(sung(), speaker="ann", sampling=PLAIN)
        audio.to_int16(wave.numpy())  # refuses NaN


def vectors_file(data: bytes, rng: random.Random) -> bytes:
    """`voices.safetensors`, its arrays, its names or its bytes altered."""
    if rng.random() < 0.2:
        return any_bytes(data, rng)
    arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    names: object = ["ann", "bob"]
    how, name = rng.randrange(6), rng.choice(sorted(arrays))
    if how == 0:
        names = rng.choice((["ann"], ["bob", "cid"], ["ann", "ann"], ["cid", "ann"], ["", "ann"]))
    elif how == 1:
        names = hostile_value(rng)
    elif how == 2:
        arrays[name] = arrays[name].astype(rng.choice(TYPES))
    elif how == 3:
        shape = rng.choice(((0,), (1, 256), (2, 0), (256,), (3, 256), (256, 257), ()))
        arrays[name] = np.ones(shape, np.float32)
    elif how == 4:
        del arrays[name]
    else:
        array = arrays[name].reshape(-1)
        array[rng.randrange(array.size) :: rng.choice((1, 3, 999))] = rng.choice(VALUES)
    about = {"encoder": "resemblyzer", "names": json.dumps(names)}
    return safetensors.numpy.save(arrays, metadata=about if rng.random() < 0.95 else {})


def ranges_file(data: bytes, rng: random.Random) -> bytes:
    """Weights, the mean or deviation of a voice's F0 altered."""
    arrays = {name: array.copy() for name, array in safetensors.numpy.load(data).items()}
    name = next(name for name in arrays if name.endswith("melody.voices"))
    if rng.random() < 0.2:
        name = rng.choice(sorted(arrays))
    array = arrays[name].reshape(-1)
    if array.size and array.dtype.kind == "f":
        array[rng.randrange(array.size)] = rng.choice(VALUES)
    return safetensors.numpy.save(arrays)


def vectors(folder: Path, rng: random.Random) -> None:
    """`voices.safetensors` of a corpus, read alone."""
    path = folder / FILE
    singer().voices.save(path)
    path.write_bytes(vectors_file(path.read_bytes(), rng))
    voices = SpeakerVectors.load(path)
    for name in voices.names:
        nearest, cosine = voices.nearest(voices.of(name))
        assert nearest in voices.names
        assert abs(cosine) < 1.01
    if voices.whitening is not None:
        assert np.isfinite(voices.whitening(voices.vectors)).all()
    assert torch.from_numpy(voices.vectors).isfinite().all()
