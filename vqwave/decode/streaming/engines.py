"""What turns columns into samples, one stretch after another, for a stream: a sampling loop in
torch or numba, or a student.

An engine is told the columns of its next samples and draws them. All that it remembers can be taken
out as arrays by name and put into another engine of the same decoder, which then goes on in its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.backend import take
from vqwave.decode.cpu.precision import numbers
from vqwave.decode.reference import FlowStream, SampleLoop
from vqwave.decode.sampling import Sampling
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet, WaveNetState
from vqwave.nn.condition import Condition
from vqwave.nn.flows import FlowState
from vqwave.nn.linear_prediction import PredictorState
from vqwave.nn.wavenet import ContextState, StackState

if TYPE_CHECKING:
    from vqwave.decode.cpu.flow.decoder import StudentDecoder
    from vqwave.decode.cpu.wavenet.decoder import Decoder

    NumbaDecoder = Decoder | StudentDecoder

Arrays = dict[str, NDArray]


class Engine(Protocol):
    """One stream of samples under way."""

    name: str
    block: int
    """Samples that are drawn together, whole frames of them: but for the last ones, it takes so
    many and no fewer.
    """
    ahead: int
    """Samples whose columns must be known beyond those that are drawn."""

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        """Columns (1, H, n), numbered from `first` on, of the next `count` samples (and of those
        ahead) -> samples (count,).
        """
        ...

    def state_dict(self) -> Arrays:
        """All that it remembers."""
        ...

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `arrays`."""
        ...


def build_engine(decoder: WaveNet | Student, sampling: Sampling, stream: int = 0) -> Engine:
    """The fastest that decodes this as asked. Raises UserInputError."""
    taken = take(decoder, sampling.backend, top_p=sampling.top_p, guidance=sampling.guidance)
    if taken == "numba":
        return NumbaEngine(decoder, sampling, stream)
    if isinstance(decoder, Student):
        return StudentEngine(decoder, sampling, stream)
    if taken == "triton":
        return TritonEngine(decoder, sampling, stream)
    return ReferenceEngine(decoder, sampling, stream)


class ReferenceEngine:
    """The reference loop."""

    name, ahead = "reference", 0

    def __init__(self, wavenet: WaveNet, sampling: Sampling, stream: int) -> None:
        self.sampling, self.block, self.hold = sampling, wavenet.hop, wavenet.conditioner.hold
        weight = next(wavenet.parameters())
        silence = Condition(weight.new_zeros(1, wavenet.conditioner.width, 1), self.hold)
        self.loop = SampleLoop(wavenet, silence, torch.tensor([stream]), sampling.guidance)

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        self.loop.law.set_condition(Condition(columns, self.hold, first * self.hold))
        return self.loop.sample(
            count, self.sampling.seed, self.sampling.temperatures(), self.sampling.top_p
        )[0]

    def state_dict(self) -> Arrays:
        state = self.loop.state
        found = {"last": _array(self.loop.last)} | dict(_stack_arrays("stack", state.stack))
        if state.predictor is not None:
            found |= {
                f"predictor.{name}": _array(value) for name, value in vars(state.predictor).items()
            }
        return found

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        tensor = _reader(arrays, self.loop.last)
        self.loop.last = tensor("last")
        predictor = None
        if "predictor.samples" in arrays:
            predictor = PredictorState(
                *(tensor(f"predictor.{f.name}") for f in fields(PredictorState))
            )
        self.loop.state = WaveNetState(_stack_state("stack", arrays, tensor), predictor)


class NumbaEngine:
    """The CPU kernels: ring buffers, or a student's pasts, are all there is, and stay where they
    are.
    """

    name = "numba"

    def __init__(self, decoder: WaveNet | Student, sampling: Sampling, stream: int) -> None:
        self.sampling, self.block = sampling, decoder.hop
        silence = Condition(torch.zeros(1, decoder.conditioner.width, 1), decoder.conditioner.hold)
        self.decoder = numba_decoder(decoder, silence, torch.tensor([stream]), sampling.precision)
        self.ahead = self.decoder.ahead if isinstance(decoder, Student) else 0

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        self.decoder.set_condition(
            np.ascontiguousarray(columns.float().transpose(1, 2).numpy()), np.array([first])
        )
        return torch.cat(
            list(self.decoder.sample(count, self.sampling.seed, self.sampling.temperatures())), 1
        )[0]

    def state_dict(self) -> Arrays:
        return self.decoder.state_dict()

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        self.decoder.load_state_dict(arrays)


class TritonEngine:
    """The CUDA kernel: its rings stay on the device, and a stretch of any length is the same to
    it.
    """

    name, ahead = "triton", 0

    def __init__(self, wavenet: WaveNet, sampling: Sampling, stream: int) -> None:
        from vqwave.decode.cuda.decoder import Decoder  # an optional extra

        self.sampling, self.block = sampling, wavenet.hop
        silence = Condition(torch.zeros(1, wavenet.conditioner.width, 1), wavenet.conditioner.hold)
        self.decoder = Decoder(wavenet, silence, torch.tensor([stream]))

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        self.decoder.set_condition(columns.transpose(1, 2), torch.tensor([first]))
        return torch.cat(
            list(self.decoder.sample(count, self.sampling.seed, self.sampling.temperatures())), 1
        )[0]

    def state_dict(self) -> Arrays:
        return self.decoder.state_dict()

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        self.decoder.load_state_dict(arrays)


def numba_decoder(
    decoder: WaveNet | Student, condition: Condition, streams: Tensor, precision: str
) -> NumbaDecoder:
    """The CPU kernels' decoder of either kind. Raises UserInputError for an unknown precision."""
    weights = numbers(precision)
    if isinstance(decoder, Student):
        # an optional extra, whose import takes a moment
        from vqwave.decode.cpu.flow.decoder import StudentDecoder

        return StudentDecoder(decoder, condition, streams, weights=weights)
    from vqwave.decode.cpu.wavenet.decoder import Decoder

    return Decoder(decoder, condition, streams, weights=weights)


class StudentEngine:
    """The reference: a student's passes, each as long as the last."""

    name = "student"

    def __init__(self, student: Student, sampling: Sampling, stream: int) -> None:
        self.sampling, self.hold = sampling, student.conditioner.hold
        self.flowing = FlowStream(student, torch.tensor([stream]))
        self.block, self.ahead = self.flowing.block, self.flowing.ahead

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        condition = Condition(columns, self.hold, first * self.hold)
        return self.flowing.sample(
            count, condition, self.sampling.seed, self.sampling.temperatures()
        )[0]

    def state_dict(self) -> Arrays:
        found: Arrays = {"time": np.array(self.flowing.time)}
        student = self.flowing.state
        if student.samples is not None:
            found |= {"samples": _array(student.samples)}
        for i, state in enumerate(student.flows):
            for name in ("last", "partial", "ready"):
                if getattr(state, name) is not None:
                    found[f"{i}.{name}"] = _array(getattr(state, name))
            found |= dict(_stack_arrays(f"{i}.stack", state.stack))
        return found

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        tensor = _reader(arrays, next(self.flowing.student.parameters()))
        self.flowing.time = int(arrays["time"])
        student = self.flowing.state
        if "samples" in arrays:
            student.samples, student.time = tensor("samples"), self.flowing.time
        for i in range(len(student.flows)):
            parts = [
                tensor(f"{i}.{name}") if f"{i}.{name}" in arrays else None
                for name in ("last", "partial", "ready")
            ]
            student.flows[i] = FlowState(*parts, stack=_stack_state(f"{i}.stack", arrays, tensor))


def _array(x: Tensor) -> NDArray:
    return np.array(x.detach().cpu().numpy())


def _reader(arrays: Mapping[str, NDArray], like: Tensor) -> Callable[[str], Tensor]:
    """Reads an array as a tensor of its own, on the device of `like`."""
    return lambda name: torch.from_numpy(np.array(arrays[name])).to(like)


def _stack_arrays(name: str, state: StackState) -> Iterator[tuple[str, NDArray]]:
    yield f"{name}.time", np.array(state.time)
    for i, past in enumerate(state.pasts):
        yield f"{name}.pasts.{i}", _array(past)
    if state.context is not None:
        yield f"{name}.context.unfinished", _array(state.context.unfinished)
        yield f"{name}.context.last", _array(state.context.last)
        yield from _stack_arrays(f"{name}.context.stack", state.context.stack)


def _stack_state(
    name: str, arrays: Mapping[str, NDArray], tensor: Callable[[str], Tensor]
) -> StackState:
    layers = sum(key.startswith(f"{name}.pasts.") for key in arrays)
    state = StackState(
        [tensor(f"{name}.pasts.{i}") for i in range(layers)], int(arrays[f"{name}.time"])
    )
    if f"{name}.context.last" in arrays:
        stack = _stack_state(f"{name}.context.stack", arrays, tensor)
        state.context = ContextState(
            tensor(f"{name}.context.unfinished"), tensor(f"{name}.context.last"), stack
        )
    return state
