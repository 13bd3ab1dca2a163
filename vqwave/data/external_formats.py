"""Recordings as other tools store them: WebDataset's tar shards, lhotse's manifests.

Both are read without those tools.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vqwave import parsing
from vqwave.audio.sound_files import FOREIGN, SUFFIXES, WHY_FOREIGN
from vqwave.data.manifest import SPLITS, Phones, Recording, Rejected
from vqwave.errors import UserInputError

Rows = Iterator[Recording | Rejected]
SPEAKER = ("speaker", "speaker_id", "spk", "spk_id")
TEXT = ("text", "transcript", "transcription", "sentence")
LABELS = ("gender", "accent", "language", "dialect", "emotion", "style")
NOBODY = "unknown"  # the speaker where none is given
LONGEST_TEXT = 1 << 20  # bytes of a text next to a recording


def split_of(path: Path, source: Path) -> str:
    """The split that a file's name, or that of a folder between it and `source`, has as one of its
    words; else empty.
    """
    inside = path.relative_to(source).as_posix() if path != source else path.name
    words = re.split(r"[^a-z]+", inside.lower())
    return next((SPLITS[word] for word in words if SPLITS.get(word)), "")


@dataclass
class _Sample:
    """What a shard holds under one key, member by member."""

    key: str
    sound: tarfile.TarInfo | None = None
    text: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


def webdataset(source: Path) -> Rows:
    """Shards *.tar, or one of them: files of one key belong together, a sound with KEY.txt and
    KEY.json (or KEY.cls) next to it.

    The JSON's speaker, text and labels (gender, accent, language, dialect, emotion, style) are
    read; .cls becomes the label `class`. A shard below train, valid or test, or with such a word in
    its name, is of that split.
    """
    shards = [source] if source.is_file() else sorted(source.rglob("*.tar"))
    for packed in sorted(source.rglob("*.tar.*")) if source.is_dir() else ():
        yield Rejected(packed, "is compressed, expected a plain .tar")
    for shard in shards:
        home = source if source.is_dir() else source.parent
        name = shard.relative_to(home).with_suffix("").as_posix()
        try:
            for sample in _samples(shard):
                yield _recording_of(sample, shard, f"{name}/{sample.key}", split_of(shard, home))
        except (tarfile.TarError, EOFError, ValueError, OverflowError, OSError) as error:
            yield Rejected(shard, f"not a complete, plain tar file ({error})")


def _samples(shard: Path) -> Iterator[_Sample]:
    """Samples in the shard's order; as WebDataset has it, members of one key follow one another."""
    here: _Sample | None = None
    with parsing.open_regular(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            stem, _, ending = base.partition(".")
            if not member.isfile() or not stem or base.startswith("."):
                continue
            key = f"{folder}/{stem}" if folder else stem
            if here is None or here.key != key:
                if here is not None:
                    yield here
                here = _Sample(key)
            _take(here, member, ending.lower(), archive)
    if here is not None:
        yield here


def _take(sample: _Sample, member: tarfile.TarInfo, ending: str, archive: tarfile.TarFile) -> None:
    if f".{ending}" in SUFFIXES:
        sample.reason = (
            f"holds two sounds of the key {sample.key!r}" if sample.sound else sample.reason
        )
        sample.sound = member
    elif f".{ending}" in FOREIGN:
        sample.reason = sample.reason or f"{member.name} {WHY_FOREIGN}"
    elif ending in ("txt", "cls", "json") and member.size <= LONGEST_TEXT:
        file = archive.extractfile(member)
        content = file.read().decode("utf-8", errors="replace").strip() if file is not None else ""
        if ending == "txt":
            sample.text = content
        elif ending == "cls":
            sample.about["class"] = content
        else:
            _take_json(sample, member.name, content)


def _take_json(sample: _Sample, name: str, content: str) -> None:
    try:
        tree = parsing.parse_json(content, name, finite=False)
    except UserInputError:
        tree = None
    if not isinstance(tree, dict):
        sample.reason = f"{name} is no JSON object"
    else:
        sample.about |= tree


def _recording_of(sample: _Sample, shard: Path, name: str, split: str) -> Recording | Rejected:
    if sample.reason:
        return Rejected(shard, sample.reason)
    if sample.sound is None:
        return Rejected(shard, f"no sound of the key {sample.key!r}")
    about = sample.about
    return Recording(
        path=shard,
        speaker=_first(about, SPEAKER) or NOBODY,
        id=name,
        text=sample.text or _first(about, TEXT),
        split=SPLITS.get(str(about.get("split", "")).lower(), "") or split,
        labels=_labels(about, (*LABELS, "class")),
        member=(sample.sound.offset_data, sample.sound.size),
    )


def _first(about: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next(
        (str(about[name]).strip() for name in names if about.get(name) not in (None, "")), ""
    )


def _labels(about: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, str]:
    return {name: str(about[name]) for name in names if about.get(name) not in (None, "")}


def lhotse(source: Path) -> Rows:
    """A folder with *cuts*.jsonl.gz, or with *recordings*.jsonl.gz and *supervisions*.jsonl.gz
    (.jsonl too), or one cuts file.

    Each supervision is an utterance; sounds must lie in files, named relative to the manifest's
    folder or to the current one. The alignment `phone` becomes phones. A word train, dev (valid) or
    test in a manifest's name gives the split.
    """
    if source.is_file():
        yield from _cuts(source, source.parent)
        return
    files = sorted(p for p in source.rglob("*") if p.name.endswith((".jsonl", ".jsonl.gz")))
    cuts = [path for path in files if "cuts" in path.name]
    if cuts:
        for path in cuts:
            yield from _cuts(path, source)
        return
    sounds = {
        row["id"]: (row, path) for path in files if "recordings" in path.name for row in _rows(path)
    }
    supervised = set()
    for path in files:
        for row in _rows(path) if "supervisions" in path.name else ():
            name = row.get("recording_id")
            if not isinstance(name, str | int) or name not in sounds:
                yield Rejected(
                    path,
                    f"supervision {row['id']!r} is of the recording {name!r}, which is nowhere",
                )
                continue
            supervised.add(name)
            recording, where = sounds[name]
            yield _utterance(row, recording, where, split=split_of(path, source), offset=0.0)
    for name, (_, path) in sounds.items():
        if name not in supervised:
            yield Rejected(path, f"no supervision of the recording {name!r}")


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    expected = "a manifest of lhotse"
    for number, row in parsing.read_json_lines(path, expected, dict[str, Any], finite=False):
        if not isinstance(row.get("id"), str | int):
            raise UserInputError(
                f"{path}, line {number}: expected an object with an id, as lhotse writes it"
            )
        yield row


Seconds = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


@dataclass(frozen=True)
class CutRow:
    """What is used of a cut."""

    start: Seconds
    duration: Annotated[Seconds, Field(ge=0)]
    supervisions: list[dict[str, Any]]


@dataclass(frozen=True)
class SoundSource:
    """Where sound comes from."""

    type: str
    source: str
    channels: list[int]


@dataclass(frozen=True)
class SoundRow:
    """What is used of a recording."""

    sampling_rate: parsing.Rate
    num_samples: parsing.Count
    sources: list[SoundSource]
    transforms: list[Any] | None = None


@dataclass(frozen=True)
class SupervisionRow:
    """What is used of a supervision."""

    id: str | int
    start: Seconds
    duration: Annotated[Seconds, Field(ge=0)]
    custom: dict[str, Any] | None = None
    alignment: dict[str, list[list[Any]]] | None = None


@dataclass(frozen=True)
class AlignedRow:
    """What is used of an item of an alignment."""

    label: str
    start: Seconds


def _cuts(path: Path, source: Path) -> Rows:
    for cut in _rows(path):
        if cut.get("type", "MonoCut") != "MonoCut" or not isinstance(cut.get("recording"), dict):
            yield Rejected(
                path,
                f"{cut['id']!r} is a {cut.get('type', 'cut')} without a recording, expected a"
                " MonoCut",
            )
            continue
        if not cut.get("supervisions"):
            yield Rejected(path, f"no supervision of the cut {cut['id']!r}")
            continue
        try:
            known = parsing.checked(CutRow, cut, f"cut {cut['id']!r}")
        except UserInputError as error:
            yield Rejected(path, str(error))
            continue
        for row in known.supervisions:
            yield _utterance(
                row,
                cut["recording"],
                path,
                split=split_of(path, source),
                offset=known.start,
                duration=known.duration,
            )


def _utterance(
    row: Mapping[str, Any],
    recording: Mapping[str, Any],
    manifest: Path,
    *,
    split: str,
    offset: float,
    duration: float | None = None,
) -> Recording | Rejected:
    """A supervision that starts `row["start"]` s after `offset`, the start of its cut, and lies
    within the cut's duration.
    """
    name = repr(row.get("id"))
    try:
        known = parsing.checked(SupervisionRow, row, name)
        sound = parsing.checked(SoundRow, recording, f"the recording of {name}")
        phones = _phones(known, offset, sound.sampling_rate)
    except UserInputError as error:
        return Rejected(manifest, f"{error}, expected it as lhotse writes it")
    path, rate, total = _file_of(sound, manifest.parent), sound.sampling_rate, sound.num_samples
    begin, end = known.start, known.start + known.duration
    if sound.transforms:
        return Rejected(manifest, f"the sound of {name} has transforms, expected it as its file is")
    if path is None:
        kinds = ", ".join(each.type for each in sound.sources)
        return Rejected(
            manifest,
            f"the sound of {name} is of type {kinds or 'nothing'}, expected one file of one"
            " channel",
        )
    if duration is not None:
        begin, end = max(0.0, begin), min(duration, end)
    start, stop = round((offset + begin) * rate), min(total, round((offset + end) * rate))
    about = {**(known.custom or {}), **row}
    return Recording(
        path=path,
        speaker=_first(about, SPEAKER) or NOBODY,
        id=str(known.id),
        text=_first(about, TEXT),
        split=split,
        start=start,
        frames=max(0, stop - start),
        sample_rate=rate,
        labels=_labels(about, LABELS),
        phones=phones,
    )


def _file_of(recording: SoundRow, folder: Path) -> Path | None:
    """The sound file of a recording of one source; None where it is something else than a file, or
    one of many channels.
    """
    sources = recording.sources
    if len(sources) != 1 or sources[0].type != "file" or len(sources[0].channels) > 1:
        return None
    path = Path(sources[0].source)
    return next((place for place in (folder / path, path) if _is_file(place)), folder / path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _phones(row: SupervisionRow, offset: float, rate: int) -> Phones:
    items = (row.alignment or {}).get("phone", ())
    keys = ("label", "start")
    aligned = [
        parsing.checked(AlignedRow, dict(zip(keys, item, strict=False)), f"{row.id!r}: alignment")
        for item in items
    ]
    return tuple((round((offset + each.start) * rate), each.label) for each in aligned)
