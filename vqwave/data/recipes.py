"""How each corpus lies on disk: a folder -> its recordings, in a fixed order.

A recipe gives `Recording`s, and `Rejected` where a file cannot belong. It leaves `split` empty
where the corpus defines none; `splits.assign_splits` then decides.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vqwave.audio.sound_files import sound_files
from vqwave.data.external_formats import lhotse, webdataset
from vqwave.data.huggingface import hf_datasets
from vqwave.data.manifest import (
    SPLITS,
    Recording,
    Rejected,
    find_manifest,
    read_lines,
    read_manifest,
)
from vqwave.data.pieces import pieces
from vqwave.errors import UserInputError

Rows = Iterator[Recording | Rejected]


@dataclass(frozen=True)
class Recipe:
    """A corpus: what it is, how it lies on disk, its rate in Hz (None: the most common of the
    files), its reader.
    """

    name: str
    about: str
    layout: str
    sample_rate: int | None
    rows: Callable[..., Rows]
    needs_source: bool = True
    takes_file: bool = False
    takes_columns: bool = False
    """Whether it is a table whose columns may be chosen, on disk or by a name."""

    @property
    def is_folder(self) -> bool:
        """Whether it is the sound files below a folder, and no list of them."""
        return self.needs_source and not self.takes_file


def _id(path: Path, source: Path) -> str:
    return path.relative_to(source).with_suffix("").as_posix()


def fsdd(source: Path) -> Rows:
    """The original repository (takes 0-4 are its test split, 5-9 become valid), or a folder with a
    manifest.csv.
    """
    if (source / "manifest.csv").is_file():
        yield from manifest(source)
        return
    folder = source / "recordings" if (source / "recordings").is_dir() else source
    for path in sound_files(folder):
        match = re.fullmatch(r"(\d)_([^_]+)_(\d+)", path.stem)
        if match is None:
            yield Rejected(path, "name is not DIGIT_SPEAKER_TAKE")
            continue
        digit, speaker, take = match.groups()
        split = "test" if int(take) < 5 else "valid" if int(take) < 10 else "train"
        yield Recording(path, speaker, path.stem, text=digit, split=split)


def librispeech(source: Path) -> Rows:
    """PART/SPEAKER/CHAPTER/*.flac with a *.trans.txt a chapter; the part names the split (train-*,
    dev-*, test-*).
    """
    root = source / "LibriSpeech" if (source / "LibriSpeech").is_dir() else source
    genders = _genders(root / "SPEAKERS.TXT") or _genders(root.parent / "SPEAKERS.TXT")
    texts: dict[Path, dict[str, str]] = {}
    for path in sound_files(root):
        chapter = path.parent
        speaker = path.stem.split("-")[0]
        if not re.fullmatch(r"\d+-\d+-\d+", path.stem):
            yield Rejected(path, "name is not SPEAKER-CHAPTER-NUMBER")
            continue
        if chapter not in texts:
            texts[chapter] = dict(
                pair for p in sorted(chapter.glob("*.trans.txt")) for pair in _transcript(p)
            )
        split = _part_of(path, root)
        labels = {"gender": genders[speaker]} if speaker in genders else {}
        yield Recording(
            path,
            speaker,
            path.stem,
            text=texts[chapter].get(path.stem, ""),
            split=split,
            labels=labels,
        )
        texts[chapter].pop(path.stem, None)
    for chapter, left in texts.items():
        for name in left:
            yield Rejected(chapter / f"{name}.flac", "in the transcript, but no such file")


def libritts(source: Path) -> Rows:
    """PART/SPEAKER/CHAPTER/SPEAKER_CHAPTER_PARAGRAPH_SENTENCE.wav with NAME.normalized.txt next to
    it; parts as LibriSpeech's.
    """
    root = source / "LibriTTS" if (source / "LibriTTS").is_dir() else source
    genders = {
        name: gender
        for name in ("speakers.tsv", "SPEAKERS.txt")
        for name, gender in _genders(root / name).items()
    }
    for path in sound_files(root):
        if not re.fullmatch(r"\d+_\d+_\d+_\d+", path.stem):
            yield Rejected(path, "name is not SPEAKER_CHAPTER_PARAGRAPH_SENTENCE")
            continue
        speaker = path.stem.split("_")[0]
        text = next(
            (
                p
                for p in (path.with_suffix(f".{kind}.txt") for kind in ("normalized", "original"))
                if p.is_file()
            ),
            None,
        )
        words = _read_text(text) if text else ""
        labels = {"gender": genders[speaker]} if speaker in genders else {}
        yield Recording(
            path, speaker, path.stem, text=words, split=_part_of(path, root), labels=labels
        )


def _part_of(path: Path, root: Path) -> str:
    """The split that a folder's name begins with: train-*, dev-*, test-*; of those below `root`,
    or else of `root` itself.
    """
    parts = [*path.relative_to(root).parts, root.name]
    return next(
        (
            SPLITS.get(part.split("-")[0], "")
            for part in parts
            if re.match(r"(train|dev|test)-", part)
        ),
        "",
    )


def _transcript(path: Path) -> Iterator[tuple[str, str]]:
    for line in read_lines(path):
        name, _, text = line.strip().partition(" ")
        if name:
            yield name, text.strip()


def _genders(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    rows = (re.split(r"\s*\|\s*|\t", line.strip()) for line in read_lines(path))
    return {
        row[0]: row[1] for row in rows if len(row) > 2 and row[0].isdigit() and row[1] in ("F", "M")
    }


def vctk(source: Path) -> Rows:
    """wav48/SPEAKER/*.wav or wav48_silence_trimmed/SPEAKER/*_mic1.flac, with txt/SPEAKER/*.txt and
    speaker-info.txt.
    """
    places = (source / name for name in ("wav48_silence_trimmed", "wav48"))
    audio = next((place for place in places if place.is_dir()), None)
    if audio is None:
        raise UserInputError(
            f"{source}: no wav48 and no wav48_silence_trimmed folder, expected the VCTK corpus"
        )
    about = _vctk_speakers(source / "speaker-info.txt")
    for path in sound_files(audio):
        if path.stem.endswith("_mic2"):
            continue  # the same sentence through the second microphone
        speaker, name = path.parent.name, path.stem.removesuffix("_mic1")
        text = source / "txt" / speaker / f"{name}.txt"
        yield Recording(path, speaker, name, text=_read_text(text), labels=about.get(speaker, {}))


def _vctk_speakers(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    about = {}
    for line in read_lines(path):
        fields = line.split()
        if len(fields) < 4 or fields[0].upper() == "ID":
            continue
        # the older release leaves the "p" away
        speaker = fields[0] if fields[0][0].isalpha() else f"p{fields[0]}"
        about[speaker] = {"gender": fields[2], "accent": fields[3]}
    return about


def ljspeech(source: Path) -> Rows:
    """metadata.csv (id|text|normalised text) and wavs/: one speaker."""
    table = source / "metadata.csv"
    if not table.is_file():
        raise UserInputError(
            f"{source}: no metadata.csv, expected the LJ Speech folder with metadata.csv and wavs/"
        )
    named = set()
    for line in read_lines(table):
        fields = line.split("|")
        if not fields[0].strip():
            continue
        path = source / "wavs" / f"{fields[0].strip()}.wav"
        named.add(path)
        yield Recording(path, "LJ", path.stem, text=fields[-1].strip())
    for path in sound_files(source / "wavs"):
        if path not in named:
            yield Rejected(path, "not in metadata.csv")


def zerospeech2019(source: Path) -> Rows:
    """english/train/{voice,unit,parallel} and english/test (or the surprise language); files are
    SPEAKER_NUMBER.wav.
    """
    roots = [source / name for name in ("english", "surprise") if (source / name).is_dir()] or [
        source
    ]
    for root in roots:
        if not (root / "train").is_dir():
            raise UserInputError(
                f"{root}: no train folder, expected train/voice, train/unit, train/parallel and"
                " test"
            )
        for path in sound_files(root):
            part = path.relative_to(root).parts
            if part[0] not in ("train", "test") or (part[0] == "train" and len(part) < 3):
                yield Rejected(path, "not below train/voice, train/unit, train/parallel or test")
            elif "_" not in path.stem:
                yield Rejected(path, "name is not SPEAKER_NUMBER")
            else:
                split = "test" if part[0] == "test" else ""
                yield Recording(path, path.stem.split("_")[0], _id(path, source), split=split)


def folder(source: Path) -> Rows:
    """One folder a speaker; folders train, valid, test above them are splits; NAME.txt next to
    NAME.wav is the text.
    """
    files = sound_files(source)
    inside = [path.relative_to(source).parts for path in files]
    tops = sorted({parts[0] for parts in inside if len(parts) > 1})
    splits = [name for name in tops if SPLITS.get(name.lower())]
    others = [name for name in tops if name not in splits]
    by_split = bool(splits) and not others
    if splits and others and any(len(parts) > 2 for parts in inside if parts[0] in splits):
        raise UserInputError(
            f"{source}: has recordings in {splits[0]}/SPEAKER and in {others[0]}, expected all of"
            " them in folders of splits, or none"
        )
    ids = Counter(_id(path, source) for path in files)
    for path in files:
        parts = path.relative_to(source).parts
        split = SPLITS[parts[0].lower()] if by_split and len(parts) > 1 else ""
        if len(parts) < (3 if split else 2):
            yield Rejected(path, "lies in no speaker's folder (all of one voice: --speaker NAME)")
            continue
        name = _id(path, source)
        unique = name if ids[name] == 1 else path.relative_to(source).as_posix()
        speaker = parts[1] if split else parts[0]
        yield Recording(path, speaker, unique, text=_text_of(path), split=split)


def one_voice(source: Path, speaker: str) -> Rows:
    """All files below a folder are of one speaker; long ones are cut into pieces."""
    ids = Counter(_id(path, source) for path in sound_files(source))
    for path in sound_files(source):
        name = _id(path, source)
        unique = name if ids[name] == 1 else path.relative_to(source).as_posix()
        yield from pieces(Recording(path, speaker, unique, text=_text_of(path)))


def _text_of(path: Path) -> str:
    """What is said, from NAME.txt next to NAME.wav."""
    return _read_text(path.with_suffix(".txt"))


def _read_text(path: Path) -> str:
    """Without the mark that some editors begin a file with; empty where there is no file."""
    return path.read_text(encoding="utf-8-sig", errors="replace").strip() if path.is_file() else ""


def manifest(source: Path) -> Rows:
    """A manifest (.csv or .jsonl), or a folder with manifest.csv or manifest.jsonl in it."""
    yield from read_manifest(find_manifest(source))


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "demo",
            "six synthetic voices, made on the spot",
            "takes no source",
            16000,
            manifest,
            needs_source=False,
        ),
        Recipe(
            "fsdd",
            "Free Spoken Digit Dataset",
            "recordings/DIGIT_SPEAKER_TAKE.wav, or a manifest.csv",
            8000,
            fsdd,
        ),
        Recipe(
            "librispeech",
            "LibriSpeech",
            "PART/SPEAKER/CHAPTER/*.flac with *.trans.txt",
            16000,
            librispeech,
        ),
        Recipe(
            "libritts",
            "LibriTTS",
            "PART/SPEAKER/CHAPTER/*.wav with *.normalized.txt",
            24000,
            libritts,
        ),
        Recipe(
            "vctk",
            "CSTR VCTK 0.80 or 0.92",
            "wav48 or wav48_silence_trimmed, txt, speaker-info.txt",
            24000,
            vctk,
        ),
        Recipe("ljspeech", "LJ Speech 1.1", "metadata.csv and wavs/", 22050, ljspeech),
        Recipe(
            name="zerospeech2019",
            about="ZeroSpeech 2019",
            layout="english/train/{voice,unit,parallel} and english/test",
            sample_rate=16000,
            rows=zerospeech2019,
        ),
        Recipe(
            name="folder",
            about="recordings, one folder a speaker",
            layout=(
                "SPEAKER/** or train|valid|test/SPEAKER/**, where NAME.txt next to NAME.wav is what"
                " is said"
            ),
            sample_rate=None,
            rows=folder,
        ),
        Recipe(
            "manifest",
            "recordings that a table lists",
            "a CSV or JSONL with path and speaker",
            None,
            manifest,
            takes_file=True,
        ),
        Recipe(
            "webdataset",
            "shards of WebDataset",
            "*.tar with KEY.flac, KEY.json, KEY.txt",
            None,
            webdataset,
            takes_file=True,
        ),
        Recipe(
            "lhotse",
            "manifests of lhotse",
            "*cuts*.jsonl.gz, or recordings and supervisions",
            None,
            lhotse,
            takes_file=True,
        ),
        Recipe(
            "datasets",
            "an audio column of the library datasets",
            "a folder of `save_to_disk` or of its files, or USER/NAME[:SUBSET][@REVISION] of a hub",
            None,
            hf_datasets,
            takes_file=True,
            takes_columns=True,
        ),
    )
}
