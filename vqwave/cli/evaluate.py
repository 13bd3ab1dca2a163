"""How good models are: evaluate, results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vqwave.cli.arguments import (
    Add,
    check_left_out,
    check_positive,
    decoder_options,
    finite,
    temperature_options,
    writable,
)
from vqwave.errors import UserInputError
from vqwave.terminal import message, output

if TYPE_CHECKING:
    from vqwave.evaluation.progress import Advance, ProgressFactory
    from vqwave.evaluation.result import Result

UNCUT = 3600.0  # seconds: longer than any utterance


def add(add: Add) -> None:
    about = "Measure a model on held-out recordings, with ceilings and floors."
    evaluate = add("evaluate", evaluate_anything, about)
    evaluate.add_argument("model", nargs="?", help="run folder, model folder or name")
    prepared = "folder that `vqwave prepare` wrote"
    evaluate.add_argument("--data", type=Path, metavar="CORPUS", help=prepared)
    paired = "copies of recordings by anything, paired by file name"
    folders = evaluate.add_argument_group("without a model", paired)
    folders.add_argument("--recordings", type=Path, metavar="DIR", help="folder of recordings")
    folders.add_argument("--copies", type=Path, metavar="DIR", help="folder of their copies")
    kinds = ".csv (path, text, speaker), .jsonl, or lines of name and text"
    texts = f"{kinds} (default: a manifest in the folder of the recordings)"
    folders.add_argument("--transcripts", type=Path, metavar="FILE", help=texts)
    _what(evaluate)
    _how(evaluate)
    results = add("results", write_results, "Evaluations as one table, or put into a README.")
    wrote = "what `vqwave evaluate --out` wrote"
    results.add_argument("reports", nargs="+", type=Path, metavar="METRICS.json", help=wrote)
    place = "file with markers around the table's place"
    results.add_argument("--readme", type=Path, metavar="README.md", help=place)


def _what(evaluate: argparse.ArgumentParser) -> None:
    """What is measured, and on which recordings."""
    flag, by_default = evaluate.add_argument, "(default %(default)s)"
    flag("--split", default="test", help=f"train, valid or test {by_default}")
    flag("--student", metavar="MODEL2", help="the model's distilled decoder, measured, too")
    results = "write all results; the same command goes on from what an interrupted one wrote"
    flag("--out", type=Path, metavar="METRICS.json", help=results)
    flag("--restart", action="store_true", help="measure anew what METRICS.json has")
    every = "measures by name (default: all that apply but wer, similarity, mos, converted)"
    flag("--metrics", default="", metavar="NAME,...", help=every)
    weights = f"recogniser: a name, or a folder in CTranslate2's format {by_default}"
    flag("--whisper", default="tiny.en", metavar="NAME", help=weights)
    flag(
        "--max-utterances", type=int, metavar="N", help="utterances at most, spread over the split"
    )
    only = "only these, as sources and as targets"
    flag("--speakers", default="", metavar="NAME,...", help=only)
    cut = "longer utterances are cut (default: 4; with wer, similarity, mos or converted none is)"
    flag("--max-seconds", type=finite, help=cut)
    flag("--max-targets", type=int, default=6, help=f"voices to convert to, at most {by_default}")
    flag("--max-conversions", type=int, default=600, help=f"conversions at most {by_default}")
    each = f"of each word and speaker of a prior {by_default}"
    flag("--samples-per-pair", type=int, default=2, help=each)


def _how(evaluate: argparse.ArgumentParser) -> None:
    """By which draws and decoders."""
    flag, by_default = evaluate.add_argument, "(default %(default)s)"
    flag("--batch", type=int, default=32, help=f"utterances decoded at once {by_default}")
    flag("--seed", type=int, default=0, help=f"the same seed, the same figures {by_default}")
    temperature_options(evaluate)
    flag("--code-temperature", type=finite, default=1.0, help=f"of a prior's codes {by_default}")
    code_mass = "draw from a prior's likeliest codes of this mass"
    flag("--code-top-p", type=finite, default=1.0, help=code_mass)
    decoder_options(evaluate)
    flag("--resamples", type=int, default=1000, help=f"bootstrap draws of an interval {by_default}")


def write_results(arguments: argparse.Namespace) -> None:
    from vqwave.evaluation.readme_table import put, section
    from vqwave.evaluation.resume import read_report

    text = section([read_report(path) for path in arguments.reports])
    if arguments.readme is not None:
        put(arguments.readme, text)
    output(text)


def evaluate_anything(arguments: argparse.Namespace) -> None:
    """A model on a corpus, or copies of recordings."""
    folders = arguments.recordings is not None or arguments.copies is not None
    if folders and (arguments.model is not None or arguments.data is not None):
        raise UserInputError(
            "--recordings and --copies: need no model and no --data, expected either"
        )
    if folders and (arguments.recordings is None or arguments.copies is None):
        missing = "--copies" if arguments.copies is None else "--recordings"
        raise UserInputError(f"{missing}: not given, expected both --recordings and --copies")
    if not folders and (arguments.model is None or arguments.data is None):
        missing = "MODEL" if arguments.model is None else "--data"
        expected = "MODEL and --data, or --recordings and --copies"
        raise UserInputError(f"{missing}: not given, expected {expected}")
    (evaluate_copies if folders else evaluate_model)(arguments)


def evaluate_copies(arguments: argparse.Namespace) -> None:
    check_positive(arguments, "--resamples")
    why = "is of a model on a corpus, expected none with --recordings and --copies"
    check_left_out(arguments, why, "--student", "--max-utterances", "--max-seconds")
    if arguments.speakers:
        raise UserInputError(f"--speakers: {why}")
    from vqwave.evaluation.folders import evaluate_folders
    from vqwave.evaluation.table import text_table

    result = evaluate_folders(
        arguments.recordings,
        arguments.copies,
        transcripts=arguments.transcripts,
        only=parts_of(arguments.metrics),
        resamples=arguments.resamples,
        whisper=arguments.whisper,
        progress=bars(quiet=arguments.quiet),
        result=result_of(arguments),
    )
    check_measured(arguments.metrics, result)
    output(text_table(result))


def check_measured(names: str, result: Result) -> None:
    """Raises UserInputError where measures were named and none of them has a figure."""
    if names and result.skipped and not result.rows:
        reasons = "; ".join(dict.fromkeys(result.skipped.values()))
        raise UserInputError(f"--metrics {names}: nothing was measured: {reasons}")


def parts_of(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def seconds_of(arguments: argparse.Namespace) -> float:
    """After how many seconds utterances are cut; those whose words are measured are not."""
    from vqwave.evaluation import Settings, chosen
    from vqwave.evaluation.registry import BY_PANEL

    if arguments.max_seconds is not None:
        return arguments.max_seconds
    with_words = not set(BY_PANEL).isdisjoint(chosen(parts_of(arguments.metrics)))
    return UNCUT if with_words else Settings.seconds


def result_of(arguments: argparse.Namespace) -> Result:
    """A result that is written to `--out`, if given, and goes on from what that has."""
    from vqwave.evaluation.result import Result
    from vqwave.evaluation.resume import result_in

    if arguments.out is None:
        return Result()
    return result_in(writable(arguments.out), restart=arguments.restart)


def evaluate_model(arguments: argparse.Namespace) -> None:
    check_positive(
        arguments,
        "--max-utterances",
        "--max-seconds",
        "--max-targets",
        "--max-conversions",
        "--samples-per-pair",
        "--batch",
        "--resamples",
    )

    from vqwave.cli.arguments import sampling_of
    from vqwave.evaluation import Settings, evaluate, text_table

    settings = Settings(
        split=arguments.split,
        only=parts_of(arguments.metrics),
        limit=arguments.max_utterances,
        seconds=seconds_of(arguments),
        speakers=parts_of(arguments.speakers),
        whisper=arguments.whisper,
        targets=arguments.max_targets,
        pairs=arguments.max_conversions,
        takes=arguments.samples_per_pair,
        code_temperature=arguments.code_temperature,
        code_top_p=arguments.code_top_p,
        sampling=sampling_of(arguments),
        batch=arguments.batch,
        resamples=arguments.resamples,
        keep=arguments.data / "judges",
    )
    result = evaluate(
        arguments.model,
        arguments.data,
        settings,
        student=arguments.student,
        device=arguments.device,
        progress=bars(quiet=arguments.quiet),
        result=result_of(arguments),
    )
    check_measured(arguments.metrics, result)
    output(text_table(result))


def bars(*, quiet: bool) -> ProgressFactory:
    """A progress bar for each stage, gone when it is done; without a terminal, a line at its
    beginning.
    """

    @contextmanager
    def stage(name: str, total: float, unit: str) -> Iterator[Advance]:
        from tqdm import tqdm

        if not quiet and not sys.stderr.isatty():
            message(f"{name}: {total:.0f} {unit}", flush=True)
        with tqdm(
            total=total,
            desc=name,
            unit=unit,
            disable=quiet or None,
            leave=False,
            file=sys.stderr,
            bar_format="{l_bar}{bar}| {n:.0f}/{total:.0f} {unit} [{elapsed}<{remaining}]",
        ) as bar:
            yield bar.update

    return stage
