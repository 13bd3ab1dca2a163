"""Recordings of speakers that a model was not trained on: in which voices it copies them, and what
of an evaluation that leaves out.

A model that is conditioned on speaker vectors copies them in their own voices. Any other takes its
nearest voice, without the fit that `--like` makes, or, without vectors of its voices or the
encoder, one of them by turns. The melody keeps the range of the recording.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from vqwave.codes import CodeSequence
from vqwave.data.voices import VoicePitch
from vqwave.inference.reference_voice import ReferenceVoice, voice_of_vector
from vqwave.inference.speech_model import SpeechModel
from vqwave.speaker_encoder import Embedding

WHY = "the model was not trained on these speakers"
OWN, NEAREST, TURNS = "their own voices", "its nearest voices", "its voices by turns"


def substitute_voices(
    codec: SpeechModel,
    coded: Sequence[CodeSequence],
    vectors: Sequence[Embedding] | None,
    names: Sequence[str],
) -> list[ReferenceVoice]:
    """The voice that each recording is copied in, by its codes and its vector.

    vectors: None where there is no encoder; names: voices of the model to take by turns then.
    """
    ranges = [
        None if c.pitch is None else VoicePitch(c.pitch.mean, c.pitch.deviation) for c in coded
    ]
    if vectors is None:
        return [
            ReferenceVoice(name, math.nan, labels={"speaker": name}, pitch=pitch)
            for name, pitch in zip(_by_turns(names, len(coded)), ranges, strict=True)
        ]
    voices = [voice_of_vector(codec, vector) for vector in vectors]
    return [replace(voice, pitch=pitch) for voice, pitch in zip(voices, ranges, strict=True)]


def _by_turns(names: Sequence[str], count: int) -> list[str]:
    return [names[i % len(names)] for i in range(count)]
