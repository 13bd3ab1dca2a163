"""Spec dataclasses: how they are declared, what their fields take, and their plain trees."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast, dataclass_transform

import yaml
from pydantic import ConfigDict

from vqwave.config.parts import OpenTo, Part, find, is_path, name_by_path
from vqwave.errors import UserInputError

T = TypeVar("T")
Hint: TypeAlias = Any
"""A type annotation at run time."""
Tree: TypeAlias = Any
"""Plain dictionaries, lists and scalars, as YAML and JSON hold them; or one value inside."""
MISSING = dataclasses.MISSING


def option(*, default: Tree = MISSING, help: str = "") -> Any:  # noqa: ANN401 - stands for a value of the field's type
    """A field with a line for `--help`; a list or dict as default is copied for each instance.

    No default: required.
    """
    metadata = {"help": help}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field, option)
)
def spec(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that pydantic validates strictly: an unknown key is an
    error.

    A part without a `kind` of its own gets its place, `package.module:Name`.
    """
    name_by_path(cls)
    cls.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def to_tree(config: object) -> Tree:
    """Plain dictionaries, lists, strings and numbers that JSON and YAML can hold.

    >>> @spec
    ... class Mel:
    ...     bands: int = 80
    ...     range: tuple[float, float] = (20.0, 7600.0)
    >>> to_tree(Mel(bands=40))
    {'bands': 40, 'range': [20.0, 7600.0]}
    """
    if dataclasses.is_dataclass(config):
        return {
            f.name: to_tree(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init
        }
    if isinstance(config, Mapping):
        return {str(key): to_tree(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_tree(value) for value in config]
    return str(config) if isinstance(config, Path) else config


class _Dumper(yaml.SafeDumper):
    """Writes a list of scalars in one line, and repeats a value instead of pointing at it."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - yaml's
        return True

    def represent_list(self, data: list) -> yaml.Node:
        flat = not any(isinstance(item, list | dict) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _Dumper.represent_list)


def dump(config: object) -> str:
    """YAML text in the order of the fields, with `build(type(config), yaml.safe_load(dump(config)))
    == config`.
    """
    return yaml.dump(
        to_tree(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120
    )


def differences(a: Mapping[str, Tree], b: Mapping[str, Tree]) -> list[str]:
    """The dotted keys at which two trees differ, in the order of `a`, then of `b`.

    >>> differences({"optim": {"lr": 1e-3, "eps": 5}}, {"optim": {"lr": 1e-4, "eps": 5}, "seed": 0})
    ['optim.lr', 'seed']
    """
    keys = []
    for key in [*a, *(key for key in b if key not in a)]:
        if isinstance(a.get(key), Mapping) and isinstance(b.get(key), Mapping):
            keys += [f"{key}.{rest}" for rest in differences(a[key], b[key])]
        elif key not in a or key not in b or a[key] != b[key]:
            keys.append(str(key))
    return keys


@functools.cache
def hints(cls: type) -> dict[str, Hint]:
    """The types of a spec's settings by name."""
    all_hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: all_hints[field.name] for field in dataclasses.fields(cls) if field.init}


def arms(hint: Hint) -> list[Hint]:
    """The alternatives of a type: unions opened, `Annotated` taken off."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return arms(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return [arm for part in typing.get_args(hint) for arm in arms(part)]
    return [hint]


def specs(hint: Hint) -> list[type]:
    """The specs among the alternatives of a type."""
    return [arm for arm in arms(hint) if isinstance(arm, type) and dataclasses.is_dataclass(arm)]


def kind_of(cls: type) -> str | None:
    """The name that chooses this variant."""
    own: Any = next((f.default for f in dataclasses.fields(cls) if f.name == "kind"), None)
    return own


def open_base(hint: Hint) -> type[Part] | None:
    """What a spec from outside must be derived from to be taken for this type; None: none is."""
    if typing.get_origin(hint) is typing.Annotated:
        inside, *notes = typing.get_args(hint)
        return next((note.base for note in notes if isinstance(note, OpenTo)), open_base(inside))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(filter(None, map(open_base, typing.get_args(hint))), None)
    return None


def variant(hint: Hint, kind: object) -> type | None:
    """The spec among the alternatives of a type that `kind` chooses; a lone spec needs no kind."""
    candidates = specs(hint)
    if len(candidates) == 1:
        return candidates[0]
    chosen = next((cls for cls in candidates if kind_of(cls) == kind), None)
    base = open_base(hint)
    if chosen is not None or base is None or not is_path(kind):
        return chosen
    try:
        return find(str(kind), base)
    except UserInputError:  # reported where the settings are validated
        return None


def defaults(cls: type, instance: object) -> dict[str, Any]:
    """Each setting's default: from `instance` where it is of this variant, else the class's;
    MISSING if required.
    """
    if type(instance) is cls:
        return {name: getattr(instance, name) for name in hints(cast("Any", cls))}
    fields = [field for field in dataclasses.fields(cls) if field.init]
    return {
        f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields
    }


def steps(key: str) -> list[str | int]:
    """The names and places of a dotted key.

    >>> steps("features.parts[1].hop_ms")
    ['features', 'parts', 1, 'hop_ms']
    """
    return [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", key)]


def at(cls: type, tree: Tree, key: str) -> Hint:
    """The type of the setting that a dotted key names, by the kinds that `tree` chose; None where
    there is none.
    """
    hint: Hint = cls
    for name in steps(key):
        if isinstance(name, int):
            hint = next(
                (
                    typing.get_args(arm)[0]
                    for arm in arms(hint)
                    if typing.get_origin(arm) in (list, tuple)
                ),
                None,
            )
            tree = tree[name] if isinstance(tree, list) else None
            continue
        chosen = variant(hint, tree.get("kind")) if isinstance(tree, dict) else None
        hint = hints(chosen).get(name) if chosen else None
        tree = tree.get(name) if isinstance(tree, dict) else None
    return hint
