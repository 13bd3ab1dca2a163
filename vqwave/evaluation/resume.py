"""An interrupted evaluation goes on from the file that it has written.

The file names its provenance: the models' fingerprints, the corpus, the settings. What was measured
with the same provenance is taken over; a file of another one is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vqwave import parsing
from vqwave.atomic_files import write_text
from vqwave.codes import fingerprint
from vqwave.config import to_tree
from vqwave.data.corpus import HEADER, INDEX
from vqwave.errors import Note, UserInputError
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.registry import BY_COLUMN
from vqwave.evaluation.result import EvaluationReport, Result, group_of
from vqwave.inference.speech_model import SpeechModel

# which measures are taken, and where their recognizer is kept, change no figure
CHANGE_NOTHING = ("only", "keep")


def read_report(path: Path) -> EvaluationReport:
    """Raises `UserInputError` that names the file, and the key where one does not fit."""
    expected = "an evaluation, as `vqwave evaluate --out` writes it"
    return parsing.read_json(path, expected, EvaluationReport)


def result_in(path: Path, *, restart: bool = False) -> Result:
    """A result that is written to a file with each figure, so that none is lost on interruption.

    What the file has is `Result.earlier`, None with `restart`, or where it is no evaluation.
    """
    earlier = None
    if not restart and path.is_file():
        try:
            earlier = read_report(path)
        except UserInputError as error:
            warnings.warn(f"{error}; it is overwritten", Note, stacklevel=2)
    return Result(
        changed=lambda result: write_text(path, json.dumps(result.tree(), indent=1)),
        path=path,
        earlier=earlier,
    )


def take_over(result: Result, names: Sequence[str]) -> list[str]:
    """Put into `result` what `result.earlier` has of the measures `names`, if its provenance is
    that in `result.about`, and say so in a `Note`.

    Returns the measures that are left; they are `result.pending`, too.
    """
    earlier, taken = result.earlier, []
    if earlier is not None and earlier.provenance == result.about["provenance"]:
        taken = [name for name in names if name in earlier.finished]
        _copy(result, earlier, [*names, *(name for name in earlier.finished if name not in names)])
    left = [name for name in names if name not in taken]
    parts = [*taken, *(f"a part of {name}" for name in left if _begun(result, name))]
    if parts:
        text = f"{result.path}: taken over {', '.join(parts)}; --restart measures anew"
        warnings.warn(text, Note, stacklevel=3)
    elif earlier is not None and earlier.provenance:
        text = f"{result.path}: of other models, settings or measures; it is overwritten"
        warnings.warn(text, Note, stacklevel=3)
    result.pending = list(left)
    return left


def _copy(result: Result, earlier: EvaluationReport, names: Sequence[str]) -> None:
    """Finished measures as they are; of one that is measured column by column also the columns of
    an interrupted one.
    """
    finished = [name for name in names if name in earlier.finished]
    for row in earlier.rows:
        if row.group in finished:
            result.rows.append(row)
        elif row.group in names and row.group in BY_COLUMN:
            result.restore_columns(row)
    result.matrices += [each for each in earlier.matrices if group_of(each.key) in finished]
    result.tracks += earlier.tracks if "pitch" in finished else []
    for name in finished:
        result.finished[name] = earlier.finished[name]
        parts = [part for part in earlier.finished[name] if part in earlier.skipped]
        result.skipped |= {part: earlier.skipped[part] for part in parts}


def _begun(result: Result, name: str) -> bool:
    return any(row.group == name for row in result.rows)


def provenance(context: EvaluationContext, *, device: str, any_voice: bool) -> dict[str, Any]:
    """All that figures depend on. any_voice: as of `EvaluationContext`."""
    settings, folder = asdict(context.settings), context.corpus.folder
    # the header has the hashes of the recordings
    files = [folder / HEADER, folder / INDEX, *sorted((folder / "vectors").glob("*.npy"))]
    return as_json(
        {
            "models": {name: fingerprint_of(codec) for name, codec in context.systems.items()},
            "corpus": digest_of(files),
            "device": device,
            "any_voice": any_voice,
            **({"copied_in": context.copied_in} if context.unseen_speakers else {}),
            "settings": {k: v for k, v in settings.items() if k not in CHANGE_NOTHING},
        }
    )


def fingerprint_of(codec: SpeechModel) -> str:
    """Of all weights of a model (and of its prior) and of its card."""
    card, prior = codec.card, "" if codec.prior is None else codec.prior.fingerprint
    about = [prior, to_tree(card.spec), card.labels, card.about]
    return fingerprint(codec.model, about=json.dumps(about, sort_keys=True, default=str))


def digest_of(paths: Sequence[Path]) -> str:
    """Of the contents of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def as_json(tree: dict[str, Any]) -> dict[str, Any]:
    """As it is read back from a file."""
    return json.loads(json.dumps(tree))
