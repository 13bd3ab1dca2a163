"""A corpus of conversions: where no recordings of a model's voices are at hand, it says itself what
a new voice says, in each of them, and this is replayed as the new voice is added.

Reference: Shin et al., 2017, "Continual learning with deep generative replay", sec. 3.
arXiv:1705.08690
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from vqwave import audio
from vqwave.data import Corpus, prepare
from vqwave.data.corpus_folder import temporary_next_to
from vqwave.data.manifest import Recording, write_manifest
from vqwave.inference.speech_model import SpeechModel

SECONDS = 240.0  # of conversions of the training recordings
NAME = "conversions"  # of the corpus


def prepare_conversions(
    model: SpeechModel, corpus: Corpus, speaker: str, out: Path, *, quiet: bool = False
) -> None:
    """Convert recordings of `speaker` to the voices that `model` was trained in, by turns, about
    four minutes or each to each, into the corpus `out`, at the rate and level of `corpus`. Of more
    recordings than these some are taken; held-out ones yield held-out conversions.

    Raises UserInputError where `out` is something else, or the disk is full.
    """
    voices = model.card.trained("speaker")
    with temporary_next_to(out.with_name(f"{out.name}.recordings").resolve()) as place:
        folder = place / NAME
        folder.mkdir()
        rows, recordings = _rows(corpus, speaker), []
        coded = {row: model.encode_prepared(torch.from_numpy(corpus.read(row))) for row in rows}
        turns = list(_turns(corpus, rows, voices))
        for number, (row, voice) in enumerate(tqdm(turns, NAME, disable=quiet, leave=False)):
            u, path = corpus.utterances[row], folder / f"{number:05d}.wav"
            labels = u.labels | {"speaker": voice}
            wave = model.decode(coded[row], voice, labels=labels)
            audio.write(path, wave, corpus.sample_rate)
            recordings.append(Recording(path, voice, path.stem, u.text, u.split, labels=labels))
        write_manifest(folder / "manifest.jsonl", recordings)
        rate, level = corpus.sample_rate, corpus.level_db
        prepare("manifest", folder, out, sample_rate=rate, level_db=level, quiet=quiet)


def _rows(corpus: Corpus, speaker: str) -> list[int]:
    """Training and held-out recordings of a speaker, in their order: of many, evenly spread."""
    own: dict[str, list[int]] = {"train": [], "valid": []}
    for row, utterance in enumerate(corpus.utterances):
        if utterance.speaker == speaker and utterance.split in own:
            own[utterance.split].append(row)
    frames = sum(corpus.utterances[row].frames for row in own["train"])
    step = max(1, int(frames / corpus.sample_rate / SECONDS))
    return [row for rows in own.values() for row in rows[::step]]


def _turns(corpus: Corpus, rows: Sequence[int], voices: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Recordings, and the voice that each is converted to."""
    seconds = 0.0
    for turn in range(len(voices)):
        for place, row in enumerate(rows):
            yield row, voices[(place + turn) % len(voices)]
            u = corpus.utterances[row]
            seconds += u.frames / corpus.sample_rate * (u.split == "train")
        if seconds >= SECONDS:
            return
