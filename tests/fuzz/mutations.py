"""Hostile variants of valid files: each is a function of a seed alone."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from vqwave.config.specs import Tree

HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 255, 1 << 31, 1 << 53, 1 << 63, 10**12, 10**30, 10**60,
    0.0, -0.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"),
    "", "x", "7", "nan", "x" * 300, "x" * 70_000, "../../../x", "/etc/passwd", "a.b", "a\0b",
    "a\nb", "\ud800", "\u202e", [], {}, [[]], [{}], [None], [1, 2, 3], {"kind": "x"}, {"": 1},
    {"a.b": 1},
)  # fmt: skip
WORDS = (
    b"\0",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\0" * 16,
    b"NaN",
    b"1e999",
    b"[" * 90,
)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
YAML = (
    BOMB, "[" * 2000, "- " * 500, "{" * 300, "a: &a [*a]\n", "a: &a {b: *a}\n", "? [a]\n: 1\n",
    "? {a: 1}\n: 1\n", "seed: !!int abc\n", "seed: !!float x\n", "seed: !!timestamp 7\n",
    "seed: !!python/object/apply:os.system [ls]\n", "seed: !!binary 7\n", "seed: !!set {a, b}\n",
    "seed: !!map 7\n", "seed: !!seq {a: 1}\n", "seed: !!null x\n", "seed: !!bool x\n", "seed: =\n",
    "seed: 2024-99-99\n", f"seed: {'9' * 5000}\n", "seed: 0x" + "f" * 300 + "\n", "a.b: 1\n",
    "encoder: {a.b: 1}\n", "encoder:\n  'x[0]': {y: 1}\n", "<<: 7\n", "<<: [1]\n", "a: *b\n",
    "".join(f"k{i}: 1\n" for i in range(3000)), "a: \0\n", "%YAML 9.9\n---\na: 1\n", "a: |\n\tb\n",
    "--- 1\n--- 2\n", "\ufeff\ufeffa: 1\n", "a: 1\na: 2\n", "1: {2: 3}\n", "null: 1\n",
    "true: [1]\n",
)  # fmt: skip


def any_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut, put in, or doubled at a few places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, how = rng.randrange(len(out) + 1), rng.randrange(7)
        if how == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[at : at + 1] = rng.randbytes(1)
        elif how == 2:
            del out[at:]
        elif how == 3:
            del out[at : at + rng.randrange(1, 9)]
        elif how == 4:
            out[at:at] = rng.choice(WORDS)
        elif how == 5:
            word = rng.choice(WORDS)
            out[at : at + len(word)] = word
        else:
            out[at:at] = out[at : at + rng.randrange(1, 200)]
    return bytes(out)


def places(tree: Tree, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value."""
    found = [here] if here else []
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        found += places(value, (*here, key))
    return found


def hostile_value(rng: random.Random) -> Any:  # noqa: ANN401
    """A copy: what is put into one tree is changed there."""
    return copy.deepcopy(rng.choice(HOSTILE))


def any_tree(tree: Tree, rng: random.Random) -> Tree:
    """Values replaced, left out, added or made deep at a few places.

    Deep at one of them, and nothing is copied afterwards: a tree of a thousand levels could neither
    be copied nor written.
    """
    tree, is_deep = copy.deepcopy(tree), False
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        every = places(tree)
        if not every or rng.random() < 0.02:
            return hostile_value(rng)
        *path, last = rng.choice(every)
        parent = tree
        for key in path:
            parent = parent[key]
        how = rng.randrange(8)
        if how < 4:
            parent[last] = hostile_value(rng)
        elif how == 4:
            del parent[last]
        elif how == 5 and isinstance(parent, dict):
            name = rng.choice(("", "kind", "a.b", "x" * 200, "type", "0", "more"))
            parent[name] = hostile_value(rng)
        elif how == 6 and not is_deep:
            *other, name = rng.choice(every)
            value = tree
            for key in (*other, name):
                value = value[key] if key in value or isinstance(value, list) else 0
                if not isinstance(value, dict | list):
                    break
            parent[last] = copy.deepcopy(value)
        else:
            deep: Any = 1
            for _ in range(3 if is_deep else rng.choice((3, 70, 400))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            parent[last], is_deep = deep, True
    return tree


def json_text(tree: Tree, rng: random.Random) -> bytes:
    """A hostile tree as JSON, or a text that is nearly that."""
    text = json.dumps(any_tree(tree, rng) if rng.random() < 0.85 else tree)
    if rng.random() < 0.05:
        text = text.replace(":", ":" + "9" * 5000, 1)
    if rng.random() < 0.05:
        text = text.replace("{", '{"a": 1, "a": 2, ', 1)
    data = text.encode()
    return any_bytes(data, rng) if rng.random() < 0.15 else data


def json_lines(rows: list[Any], rng: random.Random) -> bytes:
    """Lines, one of which is hostile."""
    bad = rng.randrange(len(rows))
    lines = [
        json_text(row, rng) if i == bad else json.dumps(row).encode() for i, row in enumerate(rows)
    ]
    data = b"\n".join(lines) + b"\n"
    return any_bytes(data, rng) if rng.random() < 0.1 else data


def yaml_text(tree: Tree, rng: random.Random) -> bytes:
    """Hostile settings: JSON is YAML; or a text of those that YAML has."""
    how = rng.random()
    if how < 0.25:
        return rng.choice(YAML).encode("utf-8", "replace")
    text = json.dumps(any_tree(tree, rng) if how < 0.8 else tree, indent=1)
    if how > 0.9:
        line = rng.choice(YAML).partition("\n")[0].partition(": ")[2] or "[" * 90
        text = text.replace(": ", f": {line} #", 1)
    data = text.encode()
    return any_bytes(data, rng) if rng.random() < 0.2 else data
