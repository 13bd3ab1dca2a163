"""The measures by name, in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Callable

from vqwave.codec import Codec
from vqwave.evaluate import coding, judged, likelihoods, listening, sound, telling
from vqwave.evaluate.material import Material
from vqwave.evaluate.result import Result

Measure = Callable[[Material, Result], None]

MEASURES: dict[str, Measure] = {
    "nll": likelihoods.nll,
    "codes": coding.codes,
    "words": listening.words,
    "speakers": listening.speakers,
    "conversion": listening.conversion,
    "wer": judged.words,
    "similarity": judged.similarity,
    "mos": judged.naturalness,
    "converted": judged.converted,
    "spectral": sound.spectral,
    "pitch": sound.pitch,
    "perceptual": sound.perceptual,
    "abx": telling.abx,
    "map": coding.mapping,
    "probes": telling.probes,
    "prior": likelihoods.prior,
    "say": listening.say,
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
WITHOUT_VOICE = frozenset({"codes", "abx", "map", "probes"})  # told from codes alone, so of any speaker's
PRIORS = ("prior", "say")
BY_PANEL = ("wer", "similarity", "mos", "converted")  # of whole utterances; by name only


def defaults(codec: Codec) -> list[str]:
    """What is measured where nothing is asked for by name: of a prior, only what it adds to its codec."""
    others = [name for name in MEASURES if name not in (*PRIORS, *BY_PANEL)]
    return list(PRIORS) if codec.prior is not None else others
