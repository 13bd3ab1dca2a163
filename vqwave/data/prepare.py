"""`vqwave prepare`: recordings as people have them -> a corpus of int16 shards."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from vqwave import audio
from vqwave.audio.sound_files import refused_files
from vqwave.data.corpus import is_corpus
from vqwave.data.corpus_folder import all_or_nothing, temporary_next_to
from vqwave.data.corpus_writer import ShardWriter, complete_labels, write_index, write_rejected
from vqwave.data.demo import render_demo
from vqwave.data.manifest import Recording, Rejected
from vqwave.data.preprocess import Target, preprocess_all
from vqwave.data.recipes import RECIPES, Recipe, one_voice
from vqwave.data.speaker_vectors import NAME, add_speaker_vectors
from vqwave.data.splits import assign_splits
from vqwave.data.summary import Summary, summarise
from vqwave.errors import UserInputError, nearest
from vqwave.speaker_encoder import speaker_encoder

MEMBERS = 500  # of archives, that are looked at to learn the usual rate


@dataclass(frozen=True)
class _Settings:
    """The settings of `prepare`; `sample_rate` None: the recipe's own."""

    sample_rate: int | None
    level_db: float
    speaker_vectors: bool
    quiet: bool


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

    Every recording loses its DC, is resampled and brought to one level; its F0 is stored with it, a
    frame each 10 ms. Files that cannot be used are left out and listed with their reason. `out`
    appears complete or not at all, and replaces nothing but a prepared corpus.

    source: several sources of one kind become one corpus; their ids must differ.
    sample_rate: 1000 to 192000 Hz; None: the recipe's own.
    level_db: RMS level of every recording, -60 to 0 dBFS.
    speaker_vectors: a vector of each speaker is stored, too (`data.speaker_vectors`).
    columns: of the kind `datasets`, see `hf_datasets`.
    speaker: of the kind `folder`, the speaker of all recordings, whatever their folders.

    Raises `UserInputError`.
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
        speaker_encoder()  # raises where it is unavailable, before any work
    settings = _Settings(sample_rate, level_db, speaker_vectors, quiet)
    if not sources:
        with temporary_next_to(out.with_name(f"{out.name}.recordings").resolve()) as folder:
            render_demo(folder, quiet=quiet)
            return _prepare(recipe, [folder], out, settings)
    return _prepare(recipe, sources, out, settings)


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
    arrays = [path for name in ("frames", "vectors") for path in sorted(out.glob(f"{name}/*"))]
    if lost := [path for path in arrays if path.stem != NAME]:
        raise UserInputError(
            f"{lost[0]}: is not made by prepare and would be lost; move it away, or name another"
            " --out"
        )


def _prepare(
    recipe: Recipe,
    sources: Sequence[Path],
    out: Path,
    settings: _Settings,
) -> Summary:
    source = ", ".join(map(str, sources))
    recordings, rejected = _of_sources(recipe, sources)
    rate = settings.sample_rate or recipe.sample_rate or _common_rate(recordings, source)
    target = Target(rate, settings.level_db)
    with all_or_nothing(out) as folder:
        utterances, kept = [], []
        with ShardWriter(folder) as shards:
            for result in preprocess_all(recordings, target, quiet=settings.quiet):
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
        utterances = complete_labels(utterances)
        folders = " + ".join(map(_folder_name, sources))
        name = folders if recipe.sample_rate is None else recipe.name
        write_index(
            folder,
            utterances,
            name=name,
            source=folders if recipe.needs_source else recipe.about,
            target=target,
            hashes=shards.hashes,
        )
        write_rejected(folder, rejected)
        if settings.speaker_vectors:
            add_speaker_vectors(folder, quiet=settings.quiet)
    return summarise(out, name, target.sample_rate, utterances, rejected)


def _folder_name(source: Path) -> str:
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
        if len(sources) > 1 and recipe.takes_columns:  # whose ids may be the numbers of rows
            own = [replace(one, id=f"{_folder_name(source)}/{one.id}") for one in own]
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
