"""The measures by name, in the order in which they are taken."""

from __future__ import annotations

from collections.abc import Callable

from vqwave.codec import Codec
from vqwave.evaluate import coding, likelihoods, listening, sound, telling
from vqwave.evaluate.material import Material
from vqwave.evaluate.result import Result

Measure = Callable[[Material, Result], None]

MEASURES: dict[str, Measure] = {
    "nll": likelihoods.nll,
    "codes": coding.codes,
    "words": listening.words,
    "speakers": listening.speakers,
    "conversion": listening.conversion,
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


def defaults(codec: Codec) -> list[str]:
    """What is measured where nothing is asked for by name: of a prior, only what it adds to its codec."""
    return list(PRIORS) if codec.prior is not None else [name for name in MEASURES if name not in PRIORS]
