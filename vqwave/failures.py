"""How a command ends: each exception is one line on standard error and an exit status.

2 for what a person can mend: an input (`UserInputError`), a disk, a permission, memory. 1 for a
mistake of the package, any other exception: the line names it and the file that has the entire
traceback. `ending` is around every command and every training, `about` around the work on a file.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from safetensors import SafetensorError

from vqwave.errors import UserInputError
from vqwave.terminal import (
    OUTPUT,
    discard_output,
    flush_output,
    message,
    printable,
    usable_streams,
)

BAD, BUG = 2, 1  # exit statuses
ROOM = "expected room on the disk"
EXPECTED = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "expected room for a larger file",
    errno.EROFS: "expected a place that can be written",
    errno.EMFILE: "expected a higher limit of open files (ulimit -n)",
}
STOPPING = ("SIGTERM", "SIGHUP")  # the latter is not everywhere
MOMENT = 0.02  # seconds
_received: list[int] = []  # signals that ask this process to stop


class StoppedError(KeyboardInterrupt):
    """A signal asks for an end: what is begun is tidied up, after SIGTERM as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_if_stopped() -> None:
    """Raises StoppedError after a signal. What a signal raised within a library may come out of it
    as an error of another kind, such as a file that cannot be read.
    """
    if _received:
        raise StoppedError(_received[0])


def in_a_line(error: BaseException) -> str | None:
    """What is wrong, for an error that is no mistake of the package; else None."""
    if isinstance(error, UserInputError):
        return str(error)
    if isinstance(error, OSError):
        return _of_system(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or _is_memory(error, text):
        return "does not fit into memory" + (f" ({text[:200]})" if text else "")
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"is not {error.encoding} (byte {error.object[error.start]:#04x} at {error.start})"
    if isinstance(error, UnicodeError):
        return f"cannot be written as text ({text})"
    if isinstance(error, SafetensorError):
        refusal = refusal_of(error)
        if refusal is not None:
            return _of_system(refusal)
        return f"cannot be read as safetensors ({text})"
    soundfile = sys.modules.get("soundfile")
    if soundfile is not None and isinstance(error, soundfile.SoundFileError):
        return f"not usable as sound ({text.rstrip('.')})"
    return None


def refusal_of(error: SafetensorError) -> OSError | None:
    """What the system refused, of an error whose text ends in "(os error 28)"."""
    number = re.search(r"os error (\d+)", str(error))
    return None if number is None else OSError(int(number[1]), os.strerror(int(number[1])))


def _of_system(error: OSError) -> str:
    """`FILE: reason, expected ...`; the file only where it is known."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, BrokenPipeError):
        reason = "its reader is gone"
    elif error.errno == errno.EBADF and str(error.filename).startswith("standard"):
        reason = "is closed"
    else:
        reason = reason[:1].lower() + reason[1:]
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    expected = EXPECTED.get(error.errno or 0)
    return f"{file}{reason}" + (f", {expected}" if expected else "")


def _is_memory(error: BaseException, text: str) -> bool:
    """torch raises RuntimeErrors of its own."""
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text
    )


@contextmanager
def about(path: Path | str) -> Iterator[None]:
    """What is wrong within names `path`, where it does not yet: UserInputError for all that
    `in_a_line` has a line for.
    """
    try:
        yield
    except Exception as error:
        raise_if_stopped()
        line = in_a_line(error)
        if line is None:
            error.add_note(f"about {path}")
            raise
        named = _naming(error, line, path)
        if named == line and isinstance(error, UserInputError):
            raise
        raise UserInputError(named) from error


def _naming(error: Exception, line: str, path: Path | str) -> str:
    """The line, which names `path` where neither it nor the system names a file."""
    other = isinstance(error, OSError) and error.filename is not None
    names = (str(path), printable(path))
    # a short name may well be a word of the line
    named = line.startswith(tuple(name + end for name in names for end in (": ", "/"))) or any(
        "/" in name and name in line for name in names
    )
    return line if other or named else f"{path}: {line}"


def line_of(error: Exception, path: Path | str, folder: Path | None = None) -> str:
    """The line about a file of several that could not be used, so that the others can be; the
    traceback of a mistake of the package is written as `reported` does. Raises StoppedError.
    """
    raise_if_stopped()
    return _naming(error, in_a_line(error) or reported(error, folder), path)


def reported(error: BaseException, folder: Path | None = None) -> str:
    """Write the traceback of a mistake of the package into `folder`, or the temporary one -> a line
    that names both.
    """
    text = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if Path(frame.filename) != Path(__file__)]
    own = [frame for frame in inner if "vqwave" in Path(frame.filename).parts] or inner
    where = f" in {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    reason = " ".join(str(error).split())[:300]
    what = f"{type(error).__name__}{f': {reason}' if reason else ''}{where}"
    for place in (folder, Path(tempfile.gettempdir())):
        path = None if place is None else _written(place, text)
        if path is not None:
            return f"a mistake of vqwave: {what}; the traceback is in {path}"
    return f"a mistake of vqwave: {what}; its traceback could not be written"


def _written(folder: Path, text: str) -> Path | None:
    """A new file of a name that cannot be guessed; None where it cannot be written."""
    path = folder / f"vqwave-traceback-{secrets.token_hex(8)}.txt"
    command = printable(" ".join(map(str, sys.argv)))
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"$ {command}\nPython {sys.version}\n\n{text}")
    except OSError:
        return None
    return path


@contextmanager
def ending(
    *,
    reports: Callable[[BaseException], bool] = lambda _: True,
    folder: Callable[[], Path | None] = lambda: None,
) -> Iterator[None]:
    """The outermost block of a command: every exception becomes a line and SystemExit.

    `reports`: whether this process prints the line, of several that may have the same error;
    `folder`: where the traceback of a mistake of the package is written, if it exists. SIGTERM and
    SIGHUP raise `StoppedError` within, so that what is begun is tidied up.
    """
    with usable_streams(), _stoppable():
        try:
            try:
                yield
            except SystemExit:
                flush_output()
                raise
            flush_output()
        except KeyboardInterrupt as stop:
            _stopped(stop.number if isinstance(stop, StoppedError) else signal.SIGINT)
        except Exception as error:
            if _received:
                _stopped(_received[0])
            if isinstance(error, BrokenPipeError) and error.filename == OUTPUT:
                discard_output()  # as `| head` does it: nothing is wrong
                raise SystemExit(128 + signal.SIGPIPE) from None
            line = in_a_line(error)
            text = f"error: {reported(error, folder()) if line is None else line}"
            _end(text if line != "" and reports(error) else "", BUG if line is None else BAD)


def _stopped(number: int) -> NoReturn:
    _end("interrupted" if number == signal.SIGINT else "stopped", 128 + number)


def _end(line: str, status: int) -> NoReturn:
    try:
        flush_output()
    except OSError:
        discard_output()
    if line:
        message(line, flush=True)
    raise SystemExit(status) from None


@contextmanager
def _stoppable() -> Iterator[None]:
    """A signal that is ignored, as nohup does it, or has a handler already, stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", *STOPPING)
    before = {
        number: handler
        for number in (getattr(signal, name) for name in names if hasattr(signal, name))
        if (handler := signal.getsignal(number)) in (signal.SIG_DFL, signal.default_int_handler)
    }

    def stop(number: int, _frame: FrameType | None) -> None:
        _received.append(number)
        for each, handler in before.items():
            # the first one is enough, and tidying up must not be stopped but by a second Ctrl-C
            signal.signal(each, handler if each == signal.SIGINT else signal.SIG_IGN)
        raise StoppedError(number)

    for number in before:
        signal.signal(number, stop)
    try:
        with _stopping_again(stop):
            yield
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _stopping_again(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Python prints and drops what is raised where nothing can catch it, as in `__del__` or a
    callback of C: there a signal to stop comes once more, a moment later.
    """
    hook, timers = sys.unraisablehook, list[threading.Timer]()

    def dropped(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not isinstance(error, StoppedError):
            hook(unraisable)
            return
        signal.signal(error.number, stop)
        timers.append(threading.Timer(MOMENT, os.kill, (os.getpid(), error.number)))
        timers[-1].start()

    sys.unraisablehook = dropped
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for timer in timers:
            timer.cancel()
