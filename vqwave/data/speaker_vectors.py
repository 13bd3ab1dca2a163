"""A vector of each voice: of a corpus, to train on and to compare with, and of a trained model.

    CORPUS/voices.safetensors         the speakers' vectors, and how they are centred and whitened
    CORPUS/vectors/speaker_vector.npy  of each utterance its speaker's, centred and whitened
    MODEL/voices.safetensors          as of the corpus, of the voices that the model generates

A voice is the mean direction of the speaker encoder's vectors of its training recordings
(`vqwave.speaker_encoder`). Networks are conditioned on it centred and whitened: as they come, the
vectors of all voices lie in a narrow cone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqwave import parsing
from vqwave.atomic_files import new_file, write_bytes
from vqwave.audio import Wave
from vqwave.data.corpus import Corpus
from vqwave.errors import UserInputError
from vqwave.speaker_encoder import (
    SIZE,
    Embedding,
    SpeakerEncoder,
    speaker_encoder,
    voice_of,
)

FILE = "voices.safetensors"
NAME = "speaker_vector"
"""What conditioners call the vectors: `conditioner.embeddings={speaker_vector: 256}`."""
RECORDINGS, SECONDS = 20, 10.0  # of a speaker, and of each of them, that a vector is taken from
REFERENCE_SECONDS = 30.0  # of a reference
MOST_BYTES = 1 << 26
LEAST_VARIANCE = 1e-8  # of vectors along an axis


@dataclass(frozen=True)
class Whitening:
    r"""v -> W (v - m), so that the vectors of training utterances have mean 0 and covariance 1.

    .. math:: W = \hat\Sigma^{-1/2}, \quad
              \hat\Sigma = (1 - \rho) S + \rho \frac{\operatorname{tr} S}{D} I

    S is the covariance of the N vectors of D numbers, which is singular where these are few; the
    shrinkage rho is the one that fits Gaussian vectors best (OAS).

    Reference: Chen et al., 2010, "Shrinkage Algorithms for MMSE Covariance Estimation", eq. 23.
    arXiv:0907.4698
    """

    mean: Embedding  # (D,)
    matrix: Embedding  # (D, D)

    @classmethod
    def of(cls, vectors: Embedding) -> Whitening:
        """Vectors (N, D) -> what whitens them."""
        N, D = vectors.shape
        mean = vectors.mean(0)
        S = (vectors - mean).T @ (vectors - mean) / N
        trace, squares = float(np.trace(S)), float((S * S).sum())
        bottom = (N + 1 - 2 / D) * (squares - trace**2 / D)
        shrinkage = min(1.0, ((1 - 2 / D) * squares + trace**2) / bottom) if bottom > 0 else 1.0
        values, axes = np.linalg.eigh((1 - shrinkage) * S + shrinkage * trace / D * np.eye(D))
        return cls(mean, (axes / np.sqrt(np.maximum(values, LEAST_VARIANCE))) @ axes.T)

    def __call__(self, vectors: Embedding) -> NDArray[np.float32]:
        """Vectors (..., D), whitened."""
        return ((vectors - self.mean) @ self.matrix.T).astype(np.float32)


@dataclass(frozen=True)
class SpeakerVectors:
    """The voices `names`, a unit vector of each (S, D), and the whitening of their corpus, if any
    network was trained on it.
    """

    names: tuple[str, ...]
    vectors: Embedding
    whitening: Whitening | None = None

    def of(self, name: str) -> Embedding | None:
        """A voice's vector (D,), if there is one."""
        return self.vectors[self.names.index(name)] if name in self.names else None

    def only(self, names: Sequence[str]) -> SpeakerVectors:
        """Those of these voices that there are."""
        kept = [i for i, name in enumerate(self.names) if name in set(names)]
        return replace(self, names=tuple(self.names[i] for i in kept), vectors=self.vectors[kept])

    def nearest(self, vector: Embedding) -> tuple[str, float]:
        """The voice nearest to a unit vector, and the cosine of their angle."""
        cosines = self.vectors @ vector
        return self.names[int(cosines.argmax())], float(cosines.max())

    def save(self, path: Path) -> None:
        """Write a file of tensors, atomically."""
        from safetensors.numpy import save

        arrays = {"vectors": self.vectors}
        if self.whitening is not None:
            arrays |= {"mean": self.whitening.mean, "whitening": self.whitening.matrix}
        single = {name: np.ascontiguousarray(x, np.float32) for name, x in arrays.items()}
        about = {"encoder": "resemblyzer", "names": json.dumps(self.names, ensure_ascii=False)}
        write_bytes(path, save(single, metadata=about))

    @classmethod
    def load(cls, path: Path) -> SpeakerVectors:
        """Raises UserInputError for anything but what `save` writes."""
        arrays, about = _read(path)
        names = parsing.checked(
            tuple[str, ...], parsing.parse_json(about.get("names", ""), f"{path}: names"), str(path)
        )
        shapes = {"vectors": (len(names), SIZE), "mean": (SIZE,), "whitening": (SIZE, SIZE)}
        for name, array in arrays.items():
            if shapes.get(name) != array.shape or not np.isfinite(array).all():
                given = f"{name} of shape {array.shape}"
                raise UserInputError(f"{path}: {given}, expected finite {shapes.get(name, 'none')}")
        if not names or "vectors" not in arrays or len(set(names)) < len(names):
            raise UserInputError(f"{path}: expected a vector of each of some voices")
        double = {name: array.astype(np.float64) for name, array in arrays.items()}
        _check_sizes(double, path)
        whitening = None
        if {"mean", "whitening"} <= set(double):
            whitening = Whitening(double["mean"], double["whitening"])
        return cls(names, double["vectors"], whitening)


def _check_sizes(arrays: dict[str, Embedding], path: Path) -> None:
    """Raises UserInputError for vectors longer than one, and for a mean or a matrix that these, and
    a variance above `LEAST_VARIANCE`, do not give.
    """
    bounds = {"vectors": 1.0, "mean": 1.0, "whitening": LEAST_VARIANCE**-0.5}
    for name, array in arrays.items():
        sizes = np.linalg.norm(array, axis=-1) if name == "vectors" else np.abs(array)
        if sizes.max(initial=0.0) > 1.01 * bounds[name]:  # of float32, or of half precision
            given = f"{name} of size {sizes.max():.3g}"
            raise UserInputError(f"{path}: {given}, expected at most {bounds[name]:g}")


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a file of tensors, and their metadata. Raises UserInputError."""
    from safetensors import SafetensorError, safe_open

    expected = "vectors of voices"
    parsing.read_bytes(path, expected, MOST_BYTES)
    try:
        with safe_open(str(path), framework="np") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserInputError(f"{path}: cannot be read ({reason}), expected {expected}") from None


def saved_in(folder: Path) -> SpeakerVectors | None:
    """The voices of a corpus or model folder, where it has any. Raises UserInputError."""
    path = folder / FILE
    return SpeakerVectors.load(path) if path.exists() else None


def add_speaker_vectors(folder: str | Path, *, quiet: bool = False) -> SpeakerVectors:
    """Write the vectors of a prepared corpus into its folder: see the module.

    Raises UserInputError without the package of the encoder.
    """
    corpus = Corpus.open(folder)
    voices = vectors_of_corpus(corpus, quiet=quiet)
    assert voices.whitening is not None  # of a corpus
    places = {name: place for place, name in enumerate(voices.names)}
    rows = voices.whitening(voices.vectors)[[places[u.speaker] for u in corpus.utterances]]
    place = corpus.folder / "vectors" / f"{NAME}.npy"
    place.parent.mkdir(exist_ok=True)
    with new_file(place) as temporary, temporary.open("wb") as file:
        np.save(file, rows)
    voices.save(corpus.folder / FILE)
    return voices


def vectors_of_corpus(
    corpus: Corpus, speakers: Collection[str] = (), *, quiet: bool = False
) -> SpeakerVectors:
    """Each speaker's vector (or that of some), and the whitening of the training utterances'
    vectors.

    A speaker without training recordings has the vector of its others. Raises UserInputError
    without the package of the encoder.
    """
    encoder, rows = speaker_encoder(), defaultdict[str, list[int]](list)
    for row, utterance in enumerate(corpus.utterances):
        if not speakers or utterance.speaker in speakers:
            rows[utterance.speaker].append(row)
    own: dict[str, Embedding] = {}
    trained: list[Embedding] = []
    for speaker in tqdm(
        sorted(rows), desc="voices", unit="speaker", disable=quiet or None, leave=False
    ):
        each = rows[speaker]
        training = [row for row in each if corpus.utterances[row].split == "train"]
        waves = [_excerpt(corpus, row) for row in _spread(training or each)]
        vectors = [encoder.embed(wave, corpus.sample_rate) for wave in waves]
        own[speaker] = voice_of(vectors)
        trained += vectors if training else []
    whitening = Whitening.of(np.stack(trained or [*own.values()]))
    return SpeakerVectors(tuple(own), np.stack([*own.values()]), whitening)


def _excerpt(corpus: Corpus, row: int) -> Wave:
    return corpus.read(row, 0, round(SECONDS * corpus.sample_rate))


def _spread(rows: Sequence[int]) -> list[int]:
    """At most `RECORDINGS`, spread over all."""
    count = min(RECORDINGS, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def vector_of(wave: Wave, sample_rate: int, encoder: SpeakerEncoder) -> Embedding:
    """The vector of a voice by one recording (T,), at most its first `REFERENCE_SECONDS`."""
    return encoder.embed(wave[: round(REFERENCE_SECONDS * sample_rate)], sample_rate)
