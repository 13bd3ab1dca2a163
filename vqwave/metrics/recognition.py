"""Word and character error rates by Whisper, through faster-whisper and jiwer.

Reference: Radford et al., 2022, "Robust Speech Recognition via Large-Scale Weak Supervision".
arXiv:2212.04356
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vqwave.audio import Wave, resample
from vqwave.errors import UnavailableError, UserInputError
from vqwave.metrics.transcripts import normalise

RATE = 16000
WHISPER = "tiny.en"
WEIGHTS = "model.bin"
# of model.bin, as wheels record it
CARRIED = {"tiny.en": "sha256=Glr64GpNuRyXXJqdeL5cwRDuTqAirVfVVJLkVQ6Tayo"}
LOOPING = 2.4  # ratio of a text to its compressed bytes above which it repeats itself (Whisper's)
DECODING = {
    "language": "en",
    "beam_size": 5,
    "temperature": 0.0,  # the default falls back to random draws
    "condition_on_previous_text": False,
    "without_timestamps": True,
}
ErrorSums = NDArray[np.float64]  # (N, 4): word edits, words, character edits, characters


@dataclass(frozen=True)
class Recogniser:
    """`transcribe`: a waveform (T,) at a rate in Hz -> its text; `name`: which weights are used."""

    name: str
    transcribe: Callable[[Wave, int], str]


def recogniser(weights: str = WHISPER) -> Recogniser:
    """A Whisper model (CPU, float32, English, five beams, temperature 0).

    A text that repeats itself, as on speech that cannot be understood, is decoded again without
    repeated trigrams, where Whisper would draw at random: the same waveform always has the same
    text.

    `weights`: a folder in CTranslate2's format, or a name of the hub such as "tiny.en". A name is
    looked up in the hub's local cache, then among installed packages that carry weights, and
    downloaded last. Raises `UserInputError` for a folder without weights, and `UnavailableError`
    where packages or weights are missing.
    """
    for package in ("faster_whisper", "jiwer"):
        if importlib.util.find_spec(package) is None:
            raise UnavailableError(
                f"the package {package} is not installed: pip install 'vqwave[judges]'"
            )
    from faster_whisper import WhisperModel

    folder = whisper_folder(weights)
    threads = torch.get_num_threads()
    model = WhisperModel(str(folder), device="cpu", compute_type="float32", cpu_threads=threads)

    def transcribe(wave: Wave, sample_rate: int) -> str:
        wave = resample(wave, sample_rate, RATE)
        segments = list(model.transcribe(wave, **DECODING)[0])
        if any(segment.compression_ratio > LOOPING for segment in segments):
            segments = list(model.transcribe(wave, no_repeat_ngram_size=3, **DECODING)[0])
        return " ".join(segment.text.strip() for segment in segments)

    return Recogniser(f"Whisper {Path(weights).name}", transcribe)


def whisper_folder(weights: str) -> Path:
    """The folder with a Whisper model's weights.

    Raises `UserInputError` for an unknown name, and `UnavailableError` where they cannot be had.
    """
    given = Path(weights)
    if given.is_dir():
        if not (given / WEIGHTS).is_file():
            raise UserInputError(
                f"{given}: holds no {WEIGHTS}, expected Whisper in CTranslate2's format"
            )
        return given
    from faster_whisper.utils import available_models, download_model
    from huggingface_hub.errors import HfHubHTTPError

    if weights not in available_models() and len(given.parts) != 2:
        known = ", ".join(available_models())
        raise UserInputError(
            f"{weights!r}: no such folder or Whisper model, expected a folder or one of {known}"
        )
    reason = ""
    for local in (True, False):
        try:
            return Path(download_model(weights, local_files_only=local))
        except (OSError, ValueError, HfHubHTTPError) as error:
            reason = str(error).partition("\n")[0]
        if local and (carried := _carried(weights)) is not None:
            return carried
    raise UnavailableError(
        f"no weights of Whisper {weights} on this machine, and none from the hub ({reason})"
    )


def _carried(name: str) -> Path | None:
    """The folder of an installed package that holds exactly these weights, by recorded hash."""
    if name not in CARRIED:
        return None
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            if (
                file.name == WEIGHTS
                and file.hash is not None
                and f"{file.hash.mode}={file.hash.value}" == CARRIED[name]
            ):
                return Path(str(file.locate())).parent
    return None


def error_sums(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorSums:
    """(N, 4): word edits, words, character edits, characters of each pair, after `normalise`.

    Sums of these over utterances give corpus rates: `word_error_rate`, `character_error_rate`.
    Characters include the spaces between words. Raises `UserInputError` for a reference without a
    word.
    """
    import jiwer

    rows = []
    for reference, hypothesis in zip(
        map(normalise, references), map(normalise, hypotheses), strict=True
    ):
        if not reference:
            raise UserInputError("a reference transcript holds no word, expected one")
        row: list[int] = []
        for alignment in (
            jiwer.process_words(reference, hypothesis),
            jiwer.process_characters(reference, hypothesis),
        ):
            lost = alignment.substitutions + alignment.deletions
            row += [lost + alignment.insertions, lost + alignment.hits]
        rows.append(row)
    return np.array(rows, np.float64)


def word_error_rate(sums: ErrorSums) -> NDArray[np.float64]:
    """Edits over words, (R, 4) -> (R,); above 1 where more words are inserted than there are."""
    return sums[:, 0] / sums[:, 1]


def character_error_rate(sums: ErrorSums) -> NDArray[np.float64]:
    """Edits over characters, (R, 4) -> (R,)."""
    return sums[:, 2] / sums[:, 3]
