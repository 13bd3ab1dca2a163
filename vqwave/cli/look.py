"""What a model, file or corpus is, and how a run went: info, report."""

from __future__ import annotations

import argparse
from pathlib import Path

from vqwave.cli.arguments import Add, writable
from vqwave.terminal import output


def add(add: Add) -> None:
    info = add("info", show_info, "What a model, a .vqw file or a prepared corpus is.")
    info.add_argument("what", help="run folder, model folder or name; .vqw file; corpus folder")

    report = add(
        "report",
        write_page,
        "One page of curves, spectrograms and players from one or several runs.",
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    report.add_argument("--out", type=Path, help="HTML file (default: RUN/report.html)")


def show_info(arguments: argparse.Namespace) -> None:
    from vqwave.inference.description import describe

    rows = describe(arguments.what)
    width = max(map(len, rows))
    output("\n".join(f"{name:{width}}  {value}" for name, value in rows.items()))


def write_page(arguments: argparse.Namespace) -> None:
    from vqwave.report import write_report

    out = writable(arguments.out or arguments.runs[0] / "report.html")
    output(write_report(arguments.runs, out))
