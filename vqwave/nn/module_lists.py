"""Modules by their type, which torch's annotations lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


def elements(modules: nn.ModuleList, kind: type[M]) -> Sequence[M]:  # noqa: ARG001 - for type checkers
    """The same object, as a sequence of modules of one kind."""
    return cast("Sequence[M]", modules)


def submodules(module: nn.Module, kind: type[M]) -> Iterator[M]:
    """All modules of one kind in a module, itself among them."""
    return (part for part in module.modules() if isinstance(part, kind))
