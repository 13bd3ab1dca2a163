"""What is printed, and the streams that it goes to.

Everything that the package prints goes through `output` or `message`: names and texts come from
files of other people, and their control characters, which move a terminal's cursor or set its
title, are escaped here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, BinaryIO, TextIO, cast

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
from vqwave.errors import located

INPUT, OUTPUT = "standard input", "standard output"
# C0 but the tab, C1, separators of lines, what turns the direction of text, lone surrogates
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""A text in one line, its control characters escaped.

    >>> print(printable("a\x1b[2Jb\n"))
    a\x1b[2Jb\x0a
    """
    return CONTROL.sub(_escaped, str(text))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is not UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def output(text: object = "", *, flush: bool = False) -> None:
    """Lines on standard output. OSErrors name it."""
    lines = "\n".join(printable(line) for line in str(text).split("\n"))
    with located(OUTPUT):
        print(lines, flush=flush)


def message(text: object, *, flush: bool = False) -> None:
    """A line on standard error. Where that takes nothing, the line is lost, and no more."""
    if sys.stderr is not None:  # print would take standard output
        with suppress(OSError):
            print(printable(text), file=sys.stderr, flush=flush)


class Named:
    """A binary stream whose OSErrors name it."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name

    def read(self, count: int = -1) -> bytes:
        with located(self.name):
            return self.file.read(count)

    def write(self, data: bytes) -> int:
        with located(self.name):
            return self.file.write(data)

    def flush(self) -> None:
        with located(self.name):
            self.file.flush()

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        with located(self.name):
            return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()

    def seekable(self) -> bool:
        """Whether the next byte may be written anywhere, which it may not where each goes to the
        end, as after `>>`.
        """
        return self.file.seekable() and not _appends(self.file)


def _appends(file: IO[bytes]) -> bool:
    if fcntl is None:
        return False
    try:
        return bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND)
    except OSError:  # in memory
        return False


def named(file: IO[bytes], name: str) -> BinaryIO:
    """The stream, whose OSErrors name it."""
    return cast("BinaryIO", Named(file, name))


class Lenient:
    """Standard error, without an OSError where it takes nothing, as a full disk does: a progress
    bar must not end the work.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> int:
        with suppress(OSError):
            return self.file.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.file.flush()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self.file, name)


@contextmanager
def usable_streams() -> Iterator[None]:
    """Within, each of the three streams is there.

    A process may be started with some of them closed. The files that it opens then get their
    numbers, and what is meant for a stream is written into a file. So /dev/null takes each free
    number, opened such that reading input and writing output fail as on what is closed; messages
    are lost.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    if sys.stdin is None:
        sys.stdin = _opened(0, os.O_WRONLY, "r")
    if sys.stdout is None:
        sys.stdout = _opened(1, os.O_RDONLY, "w")
    if sys.stderr is None:
        sys.stderr = _opened(2, os.O_RDWR, "w")
    replaced = [
        stream
        for stream, old in zip((sys.stdin, sys.stdout, sys.stderr), before, strict=True)
        if old is None
    ]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what an ascii terminal cannot show is escaped
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stderr, Lenient):
        sys.stderr = cast("TextIO", Lenient(sys.stderr))
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        for stream in replaced:
            with suppress(OSError):
                stream.close()


def _opened(number: int, flags: int, mode: str) -> TextIO:
    """/dev/null at this number, if it is free; else at another one."""
    handle = os.open(os.devnull, flags)
    with suppress(OSError):
        os.fstat(number)
        number = handle
    if handle != number:
        os.dup2(handle, number)
        os.close(handle)
    os.set_inheritable(number, True)  # noqa: FBT003
    return cast("TextIO", open(number, mode, encoding="utf-8", closefd=False))


def flush_output() -> None:
    """Now, while an OSError can still be reported; it names standard output."""
    if sys.stdout is not None:
        with located(OUTPUT):
            sys.stdout.flush()


def discard_output() -> None:
    """Whatever is still in the buffer goes nowhere: the interpreter must not fail with it at its
    end.
    """
    with suppress(OSError, ValueError, AttributeError):
        number, nowhere = sys.stdout.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
        sys.stdout.flush()
