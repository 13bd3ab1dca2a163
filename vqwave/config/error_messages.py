"""The last check of a tree, and what is wrong with it in one line."""

from __future__ import annotations

import functools
import json
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from vqwave.config.help import every_key
from vqwave.config.parts import REGISTRY, Part, find, is_path
from vqwave.config.renamed import KINDS, new_key
from vqwave.config.specs import Tree, at, hints, kind_of, open_base, specs, steps, variant
from vqwave.config.yaml_layers import FLAGS
from vqwave.errors import UserInputError, nearest
from vqwave.parsing import short

T = TypeVar("T")

EXPECTED = {  # by the first word of pydantic's error types
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "dict": "named values",
    "dataclass": "a group of settings",
    "none": "null",
}


@functools.lru_cache(maxsize=64)
def _adapter(cls: Hashable, parts: int) -> TypeAdapter[Any]:  # noqa: ARG001 - of the cache
    """Of a config's class; parts: how many specs from outside it was made for."""
    return TypeAdapter(typing.cast("Any", cls))


def validate(cls: type[T], tree: Tree, sources: Mapping[str, str]) -> T:
    """The config of a settled tree.

    `sources` names the file that a dotted key came from. Raises UserInputError.
    """
    try:
        return _adapter(typing.cast("Hashable", cls), REGISTRY.version).validate_json(
            json.dumps(tree, default=str), strict=True
        )
    except ValidationError as error:
        problems: dict[str, list[dict[str, Any]]] = {}
        for detail in error.errors(include_url=False):
            key = _dotted(tree, detail["loc"])
            key += ".kind" if detail["type"].startswith("union_tag") else ""
            problems.setdefault(key, []).append(typing.cast("dict[str, Any]", detail))
        key, details = next(iter(problems.items()))
        lines = [_problem(cls, tree, key, detail) for detail in details]
        source = next((sources[part] for part in _prefixes(key) if part in sources), "")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        line = f"{key}: {_join(lines)}" if key else _join(lines)
        raise UserInputError(line + (f" (in {source})" if source else "") + more) from None


def _join(problems: list[str]) -> str:
    """One line for one key: a union has a problem for each alternative that did not fit."""
    start, tail = "expected ", ", found "
    if len(problems) == 1 or not all(line.startswith(start) and tail in line for line in problems):
        return problems[0]
    words = dict.fromkeys(line[len(start) : line.rindex(tail)] for line in problems)
    return start + " or ".join(words) + problems[0][problems[0].rindex(tail) :]


def _prefixes(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key[: max(key.rfind("."), key.rfind("["), 0)]


def _dotted(tree: Tree, location: Sequence[int | str]) -> str:
    """The key that pydantic means: its location without the names of variants and alternatives."""
    key, here, tagged = "", tree, False
    for place, part in enumerate(location):
        if (
            isinstance(here, dict)
            and not tagged
            and part == here.get("kind")
            and place + 1 < len(location)
        ):
            tagged = True
        elif isinstance(here, dict):
            key, here, tagged = f"{key}.{part}" if key else str(part), here.get(str(part)), False
        elif isinstance(here, list) and isinstance(part, int):
            key, here, tagged = f"{key}[{part}]", here[part] if part < len(here) else None, False
    return key


def _problem(cls: type, tree: Tree, key: str, detail: dict[str, Any]) -> str:
    error, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    word = EXPECTED.get(error.split("_")[0])
    if error in ("unexpected_keyword_argument", "extra_forbidden"):
        return _unknown(cls, tree, key)
    if error.startswith("union_tag"):
        hint = at(cls, tree, key.rpartition(".")[0])
        known = [str(kind_of(each)) for each in specs(hint)]
        name = given.get("kind") if isinstance(given, dict) else None
        base = open_base(hint)
        if base is not None and is_path(name):
            return _why_not(str(name), base)
        if KINDS.get(str(name)) in known:
            return f"kind {name!r} is called {KINDS[str(name)]!r} now"
        return f"unknown kind {name!r}; expected {' or '.join(known)}{nearest(str(name), known, 1)}"
    if error == "missing":
        return "found no value, and it has no default"
    if error == "value_error":
        return str(context["error"])
    if error == "literal_error":
        return f"expected {context['expected']}, found {short(given)}"
    if error == "too_long":
        return f"expected {context['max_length']} values, found {context['actual_length']}"
    return (
        f"expected {word}, found {short(given)}"
        if word
        else f"{detail['msg'].replace('Input ', '')}, found {short(given)}"
    )


def _why_not(kind: str, base: type[Part]) -> str:
    """What is wrong with a kind that names a spec by its place."""
    try:
        return f"kind {find(kind, base).kind!r} was imported too late"
    except UserInputError as error:
        return str(error)


def _unknown(cls: type, tree: Tree, key: str) -> str:
    if f"--{key}" in FLAGS:
        return f"a flag takes no value; did you mean --{key}?"
    parent, _, last = key.rpartition(".")
    hint = at(cls, tree, parent)
    variants = specs(hint)
    here = tree
    for step in steps(parent):
        inside = isinstance(here, dict) or (isinstance(here, list) and step in range(len(here)))
        here = here.get(step) if isinstance(here, dict) else here[step] if inside else None
    chosen = variant(hint, here.get("kind") if isinstance(here, dict) else None)
    if last in (retired := getattr(chosen, "retired", {})):
        return f"is a setting no more: {retired[last]}; expected without it"
    renamed = None if chosen is None else new_key(chosen, last)
    if renamed is not None:
        return f"is called {f'{parent}.{renamed}' if parent else renamed} now"
    elsewhere = [str(kind_of(each)) for each in variants if last in hints(each)]
    if elsewhere:
        return f"unknown key here; it belongs to {parent}.kind={' or '.join(elsewhere)}"
    siblings = [f"{parent}.{name}" if parent else name for name in hints(chosen)] if chosen else []
    known = list(every_key(cls))
    same = [name for name in known if name.rpartition(".")[2] == last]
    proposal = nearest(key, siblings, 1) or (
        f"; did you mean {same[0]}?" if same else nearest(key, known, 1)
    )
    return f"unknown key{proposal}"
