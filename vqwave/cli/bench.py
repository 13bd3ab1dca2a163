"""How fast the parts are, compared with what the machine could do: bench."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from vqwave.cli.arguments import Add, writable

SUITES = {
    "decode": "samples a second of the decoders, and the machine's floor",
    "student": "the student's pass, and torch's and onnxruntime's",
    "quantizer": "a training step of the quantizer, and the plain way",
    "train": "a training step of each experiment",
}


def add(add: Add) -> None:
    bench = add(
        "bench",
        run_suite,
        "How fast a part is, compared with the plain way and what the machine could do.",
    )
    listed = "; ".join(f"{name}: {text}" for name, text in SUITES.items())
    bench.add_argument("suite", choices=tuple(SUITES), help=listed)
    bench.add_argument(
        "options",
        nargs=argparse.REMAINDER,
        help="--json FILE, and the suite's own: vqwave bench SUITE --help",
    )
    bench.set_defaults(parser=type(bench))


def run_suite(arguments: argparse.Namespace) -> None:
    suite = importlib.import_module(f"vqwave.bench.{arguments.suite}")
    from vqwave.bench import table

    parser = arguments.parser(
        prog=f"vqwave bench {arguments.suite}", description=(suite.__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the rows to this file as well"
    )
    parser.add_argument(
        "--quiet", action="store_true", default=arguments.quiet, help="no notes with the table"
    )
    if hasattr(suite, "options"):
        suite.options(parser)
    settings = parser.parse_args(arguments.options)
    if settings.json:
        writable(settings.json)
    rows = table.show(suite.rows(settings))
    if settings.json:
        table.write(settings.json, rows)
