"""How good a model is, on held-out recordings: every metric with its ceiling, its floor, and
intervals.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from vqwave.data import Corpus
from vqwave.errors import Note, UserInputError, nearest
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.progress import NotApplicable, ProgressFactory, silent
from vqwave.evaluation.registry import ALIASES, MEASURES, WITHOUT_VOICE, defaults
from vqwave.evaluation.result import Matrix, MetricValue, Result, Row, written
from vqwave.evaluation.resume import provenance, take_over
from vqwave.evaluation.settings import Settings
from vqwave.evaluation.table import markdown_table, text_table
from vqwave.evaluation.unseen_speakers import WHY
from vqwave.inference.model_files import find_model
from vqwave.inference.speech_model import SpeechModel

__all__ = [
    "Matrix",
    "MetricValue",
    "Result",
    "Row",
    "Settings",
    "chosen",
    "evaluate",
    "markdown_table",
    "text_table",
]

FEW = 10  # utterances, below which a note says that there are too few


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """Names of measures (some have second names) as they are called here.

    Raises `UserInputError` with the nearest names.
    """
    names = [ALIASES.get(name, name) for name in only]
    for name in names:
        if name not in MEASURES:
            known = [*MEASURES, *ALIASES]
            raise UserInputError(
                f"measure {name!r}: expected of {', '.join(MEASURES)}{nearest(name, known)}"
            )
    return tuple(dict.fromkeys(names))


def evaluate(
    model: str | Path,
    corpus: str | Path,
    settings: Settings,
    *,
    student: str | Path | None = None,
    device: str = "cpu",
    progress: ProgressFactory = silent,
    result: Result | None = None,
) -> Result:
    """Measure a model (and its student) on a split of a prepared corpus.

    Without `settings.only`, all that makes sense for the kind of model. What a model or corpus does
    not allow is in `Result.skipped`, with the reason. Where the model was trained on none of the
    speakers, see `unseen_speakers`. `result`: into which figures are put as they
    come; what its `earlier` has of the same models, corpus and settings is not measured again.
    Raises `UserInputError` for a model, a corpus or names that cannot be used.
    """
    named = chosen(settings.only)
    recordings, codec = Corpus.open(corpus), SpeechModel.load(model, device)
    other = None if student is None else SpeechModel.load(student, device)
    names = list(named) or defaults(codec)
    any_voice = WITHOUT_VOICE.issuperset(names)
    context = EvaluationContext(
        recordings, codec, other, settings, progress, any_voice=any_voice, unseen_speakers=True
    )
    result = Result() if result is None else result
    result.about = _about(model, student, context)
    result.about["provenance"] = provenance(context, device=device, any_voice=any_voice)
    if len(context.rows) < FEW:
        text = (
            f"{len(context.rows)} utterances in the split {settings.split} of {corpus}: too few for"
            " reliable figures"
        )
        warnings.warn(text, Note, stacklevel=2)
    if not context.in_own_voices:
        reason = f"{WHY}; copies are in {context.copied_in}"
        result.skip("reconstructions in their own voices", reason)
    for name in take_over(result, names):
        with result.measuring(name):
            if name not in WITHOUT_VOICE and not codec.card.decodes:
                raise NotApplicable("the model has codes alone, its decoder was not trained")
            MEASURES[name](context, result)
    return result


def _about(
    model: str | Path, student: str | Path | None, context: EvaluationContext
) -> dict[str, object]:
    """What was measured, on what, how."""
    codec, settings = context.codec, context.settings
    sampling = settings.sampling
    own = written(sampling.temperatures(codec.temperatures))
    other = context.student and written(sampling.temperatures(context.student.temperatures))
    filters = [system.postfilter for system in context.systems.values()]
    strengths = [own if sampling.postfilter is None else sampling.postfilter for own in filters]
    return {
        "model": _named(model),
        "student": None if student is None else _named(student),
        "kind": codec.card.kind,
        "corpus": context.corpus.name,
        "split": settings.split,
        "utterances": len(context.rows),
        "seconds": round(sum(map(len, context.waves)) / context.rate, 2),
        "sample_rate": context.rate,
        "temperature": own,
        **({"student_temperature": other} if other not in (None, own) else {}),
        **({"postfilter": strengths} if any(strengths) else {}),
        "seed": sampling.seed,
        "resamples": settings.resamples,
    }


def _named(model: str | Path) -> str:
    """A run's or a shipped model's name, without the path to it."""
    folder = find_model(model).resolve()
    return folder.parent.name if folder.name == "model" else folder.name
