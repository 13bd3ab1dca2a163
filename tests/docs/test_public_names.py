"""The ten names of `import vqwave`: there for people, for editors and for type checkers."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vqwave

TREE = ast.parse(Path(vqwave.__file__).read_text(encoding="utf-8"))


def test_every_public_name_is_there_and_listed() -> None:
    assert set(vqwave.__all__) <= set(dir(vqwave))
    for name in vqwave.__all__:
        assert getattr(vqwave, name).__name__.rsplit(".", 1)[-1] == name


def test_type_checkers_see_the_same_names() -> None:
    conditions = [node for node in TREE.body if isinstance(node, ast.If)]
    (block,) = (node for node in conditions if ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == vqwave._MODULES
    assert sorted(imported) == sorted(vqwave.__all__)


def test_another_name_is_none() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Codec'"):
        vqwave.Codec  # noqa: B018 - looked up
