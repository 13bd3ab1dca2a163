"""The journal of a sweep, in which optuna keeps its trials, a line for each event.

A process may be killed at any moment: a line that was cut off is removed, and the lock ends with
the process that has it. (optuna's own, a link, stays, and is then waited for without end where the
journal has a relative path.)
"""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqwave import parsing
from vqwave.atomic_files import lock
from vqwave.errors import UserInputError, located

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.jsonl"
DAMAGED = (LookupError, ValueError, TypeError, AttributeError, AssertionError)


class JournalLock:
    """As optuna takes one: `acquire` waits, `release` lets others in."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_name(f".{journal.name}.lock")
        self._threads, self._held = threading.Lock(), ExitStack()

    def acquire(self) -> bool:
        self._threads.acquire()
        try:
            lock(self._held.enter_context(self._path.open("a")), wait=True)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        self._held.close()
        self._threads.release()


def library() -> Any:  # noqa: ANN401 - a module
    """optuna. Raises UserInputError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserInputError(
            "the package optuna is not installed, which runs sweeps: pip install 'vqwave[sweep]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_study(folder: Path, *, minimize: bool, hyperband: dict[str, Any] | None) -> optuna.Study:
    """The study in a folder's journal, made if need be. OSErrors name the journal."""
    optuna = library()
    journal = folder / JOURNAL
    held = JournalLock(journal)
    with located(journal):
        backend = optuna.storages.journal.JournalFileBackend(str(journal), held)
        _remove_torn_line(journal, held)
    for _ in parsing.read_json_lines(journal, "a journal", dict[str, Any], finite=False):
        pass  # before optuna reads it
    pruner = optuna.pruners.HyperbandPruner(**hyperband) if hyperband else None
    settings = {"direction": ("maximize", "minimize")[minimize], "pruner": pruner}
    try:
        with located(journal):
            storage = optuna.storages.JournalStorage(backend)
            return optuna.create_study(
                study_name="sweep", storage=storage, load_if_exists=True, **settings
            )
    except DAMAGED as error:
        raise UserInputError(
            f"{journal}: damaged ({error!r}), expected the journal of a sweep"
        ) from None


def _remove_torn_line(journal: Path, held: JournalLock) -> None:
    """A last line that a kill or a full disk cut off."""
    if not (journal.read_bytes() or b"\n").endswith(b"\n"):
        held.acquire()
        try:
            os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
        finally:
            held.release()
