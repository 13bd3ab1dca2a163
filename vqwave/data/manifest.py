"""What there is to prepare: one `Recording` an utterance, read from and written to CSV or JSONL.

Columns: `path` (relative to the manifest's folder) and `speaker` are needed; `start` and `frames`
(samples of the file), `sample_rate` (Hz, checked against the file), `text`, `split`, `id` and, in
JSONL, `phones` are optional. Every further column is a label (gender, accent, ...) and becomes a
global condition by that name, except plain measurements (`MEASUREMENTS`). A `speakers.csv` next to
the manifest adds columns by speaker.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile, gettempdir
from typing import Any

from vqwave import parsing
from vqwave.errors import UserInputError, located, nearest

COLUMNS = ("path", "start", "frames", "sample_rate", "speaker", "text", "split", "id", "phones")
MEASUREMENTS = frozenset({"take", "duration", "duration_s", "seconds", "minutes", "utterances"})
LONGEST_TEXT = 1 << 30  # bytes of a table
MOST_SAMPLES = 1 << 53
OPENED = Path("/proc/self/fd")  # of Linux: the files that this process has open
SPLITS = {"train": "train", "test": "test", "": ""} | dict.fromkeys(
    ("valid", "validation", "val", "dev"), "valid"
)

Phones = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Recording:
    """A segment of a sound file with the speech of one speaker.

    `start` and `frames` are samples of the file (`frames` None: to its end); `split` is "train",
    "valid", "test", or empty where the corpus defines none; `phones` are (first sample of the file,
    label). `member` is where the sound file lies inside `path`, which is then an archive: its first
    byte, its bytes. `load` gives the bytes of a sound file that lies nowhere; `path` then names it.
    """

    path: Path
    speaker: str
    id: str
    text: str = ""
    split: str = ""
    start: int = 0
    frames: int | None = None
    sample_rate: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    phones: Phones = ()
    member: tuple[int, int] | None = None
    load: Callable[[], bytes] | None = field(default=None, repr=False, compare=False)

    @property
    def is_packed(self) -> bool:
        """Whether there is no sound file of its own."""
        return self.member is not None or self.load is not None

    @contextmanager
    def sound(self) -> Iterator[Path]:
        """The sound file; one out of an archive lies on disk as long as this is open."""
        if not self.is_packed:
            yield self.path
            return
        data = self._packed()
        nameless = OPENED.is_dir()  # so that a kill leaves nothing
        with TemporaryFile() if nameless else NamedTemporaryFile(prefix="vqwave-") as file:
            with located(gettempdir()):
                file.write(data)
                file.flush()
            yield OPENED / str(file.fileno()) if nameless else Path(file.name)

    def _packed(self) -> bytes:
        """The sound file's content."""
        if self.load is not None:
            return self.load()
        first, size = self.member or (0, 0)
        with located(self.path), self.path.open("rb") as archive:
            archive.seek(first)
            return archive.read(size)


@dataclass(frozen=True)
class Rejected:
    """A file that is left out, and why."""

    path: Path
    reason: str


def find_manifest(source: Path) -> Path:
    """`source` itself where it is a file, else the manifest.csv or manifest.jsonl in it."""
    if source.is_file():
        return source
    for name in ("manifest.csv", "manifest.jsonl"):
        if (source / name).is_file():
            return source / name
    if not source.is_dir():
        raise UserInputError(
            f"{source}: no such file or folder, expected a manifest (.csv or .jsonl)"
        )
    raise UserInputError(f"{source}: holds no manifest.csv and no manifest.jsonl")


def read_manifest(path: Path) -> Iterator[Recording]:
    """The recordings of a CSV or JSONL manifest in its order.

    Raises `UserInputError` that names file and line.
    """
    about = _speaker_columns(path.with_name("speakers.csv"))
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _jsonl_rows(path)
    for line, row in rows:
        where = f"{path}, line {line}"
        for column in ("path", "speaker"):
            if row.get(column) in (None, ""):
                raise UserInputError(
                    f"{where}: no {column!r}, found the columns"
                    f" {', '.join(row)}{nearest(column, row)}"
                )
        yield _recording(row, about.get(str(row["speaker"]), {}), path.parent, where)


def write_manifest(path: Path, recordings: Iterable[Recording]) -> None:
    """Write recordings as JSONL, their paths relative to the manifest's folder."""
    with path.open("w", encoding="utf-8") as file:
        for recording in recordings:
            row = dataclasses.asdict(recording)
            row |= row.pop("labels")
            row["path"] = recording.path.relative_to(path.parent).as_posix()
            file.write(
                json.dumps(
                    {k: v for k, v in row.items() if v not in (None, "", ())}, ensure_ascii=False
                )
                + "\n"
            )


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises `UserInputError` where it is none."""
    return parsing.read_text(path, "a text", LONGEST_TEXT).splitlines()


def read_table(path: Path, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row by column name) of a delimited text file with a header."""
    try:
        with (
            parsing.open_regular(path) as data,
            io.TextIOWrapper(data, "utf-8-sig", newline="") as file,
        ):
            reader = csv.DictReader(file, delimiter=delimiter, restkey="")
            for row in reader:
                if any("\0" in value for value in row.values() if isinstance(value, str)):
                    raise UserInputError(f"{path}, line {reader.line_num}: holds a NUL")
                yield (
                    reader.line_num,
                    {(k or "").strip(): v.strip() for k, v in row.items() if isinstance(v, str)},
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserInputError(f"{path}: not a UTF-8 table ({error})") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from read_table(path)


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    yield from parsing.read_json_lines(path, "one object a line", dict[str, Any], finite=False)


def _speaker_columns(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    rows = [row for _, row in read_table(path)]
    return {
        row.get("speaker", ""): _labels({k: v for k, v in row.items() if k != "speaker"})
        for row in rows
    }


def _labels(row: Mapping[str, Any]) -> dict[str, str]:
    known = MEASUREMENTS.union(COLUMNS)
    return {k: str(v) for k, v in row.items() if k and k not in known and v not in (None, "")}


def _recording(
    row: Mapping[str, Any], about: dict[str, str], folder: Path, where: str
) -> Recording:
    split = str(row.get("split") or "").lower()
    if split not in SPLITS:
        raise UserInputError(
            f"{where}: split {split!r}, expected train, valid or test{nearest(split, SPLITS)}"
        )
    start = _whole(row, "start", where) or 0
    path = str(row["path"])
    return Recording(
        path=folder / path,
        speaker=str(row["speaker"]),
        id=str(
            row.get("id") or Path(path).with_suffix("").as_posix() + (f"@{start}" if start else "")
        ),
        text=str(row.get("text") or ""),
        split=SPLITS[split],
        start=start,
        frames=_whole(row, "frames", where),
        sample_rate=_whole(row, "sample_rate", where),
        labels=about | _labels(row),
        phones=_phones(row.get("phones"), where),
    )


def _whole(row: Mapping[str, Any], column: str, where: str) -> int | None:
    value = row.get(column)
    if value in (None, ""):
        return None
    try:
        number = int(str(value))
    except ValueError:
        raise UserInputError(f"{where}: {column} is {value!r}, expected a whole number") from None
    if not 0 <= number < MOST_SAMPLES:
        raise UserInputError(f"{where}: {column} is {number}, expected no negative number")
    return number


def _phones(value: object, where: str) -> Phones:
    if value in (None, ""):
        return ()
    try:
        phones = tuple((int(start), str(label)) for start, label in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        raise UserInputError(f"{where}: phones are not a list of [first sample, label]") from None
    if any(abs(start) >= MOST_SAMPLES for start, _ in phones):
        raise UserInputError(f"{where}: phones beyond {MOST_SAMPLES} samples")
    return phones
