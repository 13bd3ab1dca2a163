"""Parts that a setting takes from anywhere on the path: `kind: package.module:Spec`."""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
import sys
from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from vqwave.errors import UserInputError, nearest

EXPECTED = "package.module:Spec"


class Part(ABC):
    """Base of the specs of one sort of part, such as quantizers.

    A concrete subclass that declares no `kind` of its own has the kind `package.module:Name`, by
    which settings and saved models name it.
    """

    part: ClassVar[str]
    """What it is called in messages."""
    kind: str
    """The name that chooses it."""


class Registry:
    """The specs from outside the package by their kinds, in the order of their definition."""

    def __init__(self) -> None:
        self.version = 0  # a schema that was made for an earlier one may lack specs
        self._specs: dict[str, type[Part]] = {}

    def add(self, cls: type[Part]) -> None:
        self._specs[cls.kind] = cls
        self.version += 1

    def of(self, base: type[Part]) -> list[type[Part]]:
        """Those of one sort."""
        return [cls for cls in self._specs.values() if issubclass(cls, base)]


REGISTRY = Registry()


@dataclass(frozen=True)
class OpenTo:
    """Annotation of a union of specs: it also takes any spec derived from `base`.

    `Annotated[A | B, OpenTo(Base)]` is `Annotated[A | B | ..., Field(discriminator="kind")]` with
    the specs that have been imported by then.
    """

    base: type[Part]

    def __get_pydantic_core_schema__(
        self,
        source: Any,  # noqa: ANN401 - a type expression
        handler: GetCoreSchemaHandler,
    ) -> CoreSchema:
        union = functools.reduce(operator.or_, REGISTRY.of(self.base), source)
        return handler.generate_schema(Annotated[union, Field(discriminator="kind")])


def is_path(kind: object) -> bool:
    """Whether a kind names a spec by its place."""
    return isinstance(kind, str) and ":" in kind


def name_by_path(cls: type) -> None:
    """Give a spec that declares no kind its place as kind; called before it becomes a dataclass."""
    if not issubclass(cls, Part) or inspect.isabstract(cls):
        return
    own = inspect.get_annotations(cls)
    if "kind" in own:
        return
    path = f"{_module_name(cls)}:{cls.__qualname__}"
    cls.__annotations__ = {"kind": Literal[path], **own}
    cls.kind = path
    REGISTRY.add(cls)


def _module_name(cls: type) -> str:
    """The name by which its module is imported, also where it runs as a script."""
    if cls.__module__ != "__main__":
        return cls.__module__
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return main.__spec__.name
    return Path(getattr(main, "__file__", None) or "__main__").stem


def find(kind: str, base: type[Part]) -> type[Part]:
    """The spec at a place such as `mine.quantizers:GridSpec`.

    Raises UserInputError, in one line, where its module cannot be imported, has no such name, or
    has something else under it.
    """
    module_name, _, name = kind.partition(":")
    module = _module(kind, module_name)
    value: Any = module
    for step in name.split("."):
        if not hasattr(value, step):
            specs = [key for key, value in vars(module).items() if isinstance(value, type)]
            raise UserInputError(
                f"kind {kind!r}: module {module_name} has no {name!r}, expected a spec of a"
                f" {base.part}{nearest(name, specs, 1)}"
            )
        value = getattr(value, step)
    # a subclass that is not decorated itself would pass for the spec that it is derived from
    own = isinstance(value, type) and "__pydantic_config__" in vars(value)
    if not own or not issubclass(value, base) or inspect.isabstract(value):
        raise UserInputError(
            f"kind {kind!r}: not a spec of a {base.part}, expected a class with @spec derived from"
            f" {base.__module__}.{base.__name__}"
        )
    return value


def _module(kind: str, name: str) -> ModuleType:
    main = sys.modules["__main__"]
    if main.__spec__ is None and Path(getattr(main, "__file__", None) or "").stem == name:
        return main  # a script that names a part of its own
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            reason = f"importing {name} failed: no module {error.name}"
        else:
            reason = f"there is no module {name} on the path, expected {EXPECTED} (PYTHONPATH=.)"
    except Exception as error:  # whatever the code of a module raises
        line = next(iter(str(error).splitlines()), "")
        reason = f"importing {name} failed: {type(error).__name__}: {line}"
    raise UserInputError(f"kind {kind!r}: {reason}")
