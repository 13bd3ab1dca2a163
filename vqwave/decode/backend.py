"""One door to all decoders: which back-ends there are, and which one `auto` takes."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from vqwave.decode.cpu.flow.plan import unsupported_student
from vqwave.decode.cpu.precision import numbers
from vqwave.decode.cuda import tuning
from vqwave.decode.plan import Precision, unsupported
from vqwave.decode.reference import sample_student, sample_wavenet
from vqwave.decode.sampling import Sampling, Temperature, checked_temperatures
from vqwave.errors import Note, UserInputError, nearest
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition
from vqwave.nn.finite import check_finite

KERNELS = {"numba": "vqwave.decode.cpu.wavenet.decoder", "triton": "vqwave.decode.cuda.decoder"}
BACKENDS = ("auto", "reference", *KERNELS)


@dataclass(frozen=True)
class Choice:
    """The back-end that decodes, and why not a faster one (None where it is the fastest there
    is).
    """

    backend: str
    reason: str | None = None


def take(
    decoder: WaveNet | Student, backend: str = "auto", *, top_p: float = 1.0, guidance: float = 1.0
) -> str:
    """The name of the back-end that `choose` says, with a `Note` where it is not the fastest."""
    choice = choose(decoder, backend, top_p=top_p, guidance=guidance)
    if choice.reason is not None:
        warnings.warn(f"the reference decoder is taken: {choice.reason}", Note, stacklevel=3)
    return choice.backend


def choose(
    decoder: WaveNet | Student, backend: str = "auto", *, top_p: float = 1.0, guidance: float = 1.0
) -> Choice:
    """`auto` takes the fastest that can decode this.

    Raises UserInputError for an unknown back-end, or one that cannot.
    """
    if backend not in BACKENDS:
        raise UserInputError(
            f"backend {backend!r}: expected one of"
            f" {', '.join(BACKENDS)}{nearest(backend, BACKENDS)}"
        )
    if backend == "reference":
        return Choice("reference")
    if top_p < 1 or guidance != 1:
        return Choice("reference", "top_p and guidance are the reference decoder's alone")
    if backend == "triton" or (backend == "auto" and on_gpu(decoder)):
        return _choose_triton(decoder, backend)
    if importlib.util.find_spec("numba") is None:
        reason = "numba is not installed: pip install 'vqwave[fast]'"
    else:
        reason = (
            unsupported_student(decoder) if isinstance(decoder, Student) else unsupported(decoder)
        )
    if reason is None:
        return Choice("numba")
    if backend == "numba":
        raise UserInputError(f"backend 'numba': {reason}")
    return Choice("reference", reason)


def on_gpu(decoder: WaveNet | Student) -> bool:
    """Whether a CUDA device holds this decoder."""
    return next(decoder.parameters()).device.type == "cuda"


def _choose_triton(decoder: WaveNet | Student, backend: str) -> Choice:
    if isinstance(decoder, Student):
        reason = "a student has no CUDA kernel: the reference decodes it in one pass"
    else:
        reason = tuning.unsupported(decoder)
    if reason is None:
        return Choice("triton")
    if backend == "triton":
        raise UserInputError(f"backend 'triton': {reason}")
    return Choice("reference", reason)


def _fused(weights: Precision, progress: Callable[[int], object] | None) -> Callable[..., Tensor]:
    """The student's kernels as a function of what the reference takes."""
    # an optional extra, whose import takes a moment
    from vqwave.decode.cpu.flow import decoder as flow_decoder

    return partial(flow_decoder.sample_student, weights=weights, progress=progress)


def sample(
    decoder: WaveNet | Student,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: Temperature = 1.0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    prime: Tensor | None = None,
    backend: str = "auto",
    precision: str = "float32",
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Waveforms (B, samples) from a condition of B utterances.

    Raises UserInputError for what no back-end decodes.

    temperature: of all parts, or of each. `top_p` and `guidance` (see `sample_wavenet`) are the
    reference decoder's alone: any back-end gives way to it. `precision` is the CPU kernels' (see
    `precision.py`); the others have their own.
    """
    check_finite(decoder, f"this {type(decoder).__name__}")
    weights = numbers(precision)
    taken = take(decoder, backend, top_p=top_p, guidance=guidance)
    temperature = checked_temperatures(temperature)
    if not 0 < top_p <= 1:
        raise UserInputError(f"top_p {top_p}: expected a number above 0, at most 1")
    if isinstance(decoder, Student):
        if top_p != 1 or guidance != 1 or prime is not None:
            raise UserInputError(
                "top_p, guidance, prompt: a student knows none of them, expected its teacher"
            )
        draw = sample_student if taken == "reference" else _fused(weights, progress)
        return draw(
            decoder, condition, samples, streams=streams, seed=seed, temperature=temperature
        )
    if top_p < 1 and decoder.head.continuous:
        raise UserInputError(
            f"top_p: this model has a {decoder.head.kind} head, expected a categorical one; use"
            " temperature"
        )
    if taken in KERNELS:
        # an optional extra, whose import takes a moment
        kernels = importlib.import_module(KERNELS[taken])
        kind = {"weights": weights} if taken == "numba" else {}
        return kernels.sample_wavenet(
            decoder,
            condition,
            samples,
            streams=streams,
            seed=seed,
            temperature=temperature,
            prime=prime,
            progress=progress,
            **kind,
        )
    return sample_wavenet(
        decoder,
        condition,
        samples,
        streams=streams,
        seed=seed,
        temperature=temperature,
        top_p=top_p,
        guidance=guidance,
        prime=prime,
        progress=progress,
    )


def sample_as(
    sampling: Sampling,
    decoder: WaveNet | Student,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    prime: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """`sample` with settings in one piece; a temperature that they leave open is 1."""
    return sample(
        decoder,
        condition,
        samples,
        streams=streams,
        seed=sampling.seed,
        temperature=sampling.temperatures(),
        top_p=sampling.top_p,
        guidance=sampling.guidance,
        prime=prime,
        backend=sampling.backend,
        precision=sampling.precision,
        progress=progress,
    )
