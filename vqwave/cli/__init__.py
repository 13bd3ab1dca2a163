"""The `vqwave` command. Exit status 0; 2 with one line for bad input; 130 after Ctrl-C.

Each module here adds its commands to the parser and imports the rooms that a command needs when it
runs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vqwave.cli import bench, code, corpora, evaluate, export, generate, look, sweep, tune
from vqwave.errors import Note, UserInputError

COMMANDS = (corpora, code, generate, look, bench, sweep, evaluate, tune, export)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    arguments = parser().parse_args(argv)
    try:
        with notes(quiet=arguments.quiet):
            arguments.command(arguments)
    except UserInputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None


@contextmanager
def notes(*, quiet: bool) -> Iterator[None]:
    """Each `Note` is a line on standard error, once; none if `quiet`."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *rest: object) -> None:
            if category is Note:
                print(f"note: {message}", file=sys.stderr)
            else:
                show(message, category, *rest)

        warnings.showwarning = line
        warnings.simplefilter("ignore" if quiet else "once", Note)
        yield


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors."""

    def error(self, message: str) -> None:
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def parser() -> Parser:
    top = Parser(
        prog="vqwave", description="Speech in discrete codes: WaveNet, VQ-VAE, Parallel WaveNet."
    )
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], None], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--quiet", action="store_true", help="no progress bar, no notes")
        command.set_defaults(command=run)
        return command

    for module in COMMANDS:
        module.add(add)
    return top
