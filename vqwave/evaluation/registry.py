"""The measures by name, in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Callable

from vqwave.evaluation import codes, judged, likelihood, probing, recognition, signal
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.result import Result
from vqwave.inference.speech_model import SpeechModel

Measure = Callable[[EvaluationContext, Result], None]

MEASURES: dict[str, Measure] = {
    "nll": likelihood.nll,
    "codes": codes.codes,
    "words": recognition.words,
    "speakers": recognition.speakers,
    "conversion": recognition.conversion,
    "wer": judged.words,
    "similarity": judged.similarity,
    "mos": judged.naturalness,
    "converted": judged.converted,
    "spectral": signal.spectral,
    "pitch": signal.pitch,
    "perceptual": signal.perceptual,
    "abx": probing.abx,
    "map": codes.mapping,
    "probes": probing.probes,
    "prior": likelihood.prior,
    "say": recognition.say,
}
ALIASES = {
    "likelihood": "nll",
    "digits": "words",
    "speaker": "speakers",
    "conversions": "conversion",
    "cer": "wer",
    "dnsmos": "mos",
    "naturalness": "mos",
    "mcd": "spectral",
    "lsd": "spectral",
    "f0": "pitch",
    "pesq": "perceptual",
    "stoi": "perceptual",
    "mapping": "map",
    "probe": "probes",
}
# computed from codes alone, so of any speaker's
WITHOUT_VOICE = frozenset({"codes", "abx", "map", "probes"})
PRIORS = ("prior", "say")
BY_PANEL = ("wer", "similarity", "mos", "converted")  # of complete utterances; by name only
BY_COLUMN = (*BY_PANEL, "pitch")  # columns are independent of one another: see `Panel.table`


def defaults(codec: SpeechModel) -> list[str]:
    """What is measured where nothing is asked for by name: of a prior, only what it adds to its
    codec.
    """
    others = [name for name in MEASURES if name not in (*PRIORS, *BY_PANEL)]
    return list(PRIORS) if codec.prior is not None else others
