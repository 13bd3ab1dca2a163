"""Recordings in an audio column of the library `datasets`: a data set on disk, or one of a hub.

The sounds are decoded by this package, as files are, and read one by one as they are prepared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vqwave.data.external_formats import LABELS, NOBODY, SPEAKER, TEXT, split_of
from vqwave.data.manifest import Recording, Rejected
from vqwave.errors import UserInputError, nearest
from vqwave.failures import raise_if_stopped

Rows = Iterator[Recording | Rejected]
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?", re.ASCII)
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
USUAL = {
    "speaker": (*SPEAKER, "client_id", "speaker_name"),
    "text": (*TEXT, "normalized_text"),
    "id": ("id",),
} | {label: (label,) for label in LABELS}
"""Columns that are taken where none is named, the first that there is."""


def hf_datasets(source: Path, columns: Mapping[str, str] | None = None) -> Rows:
    """A folder that `save_to_disk` wrote, one of files that `load_dataset` reads, or a name of a
    hub, `USER/NAME[:SUBSET][@REVISION]`.

    columns: which column is `audio`, `speaker`, `text` or `id`; any other name is a label. Where
    none is named, the audio column is the only one there is, and the others are found by their
    usual names. Splits are those of the data set; a single one is no split. Raises UserInputError.
    """
    parts = _splits(source)
    splits = {name: split_of(Path(name), Path()) for name in parts}
    for name, data in parts.items():
        if any(splits.values()) and not splits[name]:  # such as `invalidated`, or `other`
            wanted = "next to train, validation and test; expected to be one of them"
            yield Rejected(source / name, f"{len(data)} rows of a split {wanted}")
            continue
        split = splits[name] if len(parts) > 1 else ""
        prefix = f"{name}/" if len(parts) > 1 else ""
        yield from _Table.of(data, source, prefix, columns or {}).recordings(split)


def _splits(source: Path) -> dict[str, Any]:
    """Data sets by the name of their split. Raises UserInputError."""
    try:
        import datasets
    except ImportError:
        raise UserInputError(
            "the package datasets is not installed, which reads this kind: pip install"
            " 'vqwave[datasets]'"
        ) from None
    name = HUB_NAME.fullmatch(source.as_posix())
    # the library would look for a file's name on the hub
    if not source.is_dir() and (source.exists() or name is None or ".." in source.parts):
        raise UserInputError(
            f"{source}: no such folder, expected one, or USER/NAME[:SUBSET][@REVISION] of a hub"
        )
    try:
        if not source.exists() and name is not None:
            loaded = datasets.load_dataset(name[1], name[2], revision=name[3])
        elif any((source / file).is_file() for file in SAVED):
            loaded = datasets.load_from_disk(str(source))
        else:
            loaded = datasets.load_dataset(str(source))
        parts = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
        for part in parts.values():
            part.data.validate(full=True)  # its offsets, which nothing checks as rows are read
    except Exception as error:  # of the library, and of all that it reads with
        reason = " ".join(str(error).split())[:300]
        raise UserInputError(
            f"{source}: no data set that can be read ({reason}), expected one of the library"
            " datasets"
        ) from None
    return parts


@dataclass(frozen=True)
class _Table:
    """One split: what is said of each row, the paths of the sounds and the sounds."""

    source: Path
    prefix: str
    about: Any
    """Without the sounds."""
    columns: dict[str, str]
    """Name -> column of `about`."""
    paths: list[str | None]
    packed: list[bool]
    """Whether a row has the sound itself."""
    sounds: Any
    """With one column, of paths and bytes."""

    @classmethod
    def of(cls, data: Any, source: Path, prefix: str, given: Mapping[str, str]) -> _Table:  # noqa: ANN401 - of an optional library
        from datasets import Audio

        features = data.features
        for name, column in given.items():
            if column not in features:
                there = ", ".join(features)
                raise UserInputError(
                    f"{source}: no column {column!r} for {name}, there are"
                    f" {there}{nearest(column, features)}"
                )
        audio = given.get("audio") or _audio_column(features, source)
        try:
            sounds = data.select_columns([audio]).cast_column(audio, Audio(decode=False))
            paths, packed = _places(sounds.data.column(audio))
        except Exception as error:  # of the library
            reason = " ".join(str(error).split())[:200]
            raise UserInputError(f"{source}: column {audio!r} has no sounds ({reason})") from None
        by_usual_name = {
            name: next((column for column in usual if column in features and column != audio), "")
            for name, usual in USUAL.items()
        }
        chosen = {name: column for name, column in {**by_usual_name, **given}.items() if column}
        chosen.pop("audio", None)
        if "id" in chosen and "id" not in given and not _are_unique(data, chosen["id"]):
            del chosen["id"]  # of a sentence, say, that several have read
        return cls(
            source=source,
            prefix=prefix,
            about=data.select_columns(list(dict.fromkeys(chosen.values()))) if chosen else None,
            columns=chosen,
            paths=paths,
            packed=packed,
            sounds=sounds,
        )

    def recordings(self, split: str) -> Rows:
        for i, packed in enumerate(self.packed):
            where, path = self.source / f"{self.prefix}row {i}", self.paths[i]
            try:
                about = self._about(i)
            except Exception as error:  # of the library, which reads a row as it is asked for
                yield Rejected(where, f"cannot be read ({_reason(error)})")
                continue
            if not packed and not path:
                yield Rejected(where, "has no sound")
                continue
            yield Recording(
                path=where if packed else Path(str(path)),
                speaker=about.pop("speaker", "") or NOBODY,
                id=self.prefix + (about.pop("id", "") or f"{i:06d}"),
                text=about.pop("text", ""),
                split=split,
                labels={name: value for name, value in about.items() if value},
                load=partial(_sound, self.sounds, i, where) if packed else None,
            )

    def _about(self, i: int) -> dict[str, str]:
        row = {} if self.about is None else self.about[i]
        return {name: self._text(column, row[column]) for name, column in self.columns.items()}

    def _text(self, column: str, value: object) -> str:
        """A value as text; of a class its name."""
        names = getattr(self.about.features[column], "names", None)
        if names and isinstance(value, int) and 0 <= value < len(names):
            return str(names[value])
        return "" if value is None else str(value).strip()


def _are_unique(data: Any, column: str) -> bool:  # noqa: ANN401 - of an optional library
    values = list(data.select_columns([column])[:][column])
    return len(set(map(str, values))) == len(values)


def _places(column: Any) -> tuple[list[str | None], list[bool]]:  # noqa: ANN401 - pyarrow's
    """Of a column of sounds, the paths and whether there are bytes, none of which is read."""
    paths: list[str | None] = []
    packed: list[bool] = []
    for chunk in column.chunks:
        parts = dict(zip((part.name for part in chunk.type), chunk.flatten(), strict=True))
        paths += parts["path"].to_pylist()
        packed += parts["bytes"].is_valid().to_pylist()
    return paths, packed


def _sound(sounds: Any, i: int, where: Path) -> bytes:  # noqa: ANN401 - of an optional library
    """The bytes of the sound file in a row. Raises UserInputError."""
    try:
        (sound,) = sounds[i].values()
        return bytes(sound["bytes"])
    except Exception as error:  # of the library
        raise UserInputError(f"{where}: its sound cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """In a line. Raises StoppedError where a signal has ended the reading."""
    raise_if_stopped()
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _audio_column(features: Mapping[str, Any], source: Path) -> str:
    """The only column of sounds. Raises UserInputError."""
    from datasets import Audio

    columns = [name for name, feature in features.items() if isinstance(feature, Audio)]
    if len(columns) != 1:
        given = ", ".join(columns) or f"none among {', '.join(features)}"
        raise UserInputError(
            f"{source}: columns of sounds: {given}, expected one, or --column audio=NAME"
        )
    return columns[0]
