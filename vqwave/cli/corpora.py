"""Commands about recordings: prepare, voices."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqwave.cli.arguments import Add, finite, pairs
from vqwave.terminal import output


def add(add: Add) -> None:
    prepare = add(
        "prepare",
        prepare_corpus,
        "Turn recordings into a corpus: no DC, one rate, one level, memory-mapped.",
    )
    prepare.add_argument(
        "kind",
        help=(
            "layout of the recordings: datasets, demo, folder, fsdd, lhotse, librispeech, libritts,"
            " ljspeech, manifest, vctk, webdataset, zerospeech2019; without DIR the expected files"
            " are printed"
        ),
    )
    sources = "the recordings (none for demo); several of one kind become one corpus"
    prepare.add_argument("source", nargs="*", type=Path, metavar="DIR", help=sources)
    prepare.add_argument("--out", type=Path, required=True, help="corpus folder to write")
    whose = "of kind folder: the voice of all recordings, however they lie; long ones are cut"
    prepare.add_argument("--speaker", metavar="NAME", help=whose)
    prepare.add_argument("--sample-rate", type=int, help="Hz; default: the corpus' own")
    prepare.add_argument(
        "--level", type=finite, default=-23.0, help="RMS level in dBFS (default %(default)s)"
    )
    chosen = "of the kind datasets: NAME is audio, speaker, text, id, or a label"
    prepare.add_argument(
        "--column", action="append", default=[], metavar="NAME=COLUMN", help=chosen
    )
    vectors = "a vector of each speaker, to condition models on (extra voices)"
    prepare.add_argument("--speaker-vectors", action="store_true", help=vectors)

    about = "Add a vector of each voice to a prepared corpus, or to a trained model (extra voices)."
    voices = add("voices", add_vectors, about)
    voices.add_argument("what", help="corpus folder; with --data: run folder, model folder or name")
    trained = "of a model: the corpus that it was trained on"
    voices.add_argument("--data", type=Path, metavar="CORPUS", help=trained)


def prepare_corpus(arguments: argparse.Namespace) -> None:
    from vqwave.data import prepare

    summary = prepare(
        arguments.kind,
        arguments.source,
        arguments.out,
        sample_rate=arguments.sample_rate,
        level_db=arguments.level,
        speaker_vectors=arguments.speaker_vectors,
        columns=pairs("--column", arguments.column),
        speaker=arguments.speaker,
        quiet=arguments.quiet,
    )
    output(summary.table())


def add_vectors(arguments: argparse.Namespace) -> None:
    from vqwave.data import Corpus
    from vqwave.data.speaker_vectors import FILE, add_speaker_vectors
    from vqwave.inference.model_files import find_model
    from vqwave.inference.model_folder import add_voices

    if arguments.data is None:
        voices = add_speaker_vectors(arguments.what, quiet=arguments.quiet)
        folder = Path(arguments.what)
    else:
        corpus = Corpus.open(arguments.data)
        voices = add_voices(arguments.what, corpus, quiet=arguments.quiet)
        folder = find_model(arguments.what)
    output(f"{folder / FILE}: {len(voices.names)} voices")
