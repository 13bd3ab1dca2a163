"""How samples are drawn: what every decoder is asked for in the same words."""

from __future__ import annotations

from dataclasses import dataclass

from vqwave.decode.philox import checked_seed
from vqwave.distributions import checked_temperature


@dataclass(frozen=True)
class Sampling:
    """The same settings and seed give the same audio, alone or in a batch. Raises BadInput for numbers out of range."""

    seed: int = 0
    temperature: float = 1.0  # below 1: safer, duller; 0: the likeliest class, or component's location
    top_p: float = 1.0  # below 1: the fewest classes that hold this mass; categorical heads alone
    guidance: float = 1.0  # above 1: further away from what the model says when it is told nothing
    backend: str = "auto"
    precision: str = "float32"  # of the CPU kernels: float32, bf16 (weights alone), bf16-dot, int8, or auto

    def __post_init__(self) -> None:
        checked_seed(self.seed)
        checked_temperature(self.temperature)
