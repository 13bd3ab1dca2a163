"""Files and folders that appear completely or not at all, and who may write in a run folder."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
from safetensors import SafetensorError

from vqwave.errors import UserInputError, located
from vqwave.failures import refusal_of

# what a disk may answer
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
LOCK_TIMEOUT = 6.0  # seconds that a run folder's other process is waited for
# names under which a killed process was writing; older ones ended in its number
LEFT = re.compile(r"\..+\.(\d+|[0-9a-f]{16}|old)")
HIDDEN = re.compile(r"\.(.+)\.[0-9a-f]{16}", re.DOTALL)  # those of `hidden`
LONGEST_NAME = 200  # bytes of a name that the hidden one begins with


@contextmanager
def writing(run: Path, what: str) -> Iterator[None]:
    """Raises UserInputError, a line, where the disk does not take what is written into a run folder
    within.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserInputError(
            f"{run}: {what} cannot be written ({error.strerror}); {_kept(run)}"
        ) from error
    except SafetensorError as error:
        refusal = refusal_of(error)
        if refusal is None or refusal.errno not in FULL:
            raise
        raise UserInputError(
            f"{run}: {what} cannot be written ({refusal.strerror}); {_kept(run)}"
        ) from error


def newest_name(run: Path) -> str | None:
    """The name of a run's newest checkpoint, complete or not."""
    return max((path.name for path in (run / "checkpoints").glob("step-*")), default=None)


def _kept(run: Path) -> str:
    newest = newest_name(run)
    kept = "there is no checkpoint yet" if newest is None else f"{newest} is kept"
    return f"{kept}: make room and run the same command to go on"


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Raises UserInputError while another process is within for the same run folder, which is made
    if need be.

    What a process holds ends with it; one that was killed may live on for moments in its children,
    which are waited for. Where a file system knows no locks, or there is no `fcntl`, nothing is
    held.
    """
    if run.exists() and not run.is_dir():
        raise UserInputError(f"{run}: a file, expected a run folder")
    run.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    # the folder itself: nothing is left in it
    folder, until = os.open(run, os.O_RDONLY), time.monotonic() + LOCK_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise UserInputError(
                        f"{run}: another process trains there, expected to be alone"
                    ) from None
                time.sleep(0.2)
            except OSError:  # no locks here
                break
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # for children, too, that have the descriptor
        os.close(folder)


def is_held(run: Path) -> bool:
    """Whether a process is within `alone` for this run folder; false where there are no locks."""
    if fcntl is None:
        return False
    try:
        folder = os.open(run, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return False
    finally:
        os.close(folder)
    return False


def lock(file: IO[str], *, wait: bool) -> bool:
    """Lock an open file until this process, and those that inherit the descriptor, have closed it
    -> False where another process has it and `wait` is false.

    Nothing is locked where a file system or the system has no locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


def empty(folder: Path) -> None:
    """Remove all in a folder; what marks it as a run goes last, so that a killed removal can be
    done again.
    """
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.yaml"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def is_left(path: Path) -> bool:
    """Whether a killed process was writing under this name."""
    return LEFT.fullmatch(path.name) is not None


def sweep(run: Path) -> None:
    """Remove what killed processes left half-written in a run folder.

    No other process may be writing there.
    """
    for place in (run, run / "checkpoints"):
        for path in place.iterdir() if place.is_dir() else ():
            if is_left(path):
                final = path.with_name(path.name[1:].rpartition(".")[0])
                retired = path.suffix == ".old" and not path.is_symlink()
                if retired and not final.exists():  # killed between the two renames
                    os.replace(path, final)  # noqa: PTH105 - tests make it fail
                    continue
                remove(path)


def remove(path: Path) -> None:
    """A file, a link or a folder, as far as it can be removed; raises nothing, so that what is
    wrong already can be reported.
    """
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _beginning(final: Path) -> str:
    """What the hidden names of `final` have of its own."""
    return os.fsdecode(os.fsencode(final.name)[:LONGEST_NAME])


def hidden(path: Path) -> Path:
    """A name next to `path`, for what is being written, that nobody else can know beforehand."""
    return path.with_name(f".{_beginning(path)}.{secrets.token_hex(8)}")


@contextmanager
def _instead_of(final: Path, temporary: Path) -> Iterator[None]:
    """What the system refuses names `final`, also where safetensors reports it."""
    with located(final, temporary):
        try:
            yield
        except SafetensorError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            raise refusal from error


@contextmanager
def _claimed(final: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """What `make` makes under a hidden name next to `final`, locked as long as this is open, so
    that no other process takes it for one that was left; after an error nothing of it is left.

    What killed processes left under hidden names of `final` is removed first.
    """
    for path in _hidden_in(final.parent.absolute()).get(_beginning(final), ()):
        _remove_abandoned(path)
    handle = None
    while handle is None:
        temporary = hidden(final)
        with _instead_of(final, temporary):
            make(temporary)
        handle = _locked(temporary)
    try:
        with _instead_of(final, temporary):
            yield temporary
    except BaseException:
        remove(temporary)
        raise
    finally:
        os.close(handle)


@functools.lru_cache(maxsize=1024)
def _hidden_in(folder: Path) -> dict[str, list[Path]]:
    """The hidden names in a folder by what they begin with, as they are when this process first
    writes into it: listing it for each of thousands of files would take long.
    """
    names: dict[str, list[Path]] = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if match := HIDDEN.fullmatch(entry.name):
                names.setdefault(match[1], []).append(folder / entry.name)
    return names


def _remove_abandoned(path: Path) -> None:
    """Remove what has a hidden name, if it is a file or folder of this user that no process has
    locked; nothing where there are no locks.
    """
    if fcntl is None:
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        about = os.fstat(handle)
        ours = stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)
        if ours and about.st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)  # while it is locked: who has just made it makes another
    except OSError:  # somebody writes there, or there are no locks here
        pass
    finally:
        os.close(handle)


def _locked(path: Path) -> int | None:
    """A descriptor that locks a file or folder just made; None where another process took it for
    abandoned meanwhile.
    """
    if fcntl is None:
        return os.open(os.devnull, os.O_RDONLY)
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # no locks here
        fcntl.flock(handle, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    os.close(handle)
    return None


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """An empty file next to `final` that takes its place once it is written; after an error nothing
    of it is left. OSErrors name `final`.

    It is made by this process and is no link, wherever a name like it may have been planted. What
    a killed process left of the same file is removed.
    """
    with _claimed(final, _make_file) as temporary:
        yield temporary
        os.replace(temporary, final)  # noqa: PTH105 - tests make it fail


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, completely or not at all."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    write_bytes(path, text.encode())


def replace_folder(temporary: Path, final: Path) -> None:
    """Put a finished folder in place of an older one; a kill in between leaves the older one under
    a name of its own.
    """
    retired = final.with_name(f".{final.name}.old")
    remove(retired)
    with suppress(OSError):
        final.rmdir()  # an empty one
    if final.exists():
        os.replace(final, retired)  # noqa: PTH105 - tests make it fail
    try:
        os.replace(temporary, final)  # noqa: PTH105 - tests make it fail
    except BaseException:
        with suppress(OSError):
            retired.replace(final)
        raise
    remove(retired)


def new_place(out: Path) -> Path:
    """Where a folder that is asked for will lie, links followed.

    Raises UserInputError where something is there, and for the folder that this process runs in.
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserInputError(f"{out}: there already, expected a new or empty folder")
    place = out.resolve()
    if place == Path.cwd():
        raise UserInputError(f"{out}: the current folder, expected the name of a new one")
    return place


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """An empty folder next to `final` that takes its place once it is filled; after an error
    nothing of it is left. OSErrors name `final`.

    What a killed process left of the same folder is removed.
    """
    with located(final):
        final.parent.mkdir(parents=True, exist_ok=True)
    with _claimed(final, Path.mkdir) as temporary:
        yield temporary
        replace_folder(temporary, final)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """To the disk itself: a file's content, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
