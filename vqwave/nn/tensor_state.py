"""What was made of a module's tensors, kept until one of them is written to or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Made = TypeVar("Made")

WRITES = attrgetter("_version")


def tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, in the same order at each call: `Module.parameters` takes
    milliseconds for a large model.
    """
    for each in _modules(module):
        for kept in (each._parameters, each._buffers):
            yield from (value for value in kept.values() if value is not None)


def _modules(module: nn.Module) -> Iterator[nn.Module]:
    waiting = [module]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += [child for child in each._modules.values() if child is not None]


class TensorState:
    """Which tensors modules have, where they lie and how often each was written to, at one moment.

    Every decoding asks whether that has changed, some hundred tensors each time: nothing but
    dictionaries is walked. Torch counts no writes through `.data`, and none to tensors made in
    inference mode, for which `unchanged` is false.
    """

    def __init__(self, *modules: nn.Module) -> None:
        parts = [part for module in modules for part in _modules(module)]
        self._members: list[dict[str, Any]] = [
            members
            for part in parts
            for members in (part._parameters, part._buffers, part._modules)
        ]
        # Kept, as nothing else gets the `id` of what is.
        self._kept = [tuple(members.values()) for members in self._members]
        self._tensors = [each for module in modules for each in tensors(module)]
        self._before = self._now()

    def unchanged(self) -> bool:
        now = self._now()
        return now is not None and now == self._before

    def _now(self) -> object:
        try:
            return (
                [*map(id, chain.from_iterable(map(dict.values, self._members)))],
                [*map(Tensor.data_ptr, self._tensors)],
                [*map(WRITES, self._tensors)],
            )
        except RuntimeError:  # of inference mode
            return None


class PerState(Generic[Module, Made]):
    """A function of a module, called again only after a change of the module's tensors."""

    def __init__(self, make: Callable[[Module], Made]) -> None:
        self._make = make
        self._kept: WeakKeyDictionary[Module, tuple[TensorState, Made]] = WeakKeyDictionary()

    def __call__(self, module: Module) -> Made:
        kept = self._kept.get(module)
        if kept is not None and kept[0].unchanged():
            return kept[1]
        made = self._make(module)
        self._kept[module] = TensorState(module), made
        return made
