"""The back-ends: what each of them can decode, and which one `auto` takes.

A back-end is one class for each kind of decoder; `BACKENDS_OF` lists them.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from vqwave.decode import reference
from vqwave.decode.cpu.flow.plan import unsupported_student
from vqwave.decode.cpu.precision import has_numba, named, numbers
from vqwave.decode.cuda import tuning
from vqwave.decode.plan import unsupported
from vqwave.decode.sampling import DEFAULT, Sampling
from vqwave.decode.streaming.engines import (
    Engine,
    NumbaDecoder,
    NumbaEngine,
    ReferenceEngine,
    StudentEngine,
    TritonEngine,
    silent_condition,
)
from vqwave.errors import Note, UserInputError, nearest
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition
from vqwave.nn.finite import check_finite

BACKENDS = ("auto", "reference", "numba", "triton")
D = TypeVar("D", bound=nn.Module)


@dataclass(frozen=True)
class SampleRequest(Generic[D]):
    """A batch of utterances to decode."""

    decoder: D
    condition: Condition | None  # of B utterances
    samples: int  # of each
    streams: Tensor  # (B,) numbers of the utterances, on which their random numbers depend
    prompt: Tensor | None = None  # (B, T') samples before the first that is drawn
    progress: Callable[[int], object] | None = None  # called with how many samples were made


class Backend(ABC, Generic[D]):
    """One way to decode one kind of decoder."""

    name: ClassVar[str]
    continuous_batching: ClassVar[bool] = False
    """Whether `slots` makes decoders of it: see `batching.ContinuousBatcher`."""
    singly_on_cpu: ClassVar[bool] = False
    """Whether a CPU decodes utterances one after another rather than as a batch."""

    def unsupported(self, decoder: D) -> str | None:
        """Why it cannot decode this one, or None where it can."""

    @abstractmethod
    def check(self, request: SampleRequest[D], sampling: Sampling) -> None:
        """Raises UserInputError for settings that this kind of decoder does not have."""

    @abstractmethod
    def sample(self, request: SampleRequest[D], sampling: Sampling) -> Tensor:
        """Waveforms (B, samples)."""

    @abstractmethod
    def engine(self, decoder: D, sampling: Sampling, stream: int) -> Engine:
        """What decodes one utterance as a stream."""

    def slots(self, decoder: D, streams: Tensor, sampling: Sampling) -> NumbaDecoder:
        """What decodes many streams (B,), each of which may be restarted by itself."""
        raise NotImplementedError(f"{type(self).__name__} has no slots")


class WaveNetBackend(Backend[WaveNet]):
    """What all back-ends of a WaveNet share."""

    def check(self, request: SampleRequest[WaveNet], sampling: Sampling) -> None:
        head = request.decoder.head
        if sampling.top_p < 1 and head.continuous:
            raise UserInputError(
                f"top_p: this model has a {head.kind} head, expected a categorical one; use"
                " temperature"
            )


class WaveNetReference(WaveNetBackend):
    """`reference.sample_wavenet`; the only one with `top_p` and `guidance`."""

    name = "reference"

    def sample(self, request: SampleRequest[WaveNet], sampling: Sampling) -> Tensor:
        return reference.sample_wavenet(
            request.decoder,
            request.condition,
            request.samples,
            streams=request.streams,
            seed=sampling.seed,
            temperature=sampling.temperatures(),
            top_p=sampling.top_p,
            guidance=sampling.guidance,
            prompt=request.prompt,
            progress=request.progress,
        )

    def engine(self, decoder: WaveNet, sampling: Sampling, stream: int) -> Engine:
        return ReferenceEngine(decoder, sampling, stream)


class WaveNetNumba(WaveNetBackend):
    """The CPU kernels."""

    name, continuous_batching = "numba", True

    def unsupported(self, decoder: WaveNet) -> str | None:
        return _without_numba() or unsupported(decoder)

    def sample(self, request: SampleRequest[WaveNet], sampling: Sampling) -> Tensor:
        # an optional extra, whose import takes a moment
        from vqwave.decode.cpu.wavenet import decoder as wavenet_decoder

        return wavenet_decoder.sample_wavenet(
            request.decoder,
            request.condition,
            request.samples,
            streams=request.streams,
            seed=sampling.seed,
            temperature=sampling.temperatures(),
            prompt=request.prompt,
            progress=request.progress,
            weights=numbers(sampling.precision, _weight_bytes(request.decoder)),
        )

    def engine(self, decoder: WaveNet, sampling: Sampling, stream: int) -> Engine:
        return NumbaEngine(
            self.slots(decoder, torch.tensor([stream]), sampling), decoder.hop, sampling
        )

    def slots(self, decoder: WaveNet, streams: Tensor, sampling: Sampling) -> NumbaDecoder:
        from vqwave.decode.cpu.wavenet.decoder import Decoder

        silence = silent_condition(decoder.conditioner)
        weights = numbers(sampling.precision, _weight_bytes(decoder))
        return Decoder(decoder, silence, streams, weights=weights)


class WaveNetTriton(WaveNetBackend):
    """The CUDA kernel, which has a precision of its own."""

    name = "triton"

    def unsupported(self, decoder: WaveNet) -> str | None:
        return tuning.unsupported(decoder)

    def sample(self, request: SampleRequest[WaveNet], sampling: Sampling) -> Tensor:
        from vqwave.decode.cuda import decoder as cuda_decoder  # an optional extra

        return cuda_decoder.sample_wavenet(
            request.decoder,
            request.condition,
            request.samples,
            streams=request.streams,
            seed=sampling.seed,
            temperature=sampling.temperatures(),
            prompt=request.prompt,
            progress=request.progress,
        )

    def engine(self, decoder: WaveNet, sampling: Sampling, stream: int) -> Engine:
        return TritonEngine(decoder, sampling, stream)


class StudentBackend(Backend[Student]):
    """What all back-ends of a student share."""

    singly_on_cpu = True  # the pass of one utterance uses all cores

    def check(self, request: SampleRequest[Student], sampling: Sampling) -> None:
        if sampling.top_p != 1 or sampling.guidance != 1 or request.prompt is not None:
            raise UserInputError(
                "top_p, guidance, prompt: a student has none of them, expected its teacher"
            )


class StudentReference(StudentBackend):
    """`reference.sample_student`."""

    name = "reference"

    def sample(self, request: SampleRequest[Student], sampling: Sampling) -> Tensor:
        return reference.sample_student(
            request.decoder,
            request.condition,
            request.samples,
            streams=request.streams,
            seed=sampling.seed,
            temperature=sampling.temperatures(),
        )

    def engine(self, decoder: Student, sampling: Sampling, stream: int) -> Engine:
        return StudentEngine(decoder, sampling, stream)


class StudentNumba(StudentBackend):
    """The CPU kernels."""

    name = "numba"

    def unsupported(self, decoder: Student) -> str | None:
        return _without_numba() or unsupported_student(decoder)

    def sample(self, request: SampleRequest[Student], sampling: Sampling) -> Tensor:
        # an optional extra, whose import takes a moment
        from vqwave.decode.cpu.flow import decoder as flow_decoder

        return flow_decoder.sample_student(
            request.decoder,
            request.condition,
            request.samples,
            streams=request.streams,
            seed=sampling.seed,
            temperature=sampling.temperatures(),
            progress=request.progress,
            weights=numbers(sampling.precision),
        )

    def engine(self, decoder: Student, sampling: Sampling, stream: int) -> Engine:
        from vqwave.decode.cpu.flow.decoder import StudentDecoder

        silence, weights = silent_condition(decoder.conditioner), numbers(sampling.precision)
        kernels = StudentDecoder(decoder, silence, torch.tensor([stream]), weights=weights)
        return NumbaEngine(kernels, decoder.hop, sampling)


class StudentTriton(StudentReference):
    """There is none: `auto` and `triton` get the reason."""

    name = "triton"

    def unsupported(self, decoder: Student) -> str | None:
        name = type(decoder).__name__.lower()
        return f"a {name} has no CUDA kernel: the reference decodes it in one pass"


def _named(*backends: Backend[Any]) -> dict[str, Backend[Any]]:
    return {backend.name: backend for backend in backends}


BACKENDS_OF: dict[type[nn.Module], Mapping[str, Backend[Any]]] = {
    WaveNet: _named(WaveNetReference(), WaveNetNumba(), WaveNetTriton()),
    Student: _named(StudentReference(), StudentNumba(), StudentTriton()),
}


@dataclass(frozen=True)
class Choice:
    """The back-end that decodes, and why not a faster one (None where it is the fastest there
    is).
    """

    backend: str
    reason: str | None = None


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
    fastest = ("triton" if on_gpu(decoder) else "numba") if backend == "auto" else backend
    reason = _backends(decoder)[fastest].unsupported(decoder)
    if reason is None:
        return Choice(fastest)
    if backend != "auto":
        raise UserInputError(f"backend {backend!r}: {reason}")
    return Choice("reference", reason)


def select(decoder: WaveNet | Student, sampling: Sampling, *, notify: bool = True) -> Backend[Any]:
    """The back-end that `choose` names, by default with a `Note` where it is not the fastest."""
    choice = choose(decoder, sampling.backend, top_p=sampling.top_p, guidance=sampling.guidance)
    if notify and choice.reason is not None:
        warnings.warn(f"the reference decoder is taken: {choice.reason}", Note, stacklevel=3)
    return _backends(decoder)[choice.backend]


def on_gpu(decoder: WaveNet | Student) -> bool:
    """Whether a CUDA device holds this decoder."""
    return next(decoder.parameters()).device.type == "cuda"


def sample(request: SampleRequest[Any], sampling: Sampling = DEFAULT) -> Tensor:
    """Waveforms (B, samples).

    Raises UserInputError for what no back-end decodes.

    A temperature that `sampling` leaves open is 1. `top_p` and `guidance` (see
    `reference.sample_wavenet`) are the reference decoder's alone: any back-end gives way to it.
    `precision` is the CPU kernels' (see `precision.py`); the others have their own.
    """
    backend = _checked(request, sampling, select(request.decoder, sampling))
    return backend.sample(request, sampling)


def _checked(
    request: SampleRequest[Any], sampling: Sampling, backend: Backend[Any]
) -> Backend[Any]:
    """Raises UserInputError for settings or weights that it does not decode."""
    check_finite(request.decoder, f"this {type(request.decoder).__name__}")
    named(sampling.precision)
    backend.check(request, sampling)
    return backend


def build_engine(decoder: WaveNet | Student, sampling: Sampling, stream: int = 0) -> Engine:
    """The fastest that decodes this as a stream. Raises UserInputError."""
    return checked_backend(decoder, sampling).engine(decoder, sampling, stream)


def checked_backend(decoder: WaveNet | Student, sampling: Sampling) -> Backend[Any]:
    """The one to decode utterances with that come later. Raises UserInputError as `sample` does."""
    request = SampleRequest(decoder, None, 0, torch.zeros(1, dtype=torch.int64))
    return _checked(request, sampling, select(decoder, sampling))


def _backends(decoder: nn.Module) -> Mapping[str, Backend[Any]]:
    """Those of its kind, by name."""
    return next(BACKENDS_OF[kind] for kind in type(decoder).__mro__ if kind in BACKENDS_OF)


def _weight_bytes(wavenet: WaveNet) -> int:
    """Of the weights that a sample needs, in float32."""
    return 4 * sum(parameter.numel() for parameter in wavenet.stack.parameters())


def _without_numba() -> str | None:
    if not has_numba():
        return "numba is not installed: pip install 'vqwave[fast]'"
    return None
