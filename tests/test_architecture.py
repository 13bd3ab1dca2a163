"""The architecture holds: import levels, lazy optional packages, sizes.

Sources are read; nothing is imported.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "terminal", "names", "failures", "atomic_files", "inputs", "parsing"),
    ("config", "distributed", "audio", "codes"),
    ("rng", "pitch_tracking", "features", "speaker_encoder", "distributions"),
    ("data", "nn"),
    ("models", "metrics"),
    ("losses", "decode"),
    ("inference", "training", "evaluation"),
    ("export", "report"),
    ("sweep", "bench", "app", "__init__", "cli", "__main__"),
)
"""A package imports from lower levels and from packages earlier in its own level."""

ORDER = [package for level in LEVELS for package in level]
OPTIONAL = {
    "constriction",
    "datasets",
    "espeakng_loader",
    "faster_whisper",
    "gradio",
    "jiwer",
    "lhotse",
    "matplotlib",
    "numba",
    "onnx",
    "onnxruntime",
    "optuna",
    "parselmouth",
    "pesq",
    "pystoi",
    "resemblyzer",
    "speechmos",
    "swift_f0",  # always installed, but a quarter of a second to import
    "tensorboard",
    "triton",
    "webdataset",
    "wandb",  # always installed, but a second and more to import
}
VAGUE = {"utils", "helpers", "common", "misc", "util", "helper"}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_EXPERIMENT = 540, 90, 300


@dataclass(frozen=True)
class Import:
    """One imported module; `eager` if it is loaded as soon as the importing module is."""

    target: str
    eager: bool


@dataclass(frozen=True)
class Module:
    """A source file by its dotted name."""

    path: str
    source: str

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def package(self) -> str:
        """The package or module right below `vqwave`."""
        return self.path.removesuffix(".py").split("/")[1]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def import_nodes(self) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
        """Each import, and whether it is eager."""
        return list(_import_nodes(self.tree, True))

    def imports(self, known: Iterable[str]) -> Iterator[Import]:
        """Every import, also inside functions; `known` tells a submodule from a name in `from
        package import x`.
        """
        for node, eager in self.import_nodes:
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, eager) for alias in node.names)
            elif node.level:
                raise AssertionError(f"{self.path}: a relative import; write it out")
            else:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield Import(full if full in known else str(node.module), eager)


def _import_nodes(node: ast.AST, eager: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, eager
            continue
        caught = (
            [ast.unparse(h.type) for h in child.handlers if h.type]
            if isinstance(child, ast.Try)
            else []
        )
        guarded = "ImportError" in caught or "ModuleNotFoundError" in caught
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _import_nodes(child, eager and not (guarded or typing_only or inside))


def breaches(sources: dict[str, str]) -> list[str]:
    """Everything that is wrong with these files (path from the repository root -> source)."""
    modules = [Module(path, source) for path, source in sorted(sources.items())]
    checks = (_level_breaches, _cycles, _eager_options, _experiments, _sizes)
    return [breach for check in checks for breach in check(modules)]


def _package(modules: list[Module]) -> list[Module]:
    return [module for module in modules if module.path.startswith("vqwave/")]


def _level_breaches(modules: list[Module]) -> Iterator[str]:
    known = {module.name for module in modules}
    level = {name: depth for depth, names in enumerate(LEVELS) for name in names}
    for module in _package(modules):
        if module.package not in level:
            yield f"{module.path}: {module.package} is in no level"
            continue
        for item in module.imports(known):
            parts = item.target.split(".")
            if parts[0] == "experiments":
                yield f"{module.path}: imports {item.target}"
            if parts[0] != "vqwave":
                continue
            package = parts[1] if len(parts) > 1 else "__init__"
            if package not in level:
                yield f"{module.path}: imports {item.target}, which is in no level"
            elif package != module.package and ORDER.index(package) > ORDER.index(module.package):
                yield (
                    f"{module.path} (level {level[module.package]}) imports {item.target} (level"
                    f" {level[package]})"
                )


def _cycles(modules: list[Module]) -> Iterator[str]:
    known = {module.name for module in modules}
    graph = {
        m.name: {i.target for i in m.imports(known) if i.target in known} for m in _package(modules)
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"imports in a circle: {' <- '.join(error.args[1])}"


def _eager_options(modules: list[Module]) -> Iterator[str]:
    """No module loads an optional package at its top, by itself or by way of what it loads; what is
    loaded late may.
    """
    known = {module.name for module in modules}
    eager = {m.name: {item.target for item in m.imports(known) if item.eager} for m in modules}
    needs = {
        name: {target.split(".")[0] for target in targets} & OPTIONAL
        for name, targets in eager.items()
    }
    changed = True
    while changed:
        before = {name: set(found) for name, found in needs.items()}
        for name, targets in eager.items():
            needs[name] |= set().union(*(needs.get(target, set()) for target in targets))
        changed = needs != before
    for module in modules:
        if needs[module.name] and module.name.count(".") <= 1:
            yield (
                f"{module.path}: loads {', '.join(sorted(needs[module.name]))} at its top; it is"
                " optional"
            )


def _experiments(modules: list[Module]) -> Iterator[str]:
    scripts = [module for module in modules if module.path.startswith("experiments/")]
    names = {Path(module.path).stem for module in scripts}
    for module in scripts:
        for item in module.imports({m.name for m in modules}):
            first = item.target.split(".")[0]
            if first == "experiments" or first in names:
                yield (
                    f"{module.path}: imports {item.target}; experiments import vqwave alone, never"
                    " each other"
                )
        lines = len(module.source.splitlines())
        if lines > LONGEST_EXPERIMENT:
            yield f"{module.path}: {lines} lines; an experiment has at most {LONGEST_EXPERIMENT}"


def _sizes(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        lines = len(module.source.splitlines())
        if lines > LONGEST_FILE:
            yield f"{module.path}: {lines} lines; at most {LONGEST_FILE}"
        if Path(module.path).stem in VAGUE:
            yield f"{module.path}: a file is named for what it holds"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    yield (
                        f"{module.path}: {node.name} has {length} lines; at most {LONGEST_FUNCTION}"
                    )


def test_the_tree_is_sound() -> None:
    files = [path for folder in ("vqwave", "experiments") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 20
    found = breaches(
        {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    )
    assert not found, "\n".join(found)


SOUND = {
    "vqwave/errors.py": "",
    "vqwave/audio.py": (
        "from vqwave.errors import UserInputError\ntry:\n    import numba\nexcept ImportError:\n   "
        " pass"
    ),
    "vqwave/nn/__init__.py": "from vqwave.nn.causal import CausalConv",
    "vqwave/nn/causal.py": "import torch",
    "vqwave/data/__init__.py": (
        "def f() -> None:\n    import matplotlib\n    from vqwave.data import espeak"
    ),
    "vqwave/data/espeak.py": "import espeakng_loader",
    "vqwave/models/__init__.py": "from vqwave.nn import CausalConv",
    "experiments/vqvae.py": "import torch\nfrom vqwave.models import VQVAE",
}


def test_a_sound_tree_passes() -> None:
    assert breaches(SOUND) == []


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        (
            "vqwave/nn/flows.py",
            "from vqwave.models import VQVAE",
            r"flows.py \(level 3\) imports vqwave.models \(level 4\)",
        ),
        ("vqwave/nn/flows.py", "def f():\n    from vqwave import models", "level 4"),
        ("vqwave/data/shards.py", "from vqwave.nn.causal import CausalConv", "level 3"),
        ("vqwave/nn/flows.py", "import vqwave", "level 8"),
        ("vqwave/nn/causal.py", "from vqwave.nn import flows", "in a circle"),
        ("vqwave/other.py", "", "in no level"),
        ("vqwave/nn/flows.py", "from vqwave.other import Part", "in no level"),
        (
            "vqwave/report.py",
            "import matplotlib.pyplot as plt",
            "vqwave/report.py: loads matplotlib",
        ),
        (
            "vqwave/report.py",
            "from vqwave.data import espeak",
            "vqwave/report.py: loads espeakng_loader",
        ),
        ("vqwave/nn/utils.py", "", "named for what it holds"),
        ("vqwave/nn/flows.py", "\n" * 541, "541 lines"),
        ("vqwave/nn/flows.py", "def f():\n" + "    x = 1\n" * 90, "f has 91 lines"),
        ("experiments/distill.py", "from vqvae import Experiment", "never each other"),
        ("experiments/distill.py", "\n" * 301, "at most 300"),
    ],
)
def test_a_breach_is_found(path: str, source: str, complaint: str) -> None:
    tree = {**SOUND, path: source}
    if path == "vqwave/nn/causal.py":
        tree["vqwave/nn/flows.py"] = "from vqwave.nn import causal"
    with pytest.raises(AssertionError, match=complaint):
        assert not breaches(tree), "\n".join(breaches(tree))


def test_relative_imports_are_refused() -> None:
    with pytest.raises(AssertionError, match="relative import"):
        breaches({**SOUND, "vqwave/nn/flows.py": "from .causal import CausalConv"})
