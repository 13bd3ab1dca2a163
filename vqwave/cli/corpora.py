"""Commands about recordings: prepare."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqwave.cli.arguments import Add, finite
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
            "layout of the recordings: demo, folder, fsdd, lhotse, librispeech, libritts, ljspeech,"
            " manifest, vctk, webdataset, zerospeech2019; without DIR the expected files are"
            " printed"
        ),
    )
    sources = "the recordings (none for demo); several of one kind become one corpus"
    prepare.add_argument("source", nargs="*", type=Path, metavar="DIR", help=sources)
    prepare.add_argument("--out", type=Path, required=True, help="corpus folder to write")
    prepare.add_argument("--sample-rate", type=int, help="Hz; default: the corpus' own")
    prepare.add_argument(
        "--level", type=finite, default=-23.0, help="RMS level in dBFS (default %(default)s)"
    )


def prepare_corpus(arguments: argparse.Namespace) -> None:
    from vqwave.data import prepare

    summary = prepare(
        arguments.kind,
        arguments.source,
        arguments.out,
        sample_rate=arguments.sample_rate,
        level_db=arguments.level,
        quiet=arguments.quiet,
    )
    output(summary.table())
