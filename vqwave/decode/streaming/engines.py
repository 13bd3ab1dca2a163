"""What turns columns into samples, one chunk after another, for a stream: a sampling loop in
torch or numba, or a student.

An engine is given the columns of its next samples and draws them. Its state can be taken out as
arrays by name and loaded into another engine of the same decoder, which then continues in its
place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.reference import FlowStream, SampleLoop
from vqwave.decode.sampling import Sampling, Temperature
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet, WaveNetState
from vqwave.nn.condition import Condition, Conditioner
from vqwave.nn.flows import FlowState
from vqwave.nn.harmonic_source import SourceState
from vqwave.nn.linear_prediction import PredictorState
from vqwave.nn.wavenet import ContextState, StackState

Arrays = dict[str, NDArray]
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Engine(Protocol):
    """One stream of samples under way."""

    name: str
    block: int
    """Samples that are drawn together, a multiple of the frame: only the last call takes fewer."""
    ahead: int
    """Samples whose columns must be given beyond those that are drawn."""

    @property
    def time(self) -> int:
        """Samples so far."""
        ...

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        """Columns (1, H, n), numbered from `first` on, of the next `count` samples (and of those
        ahead) -> samples (count,).
        """
        ...

    def state_dict(self) -> Arrays:
        """Its state, by name."""
        ...

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `state_dict`. Raises ValueError and the like for what does not fit."""
        ...


class NumbaDecoder(Protocol):
    """What the CPU kernels' decoders of a WaveNet and of a student share."""

    @property
    def ahead(self) -> int: ...

    @property
    def time(self) -> int: ...

    def set_condition(self, features: Floats, first: Integers) -> None: ...

    def restart(self, row: int, stream: int) -> None: ...

    def sample(
        self, count: int, seed: int = 0, temperature: Temperature = 1.0
    ) -> Iterator[Tensor]: ...

    def state_dict(self) -> Arrays: ...

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None: ...


class ReferenceEngine:
    """The reference loop."""

    name, ahead = "reference", 0

    def __init__(self, wavenet: WaveNet, sampling: Sampling, stream: int) -> None:
        self.sampling, self.block, self.hold = sampling, wavenet.hop, wavenet.conditioner.hold
        silence = silent_condition(wavenet.conditioner, next(wavenet.parameters()))
        self.loop = SampleLoop(wavenet, silence, torch.tensor([stream]), sampling.guidance)

    @property
    def time(self) -> int:
        return self.loop.state.time

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        self.loop.law.set_condition(Condition(columns, self.hold, first * self.hold))
        return self.loop.sample(
            count, self.sampling.seed, self.sampling.temperatures(), self.sampling.top_p
        )[0]

    def state_dict(self) -> Arrays:
        state = self.loop.state
        arrays = {"last": _array(self.loop.last)} | dict(_stack_arrays("stack", state.stack))
        if state.predictor is not None:
            arrays |= {
                f"predictor.{name}": _array(value) for name, value in vars(state.predictor).items()
            }
        return arrays

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
    """The CPU kernels: their ring buffers, or a student's pasts, are all its state."""

    name = "numba"

    def __init__(self, decoder: NumbaDecoder, block: int, sampling: Sampling) -> None:
        self.decoder, self.block, self.sampling = decoder, block, sampling
        self.ahead = decoder.ahead

    @property
    def time(self) -> int:
        return self.decoder.time

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
    """The CUDA kernel: its rings stay on the device; a chunk may have any length."""

    name, ahead = "triton", 0

    def __init__(self, wavenet: WaveNet, sampling: Sampling, stream: int) -> None:
        from vqwave.decode.cuda.decoder import Decoder  # an optional extra

        self.sampling, self.block = sampling, wavenet.hop
        self.decoder = Decoder(
            wavenet, silent_condition(wavenet.conditioner), torch.tensor([stream])
        )

    @property
    def time(self) -> int:
        return int(self.decoder.state.time[0])

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        self.decoder.set_condition(columns.transpose(1, 2), torch.tensor([first]))
        return torch.cat(
            list(self.decoder.sample(count, self.sampling.seed, self.sampling.temperatures())), 1
        )[0]

    def state_dict(self) -> Arrays:
        return self.decoder.state_dict()

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        self.decoder.load_state_dict(arrays)


class StudentEngine:
    """The reference: a student's passes, each as long as the last."""

    name = "student"

    def __init__(self, student: Student, sampling: Sampling, stream: int) -> None:
        self.sampling, self.hold = sampling, student.conditioner.hold
        self.flowing = FlowStream(student, torch.tensor([stream]))
        self.block, self.ahead = self.flowing.block, self.flowing.ahead

    @property
    def time(self) -> int:
        return self.flowing.time

    def sample(self, columns: Tensor, first: int, count: int) -> Tensor:
        condition = Condition(columns, self.hold, first * self.hold)
        return self.flowing.sample(
            count, condition, self.sampling.seed, self.sampling.temperatures()
        )[0]

    def state_dict(self) -> Arrays:
        arrays: Arrays = {"time": np.array(self.flowing.time)}
        student = self.flowing.state
        if student.samples is not None:
            arrays |= {"samples": _array(student.samples)}
        if student.source.phases is not None:
            arrays |= {
                "source.column": np.array(student.source.column),
                "source.phases": _array(student.source.phases),
            }
        for i, state in enumerate(student.flows):
            parts = {"last": state.last, "partial": state.partial, "ready": state.ready}
            arrays |= {f"{i}.{n}": _array(part) for n, part in parts.items() if part is not None}
            if state.stack is not None:
                arrays |= dict(_stack_arrays(f"{i}.stack", state.stack))
        return arrays

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        tensor = _reader(arrays, next(self.flowing.student.parameters()))
        self.flowing.time = int(arrays["time"])
        student = self.flowing.state
        if "samples" in arrays:
            student.samples, student.time = tensor("samples"), self.flowing.time
        if "source.phases" in arrays:
            phases = torch.from_numpy(np.array(arrays["source.phases"]))
            student.source = SourceState(int(arrays["source.column"]), phases)
        for i in range(len(student.flows)):
            parts = {
                name: tensor(f"{i}.{name}") if f"{i}.{name}" in arrays else None
                for name in ("last", "partial", "ready")
            }
            student.flows[i] = FlowState(stack=_stack_state(f"{i}.stack", arrays, tensor), **parts)


def silent_condition(conditioner: Conditioner, like: Tensor | None = None) -> Condition:
    """One column of zeros (1, H, 1), of the kind of `like`: until the first columns are given."""
    column = torch.zeros(1, conditioner.width, 1)
    return Condition(column if like is None else column.to(like), conditioner.hold)


def _array(x: Tensor) -> NDArray:
    return np.array(x.detach().cpu().numpy())


def _reader(arrays: Mapping[str, NDArray], like: Tensor) -> Callable[[str], Tensor]:
    """Reads an array as a tensor of its own, on the device of `like`."""
    return lambda name: torch.from_numpy(np.array(arrays[name])).to(like)


def _stack_arrays(name: str, state: StackState) -> Iterator[tuple[str, NDArray]]:
    yield f"{name}.time", np.array(state.time)
    for i, past in enumerate(state.pasts):
        if past is not None:
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
