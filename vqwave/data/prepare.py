"""`vqwave prepare`: recordings as people have them -> a corpus of int16 shards."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import secrets
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from vqwave import audio, pitch_tracking
from vqwave.atomic_files import remove
from vqwave.audio.sound_files import refused_files
from vqwave.data.corpus import (
    FORMAT,
    HEADER,
    INDEX,
    PITCH,
    REJECTED,
    Utterance,
    is_corpus,
    shard_name,
)
from vqwave.data.demo import render_demo
from vqwave.data.manifest import Phones, Recording, Rejected
from vqwave.data.recipes import RECIPES, Recipe, one_voice
from vqwave.data.speaker_vectors import add_speaker_vectors
from vqwave.data.splits import assign_splits
from vqwave.data.summary import Summary, summarise
from vqwave.errors import UserInputError, located, nearest
from vqwave.failures import in_a_line, reported
from vqwave.speaker_encoder import installed_encoder

SHARD_SAMPLES = 2**29  # 1 GiB
SHORTEST_SECONDS = 0.01
MEMBERS = 500  # of archives, that are looked at to learn the usual rate
UNKNOWN = "unknown"  # the value of a label that a recording lacks and others have


@dataclass(frozen=True)
class Target:
    """What every recording is brought to: sample rate in Hz, RMS level in dBFS."""

    sample_rate: int
    level_db: float


@dataclass(frozen=True)
class _How:
    """The settings of `prepare`; `sample_rate` None: the recipe's own."""

    sample_rate: int | None
    level_db: float
    speaker_vectors: bool
    quiet: bool


@dataclass(frozen=True)
class Prepared:
    """One recording's samples (T,), its phones at the corpus's rate, its F0 in Hz (F,), 0 where
    unvoiced.
    """

    recording: Recording
    samples: NDArray[np.int16]
    phones: Phones
    f0: pitch_tracking.F0


def prepare(
    kind: str,
    source: Path | Sequence[Path] | None,
    out: Path,
    *,
    sample_rate: int | None = None,
    level_db: float = -23.0,
    speaker_vectors: bool = False,
    columns: Mapping[str, str] | None = None,
    speaker: str | None = None,
    quiet: bool = False,
) -> Summary:
    """Prepare `source`, which lies on disk as `RECIPES[kind]` describes, into the folder `out`, and
    summarise the result.

    Several sources of one kind become one corpus; their ids must differ. `columns` of the kind
    `datasets`: see `hf_datasets`.

    Every recording loses its DC, is resampled to `sample_rate` Hz (None: the recipe's own) and
    brought to an RMS level of `level_db` dBFS; its F0 is stored with it, a frame each 10 ms.
    `speaker_vectors`: a vector of each speaker is stored, too (`data.speaker_vectors`).
    speaker: of kind folder, whose recordings all of them are, however they lie.
    Files that cannot be used are left out and listed with their reason. `out` appears complete
    or not at all, and replaces nothing but a prepared corpus. Raises `UserInputError`.
    """
    recipe, out = _recipe(kind), Path(out)
    if speaker is not None:
        recipe = _of_one_voice(recipe, speaker)
    given = [] if source is None else [source] if isinstance(source, str | Path) else list(source)
    sources = [Path(each) for each in given]
    if recipe.needs_source and not sources:
        raise UserInputError(f"prepare {kind} needs a source: {recipe.layout}")
    if not recipe.needs_source and sources:
        raise UserInputError(f"prepare {kind} takes no source, found {sources[0]}")
    if sample_rate is not None and not 1000 <= sample_rate <= 192000:
        raise UserInputError(f"sample rate {sample_rate}, expected 1000 to 192000 Hz")
    if not -60.0 <= level_db <= 0.0:
        raise UserInputError(f"level {level_db} dBFS, expected -60 to 0")
    if columns and not recipe.takes_columns:
        raise UserInputError(f"prepare {kind} takes no columns, found {', '.join(columns)}")
    if columns:
        recipe = replace(recipe, rows=partial(recipe.rows, columns=columns))
    _refuse_out(out)
    if speaker_vectors:
        installed_encoder()  # raises where there is none, before any work
    how = _How(sample_rate, level_db, speaker_vectors, quiet)
    if not sources:
        with _temporary_next_to(out.with_name(f"{out.name}.recordings").resolve()) as folder:
            render_demo(folder, quiet=quiet)
            return _prepare(recipe, [folder], out, how)
    return _prepare(recipe, sources, out, how)


def _recipe(kind: str) -> Recipe:
    if kind not in RECIPES:
        raise UserInputError(
            f"no recipe {kind!r}, there are {', '.join(RECIPES)}{nearest(kind, RECIPES)}"
        )
    return RECIPES[kind]


def _of_one_voice(recipe: Recipe, speaker: str) -> Recipe:
    if recipe.rows is not RECIPES["folder"].rows:
        raise UserInputError(
            f"speaker {speaker}: with prepare {recipe.name}, expected prepare folder, whose"
            " recordings are all of that voice"
        )
    if not speaker.strip():
        raise UserInputError("speaker: empty, expected a name")
    rows = partial(one_voice, speaker=speaker)
    return replace(recipe, layout="sound files of one voice, in any folders", rows=rows)


def _refuse_out(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or (any(out.iterdir()) and not is_corpus(out)):
        raise UserInputError(
            f"{out}: exists and is no prepared corpus; name another --out, it would be overwritten"
        )


def _prepare(
    recipe: Recipe,
    sources: Sequence[Path],
    out: Path,
    how: _How,
) -> Summary:
    source = ", ".join(map(str, sources))
    recordings, rejected = _of_sources(recipe, sources)
    rate = how.sample_rate or recipe.sample_rate or _common_rate(recordings, source)
    target = Target(rate, how.level_db)
    with _all_or_nothing(out) as folder:
        utterances, kept = [], []
        with ShardWriter(folder) as shards:
            for result in _in_order(lambda r: _brought(r, target), recordings, quiet=how.quiet):
                if isinstance(result, Rejected):
                    rejected.append(result)
                else:
                    utterances.append(shards.add(result))
                    kept.append(result.recording)
        if not utterances:
            first = f"{rejected[0].path}: {rejected[0].reason}"
            raise UserInputError(
                f"{source}: none of {len(recordings)} recordings can be used; the first is {first}"
            )
        splits = (recording.split for recording in assign_splits(kept))
        utterances = [replace(u, split=split) for u, split in zip(utterances, splits, strict=True)]
        utterances = _complete_labels(utterances)
        home = " + ".join(map(_home, sources))
        name = home if recipe.sample_rate is None else recipe.name
        _write_index(
            folder,
            utterances,
            name=name,
            source=home if recipe.needs_source else recipe.about,
            target=target,
            hashes=shards.hashes,
        )
        _write_rejected(folder / REJECTED, rejected)
        if how.speaker_vectors:
            add_speaker_vectors(folder, quiet=how.quiet)
    return summarise(out, name, target.sample_rate, utterances, rejected)


def _home(source: Path) -> str:
    """The name of a folder, of that of a file, or of a data set of a hub."""
    if not source.exists():
        return source.name.partition("@")[0]
    return (source if source.is_dir() else source.parent).resolve().name


def _of_sources(recipe: Recipe, sources: Sequence[Path]) -> tuple[list[Recording], list[Rejected]]:
    """The recordings of all sources, in their order.

    Raises `UserInputError` where an id occurs twice.
    """
    recordings: list[Recording] = []
    rejected: list[Rejected] = []
    for source in sources:
        own, others = _recordings(recipe, source)
        recordings += own
        rejected += others
    twice = [name for name, n in Counter(r.id for r in recordings).items() if n > 1]
    if twice:
        where = ", ".join(map(str, sources))
        raise UserInputError(
            f"{where}: {len(twice)} ids occur twice, the first is {twice[0]!r}, expected it once"
        )
    return recordings, rejected


def _recordings(recipe: Recipe, source: Path) -> tuple[list[Recording], list[Rejected]]:
    if not source.exists() and not recipe.takes_columns:
        raise UserInputError(f"{source}: no such file or folder, expected {recipe.layout}")
    if not source.is_dir() and not recipe.takes_file:
        raise UserInputError(f"{source}: is a file, expected a folder with {recipe.layout}")
    rows = list(recipe.rows(source))
    recordings = [_composed(row) for row in rows if isinstance(row, Recording)]
    rejected = [row for row in rows if isinstance(row, Rejected)]
    if recipe.is_folder and source.is_dir():
        rejected += [Rejected(path, reason) for path, reason in refused_files(source)]
    if not recordings:
        first = f"; the first, {rejected[0].path}: {rejected[0].reason}" if rejected else ""
        problem = f"no recordings found ({len(rejected)} files do not belong{first})"
        raise UserInputError(f"{source}: {problem}, expected {recipe.layout}")
    return recordings, rejected


def _composed(recording: Recording) -> Recording:
    """Names and texts in Unicode's composed form (NFC): macOS writes accents of names apart."""

    def composed(text: str) -> str:
        return unicodedata.normalize("NFC", text)

    return replace(
        recording,
        speaker=composed(recording.speaker),
        id=composed(recording.id),
        text=composed(recording.text),
        labels={composed(name): composed(value) for name, value in recording.labels.items()},
    )


def _common_rate(recordings: Sequence[Recording], source: str) -> int:
    distinct = list({(r.path, r.member): r for r in recordings}.values())
    step = -(-len(distinct) // MEMBERS) if distinct[0].is_packed else 1
    rates: Counter[int] = Counter()
    for recording in distinct[::step]:
        # what cannot be read is reported as it is prepared
        with suppress(UserInputError), recording.sound() as path:
            rates.update([rate] if (rate := audio.rate_of(path)) else [])
    if not rates:
        raise UserInputError(
            f"{source}: none of {len(recordings)} files opens as sound, the first is"
            f" {recordings[0].path}"
        )
    return min(rates, key=lambda rate: (-rates[rate], rate))


def bring_to(recording: Recording, target: Target) -> Prepared | Rejected:
    """Read a recording, remove its DC, resample it, set its level, round it, take its F0."""
    about = f"{recording.id}: " if recording.member else ""
    with recording.sound() as path:
        try:
            wave, rate = audio.read(path, recording.start, recording.frames)
        except UserInputError as error:
            return Rejected(recording.path, about + str(error).removeprefix(f"{path}: "))
    if recording.sample_rate not in (None, rate):
        return Rejected(
            recording.path, f"{about}is at {rate} Hz, the manifest has {recording.sample_rate}"
        )
    wave = audio.remove_dc(wave)
    if (silence := audio.silence_in(wave)) is not None:
        return Rejected(recording.path, about + silence)
    if len(wave) < SHORTEST_SECONDS * rate:
        return Rejected(recording.path, f"{about}too short ({len(wave)} samples at {rate} Hz)")
    wave = audio.remove_dc(audio.resample(wave, rate, target.sample_rate))
    if (silence := audio.silence_in(wave)) is not None:
        return Rejected(recording.path, f"{about}{silence} at {target.sample_rate} Hz")
    samples = audio.to_int16(audio.normalise_level(wave, target.level_db))
    phones = _phones_at(recording, target.sample_rate / rate, len(wave))
    hop = pitch_tracking.ten_milliseconds(target.sample_rate)
    f0 = pitch_tracking.track(audio.from_int16(samples), target.sample_rate, hop)
    return Prepared(recording, samples, phones, f0)


def _brought(recording: Recording, target: Target) -> Prepared | Rejected:
    """`bring_to`; whatever else is wrong with a recording does not end the work on the others."""
    try:
        return bring_to(recording, target)
    except OSError:  # of the disk, not of the file
        raise
    except Exception as error:
        return Rejected(recording.path, in_a_line(error) or reported(error))


def _phones_at(recording: Recording, scale: float, frames: int) -> Phones:
    starts = (round((start - recording.start) * scale) for start, _ in recording.phones)
    moved = (
        (min(max(start, 0), frames), label)
        for start, (_, label) in zip(starts, recording.phones, strict=True)
    )
    return tuple(moved)


def _in_order(
    work: Callable[[Recording], Prepared | Rejected],
    recordings: Sequence[Recording],
    *,
    quiet: bool,
) -> Iterator[Prepared | Rejected]:
    """`work` on a few threads (decoding and resampling leave the interpreter free), in order, few
    results at a time.
    """
    threads = min(os.cpu_count() or 1, 8)
    waiting: deque[Future[Prepared | Rejected]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for recording in tqdm(recordings, desc="prepare", unit="file", disable=quiet, leave=False):
            waiting.append(pool.submit(work, recording))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class ShardWriter:
    """Appends samples to shards of at most `size` samples (one utterance is never split), and F0 to
    one file.

    `hashes` has the SHA-256 of each shard by its file name, once it is closed.
    """

    def __init__(self, folder: Path, size: int = SHARD_SAMPLES) -> None:
        self.folder = folder
        self.size = size
        self.shard = 0
        self.offset = 0
        self.hashes: dict[str, str] = {}
        self._pitch = (folder / PITCH).open("wb")
        self._open()

    def _open(self) -> None:
        self._file, self._hash = (self.folder / shard_name(self.shard)).open("wb"), hashlib.sha256()

    def _close(self) -> None:
        self._file.close()
        self.hashes[shard_name(self.shard)] = self._hash.hexdigest()

    def add(self, prepared: Prepared) -> Utterance:
        """Write one recording's samples and F0; the row of the index that finds them again."""
        frames = len(prepared.samples)
        if self.offset and self.offset + frames > self.size:
            self._close()
            self.shard, self.offset = self.shard + 1, 0
            self._open()
        samples = prepared.samples.astype("<i2").tobytes()
        self._file.write(samples)
        self._hash.update(samples)
        self._pitch.write(prepared.f0.astype("<f4").tobytes())
        recording = prepared.recording
        utterance = Utterance(
            id=recording.id,
            shard=self.shard,
            offset=self.offset,
            frames=frames,
            speaker=recording.speaker,
            text=recording.text,
            split=recording.split,
            labels={"speaker": recording.speaker} | recording.labels,
            phones=prepared.phones,
        )
        self.offset += frames
        return utterance

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self._pitch.close()


def _complete_labels(utterances: list[Utterance]) -> list[Utterance]:
    names = list(dict.fromkeys(name for u in utterances for name in u.labels))
    return [
        replace(u, labels={name: u.labels.get(name, UNKNOWN) for name in names}) for u in utterances
    ]


def _write_index(
    folder: Path,
    utterances: list[Utterance],
    *,
    name: str,
    source: str,
    target: Target,
    hashes: Mapping[str, str],
) -> None:
    splits = Counter(u.split for u in utterances)
    header = {
        "format": FORMAT,
        "name": name,
        "sample_rate": target.sample_rate,
        "labels": {
            label: sorted({u.labels[label] for u in utterances}) for label in utterances[0].labels
        },
        "splits": {split: splits[split] for split in ("train", "valid", "test") if splits[split]},
        "level_db": target.level_db,
        "source": source,
        "sha256": dict(hashes),
        "pitch": {
            "hop": pitch_tracking.ten_milliseconds(target.sample_rate),
            "range": [pitch_tracking.LOWEST, pitch_tracking.HIGHEST],
        },
    }
    with (folder / INDEX).open("w", encoding="utf-8") as file:
        for utterance in utterances:
            row = {k: v for k, v in asdict(utterance).items() if k != "phones" or v}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / HEADER).write_text(
        json.dumps(header, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


def _write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows((str(row.path), row.reason) for row in rejected)


@contextmanager
def _all_or_nothing(out: Path) -> Iterator[Path]:
    """A new folder next to `out` that takes its place at the end; after any error nothing of it is
    left.
    """
    out = out.resolve()
    with _temporary_next_to(out) as partial:
        yield partial
        if is_corpus(out):
            old = partial.with_suffix(".old")
            out.replace(old)
            try:
                partial.replace(out)
            except BaseException:
                old.replace(out)
                raise
            remove(old)
        else:
            partial.replace(out)


@contextmanager
def _temporary_next_to(out: Path) -> Iterator[Path]:
    """A new folder next to `out`, of a name that cannot be known beforehand; at the end it is gone,
    or has another name. What a killed process left there is cleared first.
    """
    with located(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _tidy(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(8)}.partial")
    with located(out, partial):
        try:
            partial.mkdir()
            yield partial
        finally:
            remove(partial)


def _tidy(out: Path) -> None:
    """Remove what a killed process left next to `out`; if it died while it was replacing `out`, put
    the older one back.
    """
    for path in out.parent.glob(f".{glob.escape(out.name)}.*"):
        process, _, kind = path.name.removeprefix(f".{out.name}.").partition(".")
        number = process.partition("-")[0]
        if (
            kind not in ("partial", "old")
            or path.is_symlink()
            or not path.is_dir()
            or not number.isdecimal()
            or (int(number) != os.getpid() and _runs(int(number)))
        ):
            continue
        if kind == "old" and not out.exists():
            path.replace(out)
        else:
            remove(path)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
