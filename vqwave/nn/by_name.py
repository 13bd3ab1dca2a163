"""Modules by the names of labels, which may be any text."""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator, KeysView

from torch import nn

# what a module assigns to itself as an attribute, and so cannot be the name of another
ASSIGNED = "training"
ESCAPES = {"%2E": ".", "%25": "%", "%74": "t"}
ESCAPED = re.compile("|".join(ESCAPES))


class ModulesByName(nn.ModuleDict):
    """A ModuleDict whose keys may be any text: `type` or `keys`, which it has as methods, and names
    with dots, which separate the names of parameters.

    The parameters of a name without a dot are called as in a ModuleDict. A dot is escaped (`%2E`).

    >>> list(ModulesByName({"type": nn.Identity(), "a.b": nn.Identity()}))
    ['type', 'a.b']
    """

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_inner(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        # add_module refuses what is an attribute already, which the attribute hides here
        self._modules[_inner(key)] = module

    def __delitem__(self, key: str) -> None:
        super().__delitem__(_inner(key))

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and _inner(key) in self._modules

    def __iter__(self) -> Iterator[str]:
        return map(_outer, self._modules)

    def keys(self) -> KeysView[str]:
        return dict.fromkeys(self).keys()

    def items(self) -> ItemsView[str, nn.Module]:
        return {key: self[key] for key in self}.items()


def _inner(name: str) -> str:
    """The name of the submodule: without dots, of each text another."""
    if name == ASSIGNED:
        return "%74" + name[1:]
    if name in ("", "%") or "." in name or ESCAPED.search(name):
        return name.replace("%", "%25").replace(".", "%2E") or "%"
    return name


def _outer(inner: str) -> str:
    return "" if inner == "%" else ESCAPED.sub(lambda match: ESCAPES[match[0]], inner)
