"""The `vqwave` command. Exit status 0; 2 with one line for bad input, a full disk and the like; 1
with one line for a mistake of the package; 130 after Ctrl-C, 143 after SIGTERM.

Each module here adds its commands to the parser and imports the packages that a command needs when
it runs, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from vqwave import __version__, terminal
from vqwave.cli import (
    adapt,
    app,
    bench,
    code,
    corpora,
    evaluate,
    export,
    generate,
    look,
    sweep,
    train,
    tune,
)
from vqwave.errors import Note
from vqwave.failures import ending

COMMANDS = (corpora, train, adapt, code, generate, look, bench, sweep, evaluate, tune, export, app)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    # at the end of the process, what is left is not searched for cycles once more: half a second
    # where torch was imported
    atexit.register(gc.freeze)
    with ending():
        arguments = parser().parse_args(argv)
        with notes(quiet=arguments.quiet):
            arguments.command(arguments)


@contextmanager
def notes(*, quiet: bool) -> Iterator[None]:
    """Each `Note` is a line on standard error, once; none if `quiet`."""
    with warnings.catch_warnings():
        show, shown = warnings.showwarning, set[str]()

        def show_note(text: Warning | str, category: type[Warning], *place: object) -> None:
            if category is not Note:
                show(text, category, *place)  # type: ignore[arg-type]
            elif str(text) not in shown:
                shown.add(str(text))
                terminal.message(f"note: {text}")

        warnings.showwarning = show_note  # type: ignore[assignment]
        # "once" begins anew whenever a library changes the filters
        warnings.simplefilter("ignore" if quiet else "always", Note)
        yield


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors; for an old flag or command they name the new one."""

    commands: Collection[str] = ()

    def error(self, message: str) -> NoReturn:
        terminal.message(f"error: {message}; see {self.prog} --help")
        raise SystemExit(2)

    def _print_message(self, message: str, file: object = None) -> None:
        """argparse's own does not mind where nothing can be written."""
        if file is sys.stdout:
            terminal.output(message.removesuffix("\n"))
        else:
            terminal.message(message.removesuffix("\n"))

    def parse_known_args(  # type: ignore[override] # argparse's has overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        self._refuse_renamed(words)
        return super().parse_known_args(words, namespace)

    def _refuse_renamed(self, words: list[str]) -> None:
        """Looks at the first word where commands are expected, else at the flags."""
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        first = [word for word in words[:1] if not word.startswith("-")]
        known = self.commands or self._option_string_actions
        unknown = [word for word in (first if self.commands else flags) if word not in known]
        if not unknown:
            return
        from vqwave.config.renamed import COMMAND_LINE

        for word in unknown:
            if (new := COMMAND_LINE.get(word)) in known:
                self.error(f"{word}: is now {new}")


def parser() -> Parser:
    top = Parser(
        prog="vqwave", description="Speech in discrete codes: WaveNet, VQ-VAE, Parallel WaveNet."
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")
    top.commands = commands.choices

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
