"""One door to all decoders: which back-ends there are, and which one `auto` takes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vqwave.decode.reference import sample_student, sample_wavenet
from vqwave.errors import BadInput, nearest
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition

BACKENDS = ("auto", "reference")


def sample(
    decoder: WaveNet | Student,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: float = 1.0,
    backend: str = "auto",
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Waveforms (B, samples) from a condition of B utterances. Raises BadInput for an unknown back-end or temperature."""
    if backend not in BACKENDS:
        raise BadInput(f"backend {backend!r}: expected one of {', '.join(BACKENDS)}{nearest(backend, BACKENDS)}")
    if not temperature > 0:
        raise BadInput(f"temperature {temperature}: expected a number above 0")
    if isinstance(decoder, Student):
        return sample_student(decoder, condition, samples, streams=streams, seed=seed, temperature=temperature)
    return sample_wavenet(
        decoder, condition, samples, streams=streams, seed=seed, temperature=temperature, progress=progress
    )
