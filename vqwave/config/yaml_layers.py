"""Where settings come from: YAML files and the command line, as trees whose scalars are still text.

A plain scalar is read by the type of the field that takes it (in `settle`) and not by YAML's own
rules, which would make text of `3e-4` and False of `no`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import yaml

from vqwave import parsing
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


class _Loader(parsing.YamlLoader):
    """Leaves plain scalars as text."""

    yaml_implicit_resolvers: ClassVar[dict] = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}

    def construct_mapping(
        self,
        node: yaml.MappingNode,
        deep: bool = False,  # noqa: FBT001, FBT002 - yaml's
    ) -> dict:
        tree = {str(key): value for key, value in super().construct_mapping(node, deep).items()}
        for key in tree:
            if not key or set(key) & set(".[]"):
                raise yaml.MarkedYAMLError(
                    problem=f"key {key[:60]!r}, expected a name without dots and brackets:"
                    " settings lie inside one another",
                    problem_mark=node.start_mark,
                )
        return tree

    def construct_text(self, node: yaml.ScalarNode) -> str:
        return Text(node.value) if node.style is None else node.value


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def read_flow(text: str) -> Tree:
    """`[8, 5]` or `{'a': 1}`, as Python and YAML both write them; text that only looks so stays
    text.
    """
    try:
        return parsing.parse_yaml(text, _Loader)
    except yaml.YAMLError:
        return Text(text)


def load(file: Path) -> dict[str, Tree]:
    """The settings in a YAML file.

    Raises UserInputError naming the file, and the line where there is one.
    """
    tree = parsing.read_yaml(file, "settings (key: value)", _Loader)
    problem = _not_plain(tree)
    if problem:
        raise UserInputError(f"{file}: {problem}; expected plain settings (key: value)")
    return tree


def _not_plain(tree: Tree) -> str:
    """What settings cannot hold, such as a date; empty if there is nothing of the kind."""
    if isinstance(tree, dict | list):
        inside = tree.values() if isinstance(tree, dict) else tree
        return next(filter(None, map(_not_plain, inside)), "")
    plain = tree is None or isinstance(tree, str | int | float | bool)
    return "" if plain else f"found a tag of {type(tree).__name__}"


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
