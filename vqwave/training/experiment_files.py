"""The experiments and configurations that come with the package, by name.

A wheel carries them as `vqwave/_experiments` and `vqwave/_configs`; in a source tree they are the
folders `experiments` and `configs` next to the package.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqwave.errors import UserInputError, nearest

if TYPE_CHECKING:
    from vqwave.training.experiment import Experiment

PACKAGE = Path(__file__).parents[1]


def folder_of(kind: str, package: Path = PACKAGE) -> Path:
    """`kind`: experiments or configs. The packaged folder, else that of the source tree."""
    packaged = package / f"_{kind}"
    return packaged if packaged.is_dir() else package.parent / kind


def experiment_summaries() -> dict[str, str]:
    """Name -> first sentence of the file's docstring; nothing is imported."""
    files = sorted(folder_of("experiments").glob("[!_]*.py"))
    return {path.stem: _first_sentence(path) for path in files}


def _first_sentence(path: Path) -> str:
    text = path.read_text(encoding="utf-8").split('"""')[1].strip()
    return " ".join(text.split("\n\n", 1)[0].split())


def experiment_file(name: str) -> Path:
    """A name such as `vqvae`, or the path of a `.py` file. Raises UserInputError."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise UserInputError(f"{name}: no such file, expected an experiment")
        return Path(name)
    known = list(experiment_summaries())
    if name not in known:
        hint = nearest(name, known) or f", expected one of {', '.join(known)}, or a .py file"
        raise UserInputError(f"{name}: no such experiment{hint}")
    return folder_of("experiments") / f"{name}.py"


def load_experiment(name: str) -> type[Experiment[Any, Any]]:
    """The one experiment class that a file defines. Raises UserInputError."""
    from vqwave.training.experiment import Experiment

    path = experiment_file(name)
    module_name = f"vqwave_experiment_{path.stem}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise UserInputError(f"{path}: cannot be imported, expected a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_name] = module  # specs resolve their annotations by it
    module_spec.loader.exec_module(module)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Experiment)
        and value.__module__ == module_name
    ]
    if len(classes) != 1:
        raise UserInputError(f"{path}: defines {len(classes)} experiments, expected one")
    return classes[0]


def config_file(experiment: str, name: str) -> Path:
    """A YAML file, or the name of one of the experiment's configurations.

    Raises UserInputError for a name that is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    known = {file.stem: file for file in (folder_of("configs") / experiment).glob("*.yaml")}
    if name not in known:
        names = ", ".join(sorted(known)) or "none by name"
        hint = nearest(name, list(known)) or f" ({names})"
        raise UserInputError(
            f"--config {name}: no such file, and no configuration of {experiment}; expected a YAML"
            f" file or a name{hint}"
        )
    return known[name]


def with_config_files(experiment: str, argv: Sequence[str]) -> list[str]:
    """`argv` with each `--config NAME` replaced by the file. Raises UserInputError."""
    words, resolved = list(argv), []
    while words:
        word = words.pop(0)
        key, equals, value = word.partition("=")
        if key not in ("--config", "config") or not (equals or words):
            resolved.append(word)
            continue
        value = value if equals else words.pop(0)
        resolved += ["--config", str(config_file(experiment, value))]
    return resolved
