"""How samples are drawn: the settings that all decoders share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, SupportsFloat

from vqwave.distributions import checked_temperature
from vqwave.errors import UserInputError
from vqwave.rng.philox import checked_seed


class Temperatures(NamedTuple):
    """One temperature for each part of a draw; a named tuple, which compiled kernels take as it is.

    Below 1 a draw is safer and duller; 0 takes the likeliest. In voiced frames, where speech is
    periodic, noise is audible as hoarseness: LPCNet draws more sharply there. Valin and Skoglund,
    2019, sec. 3.5. arXiv:1810.11846

    >>> Temperatures(0.9, 0.8, 0.6)._asdict()
    {'choice': 0.9, 'scale': 0.8, 'voiced': 0.6}
    """

    choice: float = 1.0  # of the class, or of the mixture's component
    scale: float = 1.0  # factor on scales in unvoiced frames, and in all where voicing is unknown
    voiced: float = 1.0  # factor on scales in voiced frames

    def __str__(self) -> str:
        if self.choice == self.scale == self.voiced:
            return f"{self.choice:g}"
        return f"{self.choice:g} (choice), {self.scale:g} (scale), {self.voiced:g} (voiced)"


Temperature = float | Temperatures
"""One number stands for all parts."""

NAMES = ("temperature", "scale temperature", "voiced temperature")


def checked_temperatures(given: Temperature) -> Temperatures:
    """What samplers divide by and multiply with: see `checked_temperature`.

    Raises UserInputError.
    """
    parts = given if isinstance(given, Temperatures) else (given, given, given)
    return Temperatures(*(checked_temperature(*each) for each in zip(parts, NAMES, strict=True)))


def temperatures_of(about: Mapping[str, object]) -> Temperatures:
    """The default that a model's card has, 1 for all parts where it has none.

    Raises UserInputError for another form.
    """
    given = about.get("temperature", {})
    names = Temperatures._fields
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        raise UserInputError(
            f"the model's card: temperature {given}: expected numbers by name: {', '.join(names)}"
        )
    if not all(isinstance(value, int | float) for value in given.values()):
        raise UserInputError(f"the model's card: temperature {dict(given)}: expected numbers")
    result = Temperatures(**given)
    checked_temperatures(result)
    return result


def checked_strength(value: float) -> float:
    """Of a post-filter. Raises UserInputError outside 0 to 1."""
    if not 0 <= value <= 1:
        raise UserInputError(f"postfilter {value}: expected a strength from 0 to 1")
    return value


def _number(given: object, name: str) -> float:
    if isinstance(given, bool | str) or not isinstance(given, SupportsFloat):
        raise UserInputError(f"{name} {given!r}: expected a number")
    return float(given)


NUMBERS = (
    *("temperature", "scale_temperature", "voiced_temperature"),
    *("top_p", "guidance", "postfilter"),
)


@dataclass(frozen=True)
class Sampling:
    """The same settings and seed give the same audio, alone or in a batch.

    Raises UserInputError for numbers out of range.

    Without any temperature the model's own holds, which its card has, and without a strength of the
    post-filter, too.
    """

    seed: int = 0
    temperature: float | None = None  # of all parts: see `Temperatures`
    top_p: float = 1.0  # below 1: the fewest classes that hold this mass; categorical heads alone
    guidance: float = 1.0  # above 1: further away from the unconditional distribution
    backend: str = "auto"
    # of the CPU kernels: float32, bf16 (weights alone), bf16-dot, int8, or auto
    precision: str = "float32"
    # of scales in unvoiced frames, or where voicing is unknown, alone
    scale_temperature: float | None = None
    voiced_temperature: float | None = None  # of scales in voiced frames alone
    postfilter: float | None = None  # strength of what follows the decoder, see `decode.postfilter`

    def __post_init__(self) -> None:
        for name in NUMBERS:  # of numpy, too: plain ones, as a saved state has them
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, _number(given, name))
        object.__setattr__(self, "seed", checked_seed(self.seed))
        checked_temperatures(self.temperatures())
        if not 0 < self.top_p <= 1:
            raise UserInputError(f"top_p {self.top_p}: expected a number above 0, at most 1")
        if self.postfilter is not None:
            checked_strength(self.postfilter)

    def temperatures(self, own: Temperatures | None = None) -> Temperatures:
        """Of the parts. own: a model's; 1 each where there is none.

        >>> Sampling(temperature=0.9, voiced_temperature=0.6).temperatures(Temperatures())
        Temperatures(choice=0.9, scale=0.9, voiced=0.6)
        """
        parts = (
            (own or Temperatures())
            if self.temperature is None
            else Temperatures(*3 * (self.temperature,))
        )
        alone = {"scale": self.scale_temperature, "voiced": self.voiced_temperature}
        return parts._replace(**{name: value for name, value in alone.items() if value is not None})

    def given(self, seed: int | None, temperature: float | None) -> Sampling:
        """The same with this seed and this temperature of all parts, where they are given."""
        return replace(
            self,
            seed=self.seed if seed is None else seed,
            temperature=self.temperature if temperature is None else temperature,
        )

    def resolved(self, own: Temperatures, postfilter: float = 0.0) -> Sampling:
        """With a number for each part, so that a model's own temperatures and strength have no
        effect.
        """
        choice, scale, voiced = self.temperatures(own)
        return replace(
            self,
            temperature=choice,
            scale_temperature=scale,
            voiced_temperature=voiced,
            postfilter=postfilter if self.postfilter is None else self.postfilter,
        )


DEFAULT = Sampling()
