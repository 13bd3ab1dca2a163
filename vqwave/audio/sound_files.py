"""Which files of a folder are sound: one walker for all commands, and why each other is left
out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from vqwave.errors import UserInputError

SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64"}
)
_AUDIO = {".m4a", ".m4b", ".aac", ".amr", ".wma", ".mka", ".ape", ".wv", ".ac3"}
_VIDEO = {".mp4", ".mov", ".3gp", ".webm", ".mkv", ".avi"}
FOREIGN = frozenset(_AUDIO | _VIDEO)  # hold sound, too, in formats that are not read
WHY_FOREIGN = "is in a format that is not read, expected .wav or .flac (ffmpeg -i FILE FILE.wav)"
WHY_NAME = "its name is not UTF-8, expected it renamed"
WHY_NO_FILE = "is no file, expected one"


def visible_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files below `folder` of these suffixes, sorted; linked folders are followed.

    Hidden files, such as the ._NAME.wav of macOS, and what hidden folders hold are passed over.
    """
    return [path for path in visible_entries(folder, suffixes) if path.is_file()]


def visible_entries(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The same with what is neither file nor folder: a pipe, a device, a link to nothing."""
    return sorted(path for path in _walk(folder, frozenset()) if path.suffix.lower() in suffixes)


def sound_files(folder: Path) -> list[Path]:
    """The `visible_files` that may be read as sound."""
    return [path for path in visible_files(folder, SUFFIXES) if has_utf8_name(path)]


def refused_files(
    folder: Path, suffixes: Collection[str] = SUFFIXES | FOREIGN
) -> list[tuple[Path, str]]:
    """The `visible_entries` that are not read, each with its reason and a printable path."""
    reasons = ((path, why_refused(path)) for path in visible_entries(folder, suffixes))
    return [(Path(shown(path)), reason) for path, reason in reasons if reason]


def why_refused(path: Path) -> str:
    """Why a file is not read, without a look into it; empty for one that may be."""
    if not has_utf8_name(path):
        return WHY_NAME
    if not path.is_file():
        return WHY_NO_FILE
    return WHY_FOREIGN if path.suffix.lower() in FOREIGN else ""


def has_utf8_name(path: Path) -> bool:
    """Whether a path can be stored and printed as text."""
    return shown(path) == str(path)


def shown(path: Path) -> str:
    """A path as text: bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def refuse_name(path: Path) -> None:
    """Raises UserInputError for a path that is not UTF-8."""
    if not has_utf8_name(path):
        raise UserInputError(f"{shown(path)}: {WHY_NAME}")


def _walk(folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """above: the folders around this one, by device and inode; a link to one is not followed."""
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, above | {here})
        else:
            yield path
