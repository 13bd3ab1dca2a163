"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import vqwave


def modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(vqwave.__path__, "vqwave.")]
    return ["vqwave", *(name for name in names if not name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("vqwave"):
            raise
        # that it may be missing is tests/test_architecture.py's matter
        pytest.skip(f"{error.name} is not installed")
    failed = doctest.testmod(
        module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    ).failed
    assert failed == 0, f"{failed} examples of {name} went wrong; see above"
