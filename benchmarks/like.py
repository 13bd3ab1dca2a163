"""How often `--like` gets nearer to a voice that the model never saw than to the recording that is
converted.

python benchmarks/like.py MODEL data/librispeech --pairs 60

References are recordings of speakers without training recordings; sources are recordings of other
speakers that the decoder was not trained on. A line a pair: similarities of the conversion to its
reference and to its source (cosine by Resemblyzer's encoder); at the end the share of pairs that
are nearer to the reference, and means.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from vqwave.data import Corpus
from vqwave.data.speaker_vectors import vector_of
from vqwave.errors import Note
from vqwave.inference.speech_model import SpeechModel
from vqwave.speaker_encoder import speaker_encoder


def main() -> None:
    """Convert and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("corpus")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a source")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", Note)
    model, corpus = SpeechModel.load(arguments.model), Corpus.open(arguments.corpus)
    encoder, rate = speaker_encoder(), corpus.sample_rate
    trained = {u.speaker for u in corpus.utterances if u.split == "train"}
    first = {u.speaker: i for i, u in reversed([*enumerate(corpus.utterances)])}
    unseen = sorted(set(first) - trained)
    known = set(model.voices.names) if model.voices else set()
    sources = [first[name] for name in sorted(set(first) - known)]
    rows = []
    for k in range(arguments.pairs):
        reference = unseen[k % len(unseen)]
        source = sources[(k * len(sources)) // arguments.pairs]
        if corpus.utterances[source].speaker == reference:
            source = sources[(k * len(sources)) // arguments.pairs - 1]
        example = corpus.read(first[reference])
        wave = corpus.read(source, 0, round(arguments.seconds * rate))
        voice = model.voice_like(model.voice_like((example, rate)), (wave, rate))
        converted = model.convert(wave, like=voice, seed=k).numpy()
        own = vector_of(converted, rate, encoder)
        to = own @ vector_of(example, rate, encoder)
        left = own @ vector_of(wave, rate, encoder)
        rows.append((to, left, voice.similarity))
        name = corpus.utterances[source].speaker
        print(
            f"{name} like {reference} (nearest {voice.nearest}, {voice.similarity:.2f}):"
            f" {to:.3f} to the reference, {left:.3f} to the source",
            flush=True,
        )
    to, left, similarity = np.array(rows).T
    print(
        f"nearer to the reference: {100 * (to > left).mean():.0f} % of {len(rows)} pairs;"
        f" similarity to the reference {to.mean():.3f}, to the source {left.mean():.3f}; of the"
        f" nearest voice to the reference {similarity.mean():.3f}"
    )


if __name__ == "__main__":
    main()
