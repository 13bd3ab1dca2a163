"""The text of `--help`: every setting with its type and default, once for each variant that has
it.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

from vqwave.config.parts import EXPECTED, is_path
from vqwave.config.specs import (
    MISSING,
    Hint,
    Tree,
    arms,
    defaults,
    hints,
    kind_of,
    open_base,
    specs,
    to_tree,
)
from vqwave.config.yaml_layers import FLAGS

WIDEST = (44, 22, 24)  # columns key, type, default: a wider cell pushes its line, not the table


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    key: str
    type: str
    default: str
    help: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Section:
    title: str
    rows: list[_Row]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """A field that holds settings of its own."""

    path: str
    variants: Sequence[type]
    default: Tree

    def title(self, cls: type) -> str:
        text = self.path
        if len(self.variants) > 1:
            text += f" (kind={kind_of(cls)}{', the default' if type(self.default) is cls else ''})"
        about = (cls.__doc__ or "").strip().partition("\n")[0]
        automatic = about.startswith(f"{cls.__name__}(")
        return text if automatic or not about else f"{text}: {about}" if text else about


def _sections(part: _Part, above: tuple[type, ...] = ()) -> Iterator[_Section]:
    """The settings of each variant of a part, then of the parts inside it; a part inside itself is
    listed once.
    """
    for cls in part.variants:
        rows: list[_Row] = []
        inner: list[_Part] = []
        notes = {field.name: field.metadata.get("help", "") for field in dataclasses.fields(cls)}
        values = defaults(cls, part.default)
        for name, hint in hints(cls).items():
            if name == "kind" and len(part.variants) > 1:
                continue  # listed once, above its variants
            path = f"{part.path}.{name}" if part.path else name
            row = _Row(
                key=path, type=_type_text(hint), default=_shown(values[name]), help=notes[name]
            )
            if not specs(hint):
                rows.append(row)
                continue
            if types.NoneType in arms(hint):
                rows.append(row)
            if len(specs(hint)) > 1:
                kinds = [str(kind_of(each)) for each in specs(hint)]
                kinds += [] if open_base(hint) is None else [EXPECTED]
                rows.append(dataclasses.replace(row, key=f"{path}.kind", type="|".join(kinds)))
            open_parts = [each for each in specs(hint) if each not in (*above, cls)]
            if is_path(getattr(values[name], "kind", None)):
                open_parts.append(type(values[name]))
            inner.append(_Part(path=path, variants=open_parts, default=values[name]))
        yield _Section(title=part.title(cls), rows=rows)
        for each in inner:
            yield from _sections(each, (*above, cls))


def _shown(value: Tree) -> str:
    if value is MISSING:
        return "required"
    if dataclasses.is_dataclass(value):
        return str(getattr(value, "kind", "given"))
    return str(value) if isinstance(value, Path | str) else json.dumps(to_tree(value))


def _type_text(hint: Hint) -> str:
    words = []
    for arm in arms(hint):
        origin, inside = typing.get_origin(arm), typing.get_args(arm)
        if origin is typing.Literal:
            words += [str(choice) for choice in inside]
        elif origin in (list, tuple):
            words.append(
                "[" + ", ".join("..." if each is ... else _type_text(each) for each in inside) + "]"
            )
        elif origin is dict:
            words.append(f"{{name: {_type_text(inside[1])}}}")
        elif arm is types.NoneType:
            words.append("null")
        else:
            words.append(
                "settings"
                if dataclasses.is_dataclass(arm)
                else getattr(arm, "__name__", str(arm)).lower()
            )
    return "|".join(dict.fromkeys(words))


def every_key(cls: type) -> Iterator[str]:
    """Every dotted key that a config of this type may have, whatever its kinds."""
    for section in _sections(_Part(path="", variants=[cls], default=None)):
        yield from (row.key for row in section.rows)


def help_text(cls: type, program: str = "", description: str = "") -> str:
    """The flags, then a table of settings; `program` is the script's name."""
    flags = {
        "--config FILE": "settings in YAML; may be given again, later files win",
        **FLAGS,
        "--help": "this text",
    }
    lines = [
        f"usage: {program or 'PROGRAM'} [--config FILE] [key=value ...] [{'] ['.join(FLAGS)}]",
        "",
    ]
    lines += [description.strip(), ""] if description.strip() else []
    lines += [f"  {flag:16} {text}" for flag, text in flags.items()]
    lines += [
        "",
        "Settings, as key=value, --key=value or --key value; each with its type and default:",
    ]
    sections = list(_sections(_Part(path="", variants=[cls], default=None)))
    cells = [(row.key, row.type, row.default) for section in sections for row in section.rows]
    widths = [min(max(len(row[k]) for row in cells), widest) for k, widest in enumerate(WIDEST)]
    for section in sections:
        lines += ["", section.title] if section.title else [""]
        for row in section.rows:
            columns = zip((row.key, row.type, row.default), widths, strict=True)
            lines.append(
                (
                    "  " + "  ".join(f"{text:{width}}" for text, width in columns) + "  " + row.help
                ).rstrip()
            )
    return "\n".join(lines)
