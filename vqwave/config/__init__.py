"""Typed configuration: frozen dataclasses, YAML layers, dotted overrides.

A spec is a frozen dataclass next to the module that it builds::

    @spec
    class OptimSpec:
        lr: float = option(default=3e-4, help="learning rate")
        betas: tuple[float, float] = (0.9, 0.95)

Variants are a union that `kind` discriminates: `Annotated[A | B, Field(discriminator="kind")]`.
`Annotated[A | B, OpenTo(Base)]` also takes a spec from elsewhere, `kind: package.module:Spec`, if
it is derived from `Base`.
Settings come from the defaults, then from the YAML files of `--config` in order, then from `a.b=1`,
`--a.b=1` or `--a.b 1` on the command line. A changed `kind` replaces the complete part, so that the
settings of the old variant never reach the new one; dictionaries merge by key. The types of a
spec's fields are read at run time: import them outside `TYPE_CHECKING`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from vqwave.config.coerce import settle
from vqwave.config.error_messages import validate
from vqwave.config.help import help_text
from vqwave.config.parts import OpenTo, Part
from vqwave.config.specs import Tree, differences, dump, option, spec, to_tree
from vqwave.config.yaml_layers import dotted_keys, load, merge, split
from vqwave.terminal import output

__all__ = [
    "OpenTo",
    "Part",
    "Request",
    "build",
    "differences",
    "dump",
    "help_text",
    "option",
    "parse",
    "spec",
    "to_tree",
]

T = TypeVar("T")


@spec
class Request(Generic[T]):
    """What a command line asks for: the config and the three flags."""

    config: T
    dry_run: bool = False
    restart: bool = False
    quiet: bool = False


def parse(
    cls: type[T], argv: Sequence[str], *, program: str = "", description: str = ""
) -> Request[T]:
    """Reads `argv` (without the program's name) into a config of type `cls`.

    `--help` prints every setting and leaves with status 0. Raises UserInputError: one line with the
    key, what was found, what is expected, and the YAML file where that is the culprit.

    >>> @spec
    ... class Train:
    ...     steps: int = 100
    ...     lr: float = 3e-4
    >>> parse(Train, ["steps=64.0", "--lr", "1e-05", "--dry-run"])
    Request(config=Train(steps=64, lr=1e-05), dry_run=True, restart=False, quiet=False)
    """
    if {"-h", "--help"} & set(argv):
        output(help_text(cls, program, description))
        raise SystemExit(0)
    line = split(argv)
    tree = settle(cls, {})
    sources: dict[str, str] = {}
    for layer, source in [*((load(file), str(file)) for file in line.files), (line.overrides, "")]:
        sources |= dict.fromkeys(dotted_keys(layer), source)
        tree = settle(cls, merge(tree, layer))
    return Request(
        config=validate(cls, tree, sources),
        dry_run="--dry-run" in line.flags,
        restart="--restart" in line.flags,
        quiet="--quiet" in line.flags,
    )


def build(cls: type[T], tree: Mapping[str, Tree]) -> T:
    """The config of a plain tree, such as the one in a run folder; what is absent takes its
    default. Raises UserInputError.

    >>> @spec
    ... class Train:
    ...     steps: int = 100
    >>> build(Train, {"steps": 7})
    Train(steps=7)
    """
    return validate(cls, settle(cls, dict(tree)), {})
