"""A sweep file, the same that `wandb sweep` takes: read, checked, and turned into the command of
each trial.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vqwave.errors import UserInputError, nearest
from vqwave.sweep.space import Parameter, draw, grid, read_parameters

KEYS = {
    "program",
    "method",
    "metric",
    "parameters",
    "command",
    "name",
    "description",
    "project",
    "entity",
    "run_cap",
}
COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
MACRO = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Plan:
    """A sweep file.

    `metric` is a name in `metrics.jsonl`; `cap` is the file's own `run_cap`; `tree` is all that was
    read.
    """

    file: Path
    program: str
    method: str
    metric: str
    minimize: bool
    parameters: list[Parameter]
    command: list[str]
    cap: int | None
    tree: dict[str, Any]
    notes: list[str]

    def trials(self, count: int | None, seed: int) -> list[dict[str, Any]]:
        """The values of each trial: all of a grid unless `count` is less; as many draws as `count`
        (or `run_cap`) says.
        """
        count = count or self.cap
        if self.method == "grid":
            return grid(self.parameters)[:count]
        if count is None:
            raise UserInputError(
                f"{self.file}: method random has no end; expected --count N, or run_cap in the file"
            )
        return [draw(self.parameters, seed, trial) for trial in range(count)]

    def words(self, values: dict[str, Any]) -> list[str]:
        """The command line of a trial, word by word, as wandb's agent would build it."""
        pairs = list(values.items())
        words = {
            "env": ["/usr/bin/env"],
            "interpreter": [sys.executable],
            "program": [self.program],
            "args": [f"--{name}={value}" for name, value in pairs],
            "args_no_hyphens": [f"{name}={value}" for name, value in pairs],
            "args_no_equals": [word for name, value in pairs for word in (f"--{name}", str(value))],
        }
        found: list[str] = []
        for part in self.command:
            if part.startswith("${") and part.endswith("}") and not MACRO.search(part):
                if part[2:-1] not in words:
                    raise UserInputError(
                        f"{self.file}: command: {part}, expected"
                        f" {', '.join(f'${{{name}}}' for name in words)}"
                    )
                found += words[part[2:-1]]
            else:
                found.append(MACRO.sub(lambda match: os.environ.get(match[1], match[1]), part))
        return found


def read(file: Path) -> Plan:
    """Raises UserInputError, naming the file and the key."""
    tree = _load(file)
    notes = []
    if tree.pop("early_terminate", None) is not None:
        notes.append("early_terminate needs wandb's server: left out, every trial runs to its end")
    for key in tree:
        if key not in KEYS:
            raise UserInputError(f"{file}: {key}: no such key of a sweep{nearest(str(key), KEYS)}")
    for key in ("program", "method", "metric", "parameters"):
        if key not in tree:
            raise UserInputError(
                f"{file}: no {key}, expected program, method, metric and parameters"
            )
    method = tree["method"]
    if method == "bayes":
        raise UserInputError(
            f"{file}: method bayes needs wandb's server (wandb sweep {file}); expected grid or"
            " random here"
        )
    if method not in ("grid", "random"):
        raise UserInputError(f"{file}: method {method!r}, expected grid or random")
    try:
        parameters = read_parameters(tree["parameters"])
    except UserInputError as error:
        raise UserInputError(f"{file}: {error}") from None
    name, minimize = _metric(file, tree["metric"])
    cap = tree.get("run_cap")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        raise UserInputError(f"{file}: run_cap: {cap!r}, expected a whole number from 1 on")
    command = _command(file, tree.get("command", COMMAND))
    return Plan(
        file, str(tree["program"]), method, name, minimize, parameters, command, cap, tree, notes
    )


def _load(file: Path) -> dict[str, Any]:
    """The file by YAML's own rules, as wandb reads it."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserInputError(f"{file}: no such file, expected a sweep in YAML") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{file}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserInputError(
            f"{file}{line}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}"
        ) from None
    if not isinstance(tree, dict):
        raise UserInputError(
            f"{file}: found {type(tree).__name__}, expected program, method, metric and parameters"
        )
    return tree


def _metric(file: Path, tree: object) -> tuple[str, bool]:
    if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
        raise UserInputError(f"{file}: metric: expected {{name: valid/bits, goal: minimize}}")
    goal = tree.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise UserInputError(f"{file}: metric.goal: {goal!r}, expected minimize or maximize")
    return tree["name"], goal == "minimize"


def _command(file: Path, parts: object) -> list[str]:
    if not isinstance(parts, list) or not parts:
        raise UserInputError(f"{file}: command: expected a list of words, such as {COMMAND}")
    words: Sequence[str] = [str(part) for part in parts]
    if not any(word.startswith("${args") for word in words):
        raise UserInputError(
            f"{file}: command: holds no ${{args}}, ${{args_no_hyphens}} or ${{args_no_equals}}"
        )
    return list(words)
