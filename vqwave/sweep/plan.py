"""A sweep file, the same that `wandb sweep` takes: read, checked, and turned into the command of
each trial.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqwave import parsing
from vqwave.errors import UserInputError, nearest, under
from vqwave.sweep.space import Parameter, draw, grid, read_parameters

NEEDED = ("program", "method", "metric", "parameters")
OTHERS = ("command", "name", "description", "project", "entity", "run_cap", "early_terminate")
METHODS = ("grid", "random", "bayes")
HYPERBAND = ("type", "min_iter", "max_iter", "s", "eta")
MOST_TRIALS, MOST_STEPS = 1_000_000, 1 << 40
COMMAND = ["${env}", "${interpreter}", "${program}", "${args}"]
MACRO = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Plan:
    """A sweep file.

    `metric` is a name in `metrics.jsonl`; `cap` is the file's own `run_cap`; `hyperband` are the
    settings of optuna's pruner of that name, if trials may be stopped early; `tree` is all that was
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
    hyperband: dict[str, Any] | None
    tree: dict[str, Any]

    def trials(self, count: int | None, seed: int) -> list[dict[str, Any] | None]:
        """The values of each trial, None where they are chosen by the results of others: all of a
        grid unless `count` is less, else as many as `count` (or `run_cap`).
        """
        count = count or self.cap
        if count is not None and not 1 <= count <= MOST_TRIALS:
            raise UserInputError(f"--count {count}: expected 1 to {MOST_TRIALS:,}")
        if self.method == "grid":
            return [*grid(self.parameters)[:count]]
        if count is None:
            endless = f"{self.file}: method {self.method} has no end"
            raise UserInputError(f"{endless}; expected --count N, or run_cap in the file")
        if self.method == "bayes":
            return [None] * count
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
        command: list[str] = []
        for part in self.command:
            if part.startswith("${") and part.endswith("}") and not MACRO.search(part):
                if part[2:-1] not in words:
                    known = ", ".join(f"${{{name}}}" for name in words)
                    raise UserInputError(f"{self.file}: command: {part}, expected {known}")
                command += words[part[2:-1]]
            else:
                command.append(MACRO.sub(lambda match: os.environ.get(match[1], match[1]), part))
        return command


def read(file: Path) -> Plan:
    """Raises UserInputError, naming the file and the key."""
    tree = _load(file)
    for key in tree:
        if key not in NEEDED + OTHERS:
            close = nearest(str(key), NEEDED + OTHERS)
            raise UserInputError(f"{file}: {key}: no such key of a sweep{close}")
    for key in NEEDED:
        if key not in tree:
            raise UserInputError(f"{file}: no {key}, expected {', '.join(NEEDED)}")
    method = tree["method"]
    if not isinstance(method, str) or method not in METHODS:
        raise UserInputError(f"{file}: method {method!r}, expected grid, random or bayes")
    with under(str(file)):
        parameters = read_parameters(tree["parameters"])
    name, minimize = _metric(file, tree["metric"])
    cap = tree.get("run_cap")
    if cap is not None and (type(cap) is not int or not 1 <= cap <= MOST_TRIALS):
        raise UserInputError(f"{file}: run_cap: {cap!r}, expected a whole number from 1 on")
    return Plan(
        file=file,
        program=str(tree["program"]),
        method=method,
        metric=name,
        minimize=minimize,
        parameters=parameters,
        command=_command(file, tree.get("command", COMMAND)),
        cap=cap,
        hyperband=_hyperband(file, tree.get("early_terminate")),
        tree=tree,
    )


def _load(file: Path) -> dict[str, Any]:
    """The file by YAML's own rules, as wandb reads it."""
    tree = parsing.read_yaml(file, "program, method, metric and parameters")
    if not tree:
        raise UserInputError(f"{file}: empty, expected program, method, metric and parameters")
    return tree


def _metric(file: Path, tree: object) -> tuple[str, bool]:
    if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
        raise UserInputError(f"{file}: metric: expected {{name: valid/bits, goal: minimize}}")
    goal = tree.get("goal", "minimize")
    if not isinstance(goal, str) or goal not in ("minimize", "maximize"):
        raise UserInputError(f"{file}: metric.goal: {goal!r}, expected minimize or maximize")
    return tree["name"], goal == "minimize"


def _hyperband(file: Path, tree: object) -> dict[str, Any] | None:
    """The settings of optuna's pruner; an iteration is a row of `metrics.jsonl` with the metric."""
    if tree is None:
        return None
    here = f"{file}: early_terminate"
    if not isinstance(tree, dict) or tree.get("type") != "hyperband":
        raise UserInputError(f"{here}: expected {{type: hyperband, min_iter: 3}}")
    for key, value in tree.items():
        if key not in HYPERBAND:
            raise UserInputError(f"{here}.{key}: no such setting{nearest(str(key), HYPERBAND)}")
        integer = isinstance(value, int) and not isinstance(value, bool)
        if key != "type" and not (integer and (key == "eta") < value <= MOST_STEPS):
            raise UserInputError(f"{here}.{key}: {value!r}, expected a whole number, 1 or more")
    eta, most = tree.get("eta", 3), tree.get("max_iter", math.inf)
    if "min_iter" not in tree and not {"max_iter", "s"} <= set(tree):
        raise UserInputError(f"{here}: expected min_iter, or max_iter and s")
    least = tree.get("min_iter") or max(1, most // eta ** min(tree["s"], 64))
    if most < least:
        raise UserInputError(f"{here}: max_iter {most} is below min_iter {least}")
    most = tree.get("max_iter", "auto")
    return {"min_resource": least, "max_resource": most, "reduction_factor": eta}


def _command(file: Path, parts: object) -> list[str]:
    if not isinstance(parts, list) or not parts:
        raise UserInputError(f"{file}: command: expected a list of words, such as {COMMAND}")
    words: Sequence[str] = [str(part) for part in parts]
    if not any(word.startswith("${args") for word in words):
        raise UserInputError(
            f"{file}: command: holds no ${{args}}, ${{args_no_hyphens}} or ${{args_no_equals}}"
        )
    return list(words)
