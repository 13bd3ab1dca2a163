"""Two folders without a model: recordings, and copies of them by any system, paired by file
name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vqwave.audio import Wave, mu_law_decode, mu_law_encode, read, resample
from vqwave.audio.sound_files import SUFFIXES, refused_files, sound_files
from vqwave.data.manifest import Recording, find_manifest, read_lines, read_manifest, read_table
from vqwave.errors import Note, UserInputError, nearest
from vqwave.evaluation.baselines import inverted, usual_frames
from vqwave.evaluation.judged import subset
from vqwave.evaluation.panel import MELODY, Columns, Panel
from vqwave.evaluation.progress import NotApplicable, ProgressFactory, silent
from vqwave.evaluation.result import Result
from vqwave.evaluation.resume import as_json, digest_of, take_over
from vqwave.metrics.f0 import contour_sums, speaker_centres
from vqwave.metrics.recognition import WHISPER, normalise
from vqwave.speaker_encoder import Embedding, voice_of

MEASURES = ("wer", "similarity", "mos", "pitch")
MANIFESTS = ("manifest.csv", "manifest.jsonl")


@dataclass(frozen=True)
class Transcript:
    """A recording's text and its speaker, empty where unknown."""

    text: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class Pair:
    """A recording and its copy; `name` is the place of both below their folders, without suffix."""

    name: str
    recording: Path
    copy: Path
    transcript: Transcript = Transcript()


def pairs(recordings: Path, copies: Path, transcripts: Path | None = None) -> list[Pair]:
    """Copies with their recordings: of the same place below the folder, else the same file name.

    Suffixes may differ. Texts and speakers are those of `transcripts` (see `read_transcripts`) or
    of a manifest in the folder of recordings. Recordings without a copy are left out. Raises
    `UserInputError` for a copy without a recording, for file names that occur twice, and for
    folders without sound files.
    """
    originals, copied = _sounds(recordings), _sounds(copies)
    known = read_transcripts(transcripts) if transcripts is not None else _manifest_of(recordings)
    stems: dict[str, list[str]] = {}
    for name in originals:
        stems.setdefault(Path(name).name, []).append(name)
    result = []
    for name, copy in copied.items():
        choices = [name] if name in originals else stems.get(Path(name).name, [])
        if len(choices) != 1:
            what = (
                "no recording of this name" if not choices else f"recordings {', '.join(choices)}"
            )
            raise UserInputError(
                f"{copy}: {what} in {recordings}, expected one{nearest(name, originals)}"
            )
        own = choices[0]
        transcript = known.get(own) or known.get(Path(own).name) or Transcript()
        result.append(Pair(own, originals[own], copy, transcript))
    if len({pair.name for pair in result}) < len(result):
        raise UserInputError(f"{copies}: several copies of one recording, expected one each")
    if missing := len(originals) - len(result):
        warnings.warn(
            f"{missing} of {len(originals)} recordings have no copy in {copies}", Note, stacklevel=2
        )
    return sorted(result, key=lambda pair: pair.name)


def _sounds(folder: Path) -> dict[str, Path]:
    """The sound files below a folder by their places in it, without suffix."""
    if not folder.is_dir():
        raise UserInputError(f"{folder}: no such folder, expected one of sound files")
    result: dict[str, Path] = {}
    for path in sound_files(folder):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in result:
            raise UserInputError(
                f"{result[name]} and {path}: one name, expected one sound file of each"
            )
        result[name] = path
    for path, reason in refused_files(folder):
        warnings.warn(f"{path}: {reason}", Note, stacklevel=2)
    if not result:
        raise UserInputError(
            f"{folder}: no sound files in it, expected {', '.join(sorted(SUFFIXES))}"
        )
    return result


def _manifest_of(folder: Path) -> dict[str, Transcript]:
    if not any((folder / name).is_file() for name in MANIFESTS):
        return {}
    return _by_name(_rows(find_manifest(folder), folder))


def _rows(manifest: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Place in `folder`, text and speaker of each file; one with several texts, or that of a part,
    has none.
    """
    pieces: dict[Path, list[Recording]] = {}
    for row in read_manifest(manifest):
        pieces.setdefault(row.path.resolve(), []).append(row)
    for path, (first, *others) in pieces.items():
        inside = path.is_relative_to(folder.resolve())
        name = path.relative_to(folder.resolve()) if inside else Path(path.name)
        if others:
            text = (
                f"{manifest}: {name} has several texts, which are not compared with the whole file"
            )
            warnings.warn(text, Note, stacklevel=4)
        of_a_part = others or first.start
        yield name.as_posix(), "" if of_a_part else first.text, first.speaker


def read_transcripts(path: Path) -> dict[str, Transcript]:
    """Texts (and speakers) by place without suffix, and by file name where that is unique.

    A .csv has the columns path and text, and may have speaker; a .jsonl is a manifest; any other
    text file has a name and its text on each line, as LibriSpeech's .trans.txt. Raises
    `UserInputError`.
    """
    if not path.is_file():
        raise UserInputError(f"{path}: no such file, expected transcripts")
    if path.suffix.lower() == ".jsonl":
        return _by_name(_rows(path, path.parent))
    if path.suffix.lower() == ".csv":
        return _by_name(_csv(path))
    lines = (line.split(None, 1) for line in read_lines(path) if line.strip())
    return _by_name((name, "".join(text).strip(), "") for name, *text in lines)


def _csv(path: Path) -> Iterable[tuple[str, str, str]]:
    for number, row in read_table(path):
        if not row.get("path") or "text" not in row:
            raise UserInputError(
                f"{path}, line {number}: expected the columns path and text, found {', '.join(row)}"
            )
        yield row["path"], row["text"], row.get("speaker", "")


def _by_name(rows: Iterable[tuple[str, str, str]]) -> dict[str, Transcript]:
    result: dict[str, Transcript] = {}
    short: dict[str, list[Transcript]] = {}
    for name, text, speaker in rows:
        place = Path(name)
        place = place.with_suffix("") if place.suffix.lower() in SUFFIXES else place
        transcript = Transcript(text, speaker)
        result[place.as_posix()] = transcript
        short.setdefault(place.name, []).append(transcript)
    return {name: each[0] for name, each in short.items() if len(each) == 1} | result


@dataclass
class Folders:
    """Pairs at one sample rate, that of the first recording, in Hz; each is read once."""

    pairs: Sequence[Pair]
    progress: ProgressFactory = silent

    @cached_property
    def sample_rate(self) -> int:
        return read(self.pairs[0].recording)[1]

    @cached_property
    def recordings(self) -> list[Wave]:
        return self._read("recordings", [pair.recording for pair in self.pairs])

    @cached_property
    def copies(self) -> list[Wave]:
        return self._read("copies", [pair.copy for pair in self.pairs])

    @cached_property
    def mu_law(self) -> list[Wave]:
        return [
            mu_law_decode(mu_law_encode(torch.from_numpy(wave))).numpy() for wave in self.recordings
        ]

    @cached_property
    def griffin_lim(self) -> list[Wave]:
        features = usual_frames(self.sample_rate)
        with self.progress("Griffin-Lim of true frames", len(self.pairs), "utterances") as advance:
            return inverted(self.recordings, features, advance)

    def columns(self, kept: Sequence[int] | None = None) -> Columns:
        """By name, those of the pairs `kept`."""
        columns: dict[str, Callable[[], list[Wave]]] = {
            "ceiling": lambda: self.recordings,
            "mu-law": lambda: self.mu_law,
            "griffin-lim": lambda: self.griffin_lim,
            "model": lambda: self.copies,
        }
        return columns if kept is None else subset(columns, kept)

    def provenance(self, resamples: int, whisper: str) -> dict[str, Any]:
        """All that figures depend on: see `resume`."""
        return as_json(
            {
                "recordings": digest_of([pair.recording for pair in self.pairs]),
                "copies": digest_of([pair.copy for pair in self.pairs]),
                "transcripts": [
                    [pair.name, *asdict(pair.transcript).values()] for pair in self.pairs
                ],
                "resamples": resamples,
                "whisper": whisper,
            }
        )

    def _read(self, name: str, paths: Sequence[Path]) -> list[Wave]:
        waves = []
        with self.progress(f"reading {name}", len(paths), "files") as advance:
            for path in paths:
                wave, rate = read(path)
                waves.append(resample(wave, rate, self.sample_rate))
                advance(1)
        return waves


def evaluate_folders(
    recordings: Path,
    copies: Path,
    *,
    transcripts: Path | None = None,
    only: Sequence[str] = (),
    resamples: int = 1000,
    whisper: str = WHISPER,
    progress: ProgressFactory = silent,
    result: Result | None = None,
) -> Result:
    """Compare copies with their recordings, by the judges `only` (default: `MEASURES`).

    `result`: as of `evaluate`. Raises `UserInputError`.
    """
    for name in only:
        if name not in MEASURES:
            raise UserInputError(
                f"measure {name!r}: expected of {', '.join(MEASURES)}, which need no model"
            )
    folders = Folders(pairs(recordings, copies, transcripts), progress)
    result = Result() if result is None else result
    seconds = sum(map(len, folders.recordings)) / folders.sample_rate
    result.about = {
        "model": copies.name,
        "kind": "copies",
        "corpus": recordings.name,
        "split": "all",
        "utterances": len(folders.pairs),
        "seconds": round(seconds, 2),
        "sample_rate": folders.sample_rate,
        "resamples": resamples,
    }
    result.about["provenance"] = folders.provenance(resamples, whisper)
    panel = Panel(folders.sample_rate, resamples, progress, whisper)
    for name in take_over(result, list(only or MEASURES)):
        with result.measuring(name):
            TAKEN[name](folders, panel, result)
    return result


def _words(folders: Folders, panel: Panel, result: Result) -> None:
    kept = [i for i, pair in enumerate(folders.pairs) if normalise(pair.transcript.text)]
    if not kept:
        raise NotApplicable(
            "there are no texts: expected --transcripts, or a manifest in their folder"
        )
    panel.words(result, folders.columns(kept), [folders.pairs[i].transcript.text for i in kept])


def _similarity(folders: Folders, panel: Panel, result: Result) -> None:
    """To the speaker's other recordings; to the recording itself where there are none."""
    own = panel.voices("ceiling", folders.recordings)
    speakers = [pair.transcript.speaker for pair in folders.pairs]
    others: list[list[Embedding]] = [
        [own[j] for j, other in enumerate(speakers) if other and other == speaker and i != j]
        for i, speaker in enumerate(speakers)
    ]
    voices = [voice_of(these) if these else own[i] for i, these in enumerate(others)]
    panel.similarity(result, folders.columns(), voices)


def _naturalness(folders: Folders, panel: Panel, result: Result) -> None:
    panel.naturalness(result, folders.columns())


def _melody(folders: Folders, panel: Panel, result: Result) -> None:
    recorded = panel.contours("recordings", folders.recordings)
    centres = speaker_centres(
        recorded, [pair.transcript.speaker or pair.name for pair in folders.pairs]
    )

    def sums(column: str, waves: Sequence[Wave]) -> np.ndarray:
        contours = zip(recorded, panel.contours(column, waves), centres, strict=True)
        return np.stack([contour_sums(*each) for each in contours])

    columns = {name: make for name, make in folders.columns().items() if name != "ceiling"}
    panel.table(result, columns, MELODY, sums)


TAKEN: Mapping[str, Callable[[Folders, Panel, Result], None]] = {
    "wer": _words,
    "similarity": _similarity,
    "mos": _naturalness,
    "pitch": _melody,
}
