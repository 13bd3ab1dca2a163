"""What was made of a module's tensors, kept until one of them is written to or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Made = TypeVar("Made")
State = tuple[tuple[int, int], ...]


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, in the same order at each call: `Module.parameters` takes
    milliseconds for a large model.
    """
    waiting = [module]
    while waiting:
        each = waiting.pop()
        for kept in (each._parameters, each._buffers):
            if kept:
                yield from (value for value in kept.values() if value is not None)
        waiting += [child for child in each._modules.values() if child is not None]


def tensor_state(module: nn.Module) -> State | None:
    """Where the tensors lie and how often each was written to; None where torch does not count
    that (tensors made in inference mode). It counts no writes through `.data`.
    """
    try:
        return tuple([(each.data_ptr(), each._version) for each in tensors(module)])
    except RuntimeError:
        return None


class PerState(Generic[Module, Made]):
    """A function of a module, called again only after a change of the module's tensors."""

    def __init__(self, make: Callable[[Module], Made]) -> None:
        self._make = make
        self._kept: WeakKeyDictionary[Module, tuple[State, Made]] = WeakKeyDictionary()

    def __call__(self, module: Module) -> Made:
        state, kept = tensor_state(module), self._kept.get(module)
        if kept is not None and kept[0] == state:
            return kept[1]
        made = self._make(module)
        if state is not None:
            self._kept[module] = state, made
        return made
