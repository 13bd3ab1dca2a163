"""What a model, file or corpus is, and how a run went: info, report."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqwave.cli.arguments import Add, finite, writable
from vqwave.errors import UserInputError
from vqwave.terminal import output

WATCHED = 10.0  # seconds


def add(add: Add) -> None:
    info = add("info", show_info, "What a model, a .vqw file or a prepared corpus is.")
    info.add_argument("what", help="run folder, model folder or name; .vqw file; corpus folder")

    report = add(
        "report",
        write_page,
        "One page of curves, spectrograms and players from one or several runs.",
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folder, model folder, or name of a model"
    )
    report.add_argument(
        "--out",
        type=Path,
        help="HTML file (default: RUN/report.html, and report.html of a trained model)",
    )
    report.add_argument(
        "--recordings",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="sound files or corpora to reconstruct and convert, in place of the runs' samples",
    )
    report.add_argument(
        "--watch",
        nargs="?",
        type=finite,
        const=WATCHED,
        metavar="SECONDS",
        help="write it again while the runs are trained; an open page follows (default: 10)",
    )


def show_info(arguments: argparse.Namespace) -> None:
    from vqwave.inference.description import describe

    rows = describe(arguments.what)
    width = max(map(len, rows))
    output("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()))


def write_page(arguments: argparse.Namespace) -> None:
    from vqwave.report import watch_report, write_report

    first = Path(arguments.runs[0])
    out = writable(arguments.out or (first if first.is_dir() else Path()) / "report.html")
    if arguments.watch is None:
        output(write_report(arguments.runs, out, arguments.recordings))
        return
    if arguments.recordings:
        raise UserInputError("--recordings: not with --watch, which shows the runs' samples")
    watch_report(arguments.runs, out, arguments.watch, lambda path: output(path, flush=True))
