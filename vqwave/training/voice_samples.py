"""Recordings in one voice, for `samples/` of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vqwave.data import Corpus
from vqwave.inference.speech_model import SpeechModel
from vqwave.training.tracking import SampleSheet


def add_in_voice(
    speech: SpeechModel,
    corpus: Corpus,
    rows: Sequence[int],
    voice: str,
    *,
    vectors: Callable[[int], Mapping[str, Any]],
    sheet: SampleSheet,
) -> None:
    """Each utterance of `rows`, and what the model makes of it in the voice `voice`: a copy of its
    own recordings, a conversion of others.

    vectors: of a row, what the decoder is conditioned on in addition to labels.
    """
    if not rows:
        return
    utterances = [corpus.utterances[row] for row in rows]
    waves = speech.decode_many(
        [
            speech.encode(corpus.read(row), speaker=u.speaker)
            for row, u in zip(rows, utterances, strict=True)
        ],
        [voice] * len(rows),
        labels=[u.labels | {"speaker": voice} for u in utterances],
        embeddings=[vectors(row) for row in rows],
    )
    for row, u, wave in zip(rows, utterances, waves, strict=True):
        about: Mapping[str, Any] = {"speaker": u.speaker, "text": u.text or ""}
        sheet.add(u.id, "original", torch.from_numpy(corpus.read(row)), **about)
        own = u.speaker == voice
        kind = "reconstruction" if own else "conversion"
        sheet.add(u.id, kind, wave, target=None if own else voice, **about)
