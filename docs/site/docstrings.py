"""Docstrings as Markdown: doctests and formulas become blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

FORMULA = ".. math::"


def _blocks(lines: list[str]) -> Iterator[str]:
    """The lines, with fences around doctests and formulas."""
    opened = ""  # the language of the open fence
    for line in lines:
        text = line.strip()
        ends_doctest = opened == "pycon" and not text
        ends_formula = opened == "text" and bool(text) and not line.startswith("    ")
        if ends_doctest or ends_formula:
            yield "```"
            opened = ""
        if not opened and text.startswith((">>>", FORMULA)):
            opened = "pycon" if text.startswith(">>>") else "text"
            yield f"```{opened}"
            text = text.removeprefix(FORMULA).strip()
            if not text:
                continue
        yield text if opened else line
    if opened:
        yield "```"


def readable(docstring: str) -> str:
    """A docstring as Markdown."""
    text = "\n".join(_blocks(docstring.splitlines()))
    text = re.sub(r":math:`([^`]*)`", r"`\1`", text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Readable(griffe.Extension):
    """Rewrites every docstring when it has been collected."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401 - griffe's
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
