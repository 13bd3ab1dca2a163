"""Where settings come from: YAML files and the command line, as trees whose scalars are still text.

A plain scalar is read by the type of the field that takes it (in `settle`) and not by YAML's own
rules, which would make text of `3e-4` and False of `no`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import yaml

from vqwave.config.renamed import COMMAND_LINE
from vqwave.config.specs import Tree
from vqwave.errors import UserInputError, nearest

FLAGS = {
    "--dry-run": "print the resolved settings and what they build, then stop",
    "--restart": "start anew although the run folder holds a run",
    "--quiet": "no progress bar, only the last line",
}


class Text(str):
    """A scalar as it was typed, unquoted."""


class _Loader(yaml.SafeLoader):
    """Leaves plain scalars as text and refuses a key that is given twice."""

    yaml_implicit_resolvers: ClassVar[dict] = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - yaml's
    ) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(str(key.value))
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}

    def construct_text(self, node: yaml.ScalarNode) -> str:
        return Text(node.value) if node.style is None else node.value


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def read_flow(text: str) -> Tree:
    """`[8, 5]` or `{'a': 1}`, as Python and YAML both write them; text that only looks so stays
    text.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return Text(text)


def load(file: Path) -> dict[str, Tree]:
    """The settings in a YAML file.

    Raises UserInputError naming the file, and the line where there is one.
    """
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), _Loader)
        json.dumps(tree)
    except FileNotFoundError:
        raise UserInputError(f"{file}: no such file; expected a YAML file with settings") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "a character that YAML does not allow"
        raise UserInputError(
            f"{file}{f', line {mark.line + 1}' if mark else ''}: not valid YAML: {problem}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserInputError(
            f"{file}: cannot be read: {reason}; expected a YAML file with settings"
        ) from None
    except (TypeError, ValueError, RecursionError):
        raise UserInputError(
            f"{file}: found a tag or a loop of anchors; expected plain settings (key: value)"
        ) from None
    if tree is not None and not isinstance(tree, dict):
        given = "a list" if isinstance(tree, list) else repr(str(tree)[:40])
        raise UserInputError(f"{file}: expected settings (key: value), found {given}")
    return tree or {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What was typed: YAML files in order, flags, and the overrides as one tree, so that their
    order is free.
    """

    files: list[Path]
    flags: set[str]
    overrides: dict[str, Tree]


def split(argv: Sequence[str]) -> CommandLine:
    """Reads flags, `--config FILE`, `a.b=1`, `--a.b=1` and `--a.b 1`.

    Raises UserInputError for any other word.
    """
    words = list(argv)
    line = CommandLine(files=[], flags=set(), overrides={})
    while words:
        word = words.pop(0)
        if word in FLAGS:
            line.flags.add(word)
            continue
        if (new := COMMAND_LINE.get(word)) in FLAGS:
            raise UserInputError(f"{word}: is now {new}")
        key, equals, text = word.partition("=")
        name = key.removeprefix("--")
        if not all(name.split(".")) or not (equals or key.startswith("--")):
            flag = f"; did you mean --{name}?" if f"--{name}" in FLAGS else ""
            raise UserInputError(f"{word}: expected key=value, --key=value or --config FILE{flag}")
        if not equals and (not words or words[0].startswith("--")):
            raise UserInputError(
                f"{word}: found no value; expected {word}=VALUE{nearest(word, FLAGS, 1)}"
            )
        text = text if equals else words.pop(0)
        if name == "config":
            line.files.append(Path(text))
        else:
            _put(line.overrides, name, text)
    return line


def _put(tree: dict[str, Tree], key: str, text: str) -> None:
    *path, last = key.split(".")
    for name in path:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = read_flow(text) if text.startswith("{") else Text(text)


def merge(base: Tree, new: Tree) -> Tree:
    """`new` over `base`; a changed `kind` replaces the complete part, and an empty YAML section
    changes nothing.
    """
    if isinstance(base, dict) and isinstance(new, Text) and not new:
        return base
    if not (isinstance(base, dict) and isinstance(new, dict)):
        return new
    if "kind" in new and new["kind"] != base.get("kind"):
        return dict(new)
    return base | {key: merge(base.get(key), value) for key, value in new.items()}


def dotted_keys(tree: Tree, path: str = "") -> Iterator[str]:
    """Every dotted key in a tree, groups of settings too."""
    for name, value in tree.items() if isinstance(tree, dict) else ():
        key = f"{path}.{name}" if path else str(name)
        yield key
        yield from dotted_keys(value, key)
