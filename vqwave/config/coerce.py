"""From text to values: each scalar is read by the type of its field, and what a tree leaves out
takes its default.
"""

from __future__ import annotations

import types
import typing
from pathlib import Path

from vqwave.config.parts import is_path
from vqwave.config.specs import (
    MISSING,
    Hint,
    Tree,
    arms,
    defaults,
    hints,
    kind_of,
    specs,
    to_tree,
    variant,
)
from vqwave.config.yaml_layers import Text, read_flow


def settle(hint: Hint, value: Tree, default: Tree = MISSING) -> Tree:
    """The tree with its texts read and its gaps filled; what does not fit stays as it is, for
    `problems` to report.

    `default` is the value that the field would have: it gives the kind, and the settings of that
    kind.
    """
    if isinstance(value, Text):
        return _read(hint, value)
    if isinstance(value, dict):
        cls = variant(hint, value.get("kind", getattr(default, "kind", None)))
        if cls:
            return _settle_spec(cls, value, default)
        inside = _inside(hint, dict)
        return {key: settle(inside[1], item) if inside else item for key, item in value.items()}
    if isinstance(value, list | tuple):
        inside = _inside(hint, list, tuple)
        alike = len(inside) == 1 or inside[1:] == (...,)
        each = [inside[0]] * len(value) if alike else [*inside, *[str] * len(value)]
        return [settle(item_hint, item) for item_hint, item in zip(each, value, strict=False)]
    return value


def _settle_spec(cls: type, value: dict[str, Tree], default: Tree) -> dict[str, Tree]:
    filled = {}
    for name, fallback in defaults(cls, default).items():
        if name in value:
            filled[name] = settle(hints(cls)[name], value[name], fallback)
        elif fallback is not MISSING:
            filled[name] = to_tree(fallback)
    if is_path(filled.get("kind")):
        filled["kind"] = kind_of(cls)  # a spec may be named by a module that only imports it
    return filled | {name: item for name, item in value.items() if name not in filled}


def _inside(hint: Hint, *origins: type) -> tuple[Hint, ...]:
    """The types of the items, where the type is a list, tuple or dict of something."""
    return next(
        (typing.get_args(arm) for arm in arms(hint) if typing.get_origin(arm) in origins), ()
    )


def _read(hint: Hint, text: Text) -> Tree:
    """The value that `text` has in a field of this type; plain text where it has none."""
    choices = arms(hint)
    if types.NoneType in choices and text in ("None", "null", "~", ""):
        return None
    if text[:1] in ("[", "{") and (specs(hint) or _inside(hint, list, tuple, dict)):
        inside = read_flow(text)
        return str(text) if isinstance(inside, Text) else settle(hint, inside)
    for arm in sorted(choices, key=lambda arm: arm in (str, Path)):
        value = _read_scalar(arm, text)
        if value is not None:
            return value
    return str(text)


def _read_scalar(arm: Hint, text: str) -> str | int | float | bool | None:
    """The value that `text` has as this type, or None."""
    if typing.get_origin(arm) is typing.Literal:
        same = [choice for choice in typing.get_args(arm) if str(choice).lower() == text.lower()]
        return same[0] if same else None
    if arm is bool:
        return {"true": True, "false": False}.get(text.lower())
    if arm not in (int, float):
        return str(text) if arm in (str, Path) else None
    try:
        return arm(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        return _whole(text) if arm is int else None


def _whole(text: str) -> int | None:
    """64 for `64.0` or `6.4e1`, as a sweep may write a whole number."""
    try:
        return int(float(text)) if float(text) % 1 == 0 else None
    except ValueError:
        return None
