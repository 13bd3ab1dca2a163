"""What a sweep tries: the `parameters` of a sweep file, as a grid, as draws or as a sampler of
optuna chooses, by wandb's own rules and names.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from vqwave.errors import UserInputError, nearest

if TYPE_CHECKING:
    from optuna.trial import Trial

Settings = Mapping[str, Any]
LARGEST = 1e300  # of any number
MOST_GRID = 100_000  # trials of a grid, above which a range was surely not meant so
MOST_WHOLE = 1 << 53  # of the ends of a range
EDGE = 2.0**-33  # the least quantile that a sampler of optuna chooses


@dataclass(frozen=True)
class Law:
    """A distribution: its settings with their defaults (None: needed), and its quantile function on
    (0, 1).
    """

    settings: dict[str, float | None]
    quantile: Callable[[float, Settings], float]


def _line(u: float, low: float, high: float) -> float:
    return low + u * (high - low)


def _normal(u: float, s: Settings) -> float:
    return float(s["mu"] + s["sigma"] * NormalDist().inv_cdf(u))


def _beta(u: float, s: Settings) -> float:
    from scipy.stats import beta

    return float(beta.ppf(u, s["a"], s["b"]))


RANGE: dict[str, float | None] = {"min": None, "max": None}
BELL: dict[str, float | None] = {"mu": 0.0, "sigma": 1.0}
LAWS = {
    "uniform": Law(RANGE, lambda u, s: _line(u, s["min"], s["max"])),
    "log_uniform": Law(RANGE, lambda u, s: math.exp(_line(u, s["min"], s["max"]))),
    "log_uniform_values": Law(
        RANGE, lambda u, s: math.exp(_line(u, math.log(s["min"]), math.log(s["max"])))
    ),
    "normal": Law(BELL, _normal),
    "log_normal": Law(BELL, lambda u, s: math.exp(_normal(u, s))),
    "beta": Law({"a": 1.0, "b": 1.0}, _beta),
}
STEPPED = {f"q_{name}": Law(law.settings | {"q": 1.0}, law.quantile) for name, law in LAWS.items()}
OTHERS = {
    "int_uniform": Law(RANGE, lambda u, s: math.floor(_line(u, s["min"], s["max"] + 1))),
    "inv_log_uniform": Law(RANGE, lambda u, s: math.exp(-_line(1 - u, s["min"], s["max"]))),
    "inv_log_uniform_values": LAWS["log_uniform_values"],
}
IMPLIED = {
    "probabilities": "categorical_w_probabilities",
    "values": "categorical",
    "value": "constant",
}
EVERY = LAWS | STEPPED | OTHERS
CHOICES = {
    "constant": {"value"},
    "categorical": {"values"},
    "categorical_w_probabilities": {"values", "probabilities"},
}


@dataclass(frozen=True)
class Parameter:
    """One setting that a sweep decides.

    `path` is its name, of more than one part where the file nests `parameters`.
    """

    path: tuple[str, ...]
    distribution: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def choices(self) -> list[Any]:
        """All values, for a grid. Raises UserInputError where there are too many."""
        s = self.settings
        if self._count() > MOST_GRID:
            most = f"expected at most {MOST_GRID:,}"
            raise UserInputError(f"parameters.{self.name}: {self._count():,.0f} values, {most}")
        if self.distribution == "constant":
            return [s["value"]]
        if self.distribution == "categorical":
            return list(s["values"])
        if self.distribution == "int_uniform":
            return list(range(s["min"], s["max"] + 1))
        if self.distribution == "q_uniform":
            steps = math.ceil((s["max"] - s["min"]) / s["q"] - 1e-9)
            return [s["min"] + k * s["q"] for k in range(steps)]
        taken = f"a grid takes values, int_uniform or q_uniform, found {self.distribution}"
        raise UserInputError(f"parameters.{self.name}: {taken}")

    def _count(self) -> float:
        """Values of a range that has a step; 0 for all else."""
        s = self.settings
        if self.distribution == "int_uniform":
            return s["max"] - s["min"] + 1
        return (s["max"] - s["min"]) / s["q"] if self.distribution == "q_uniform" else 0

    def draw(self, u: float) -> Any:  # noqa: ANN401 - whatever the file lists
        """The value at quantile u in (0, 1)."""
        s = self.settings
        if self.distribution == "constant":
            return s["value"]
        if self.distribution == "categorical":
            return s["values"][int(u * len(s["values"]))]
        if self.distribution == "categorical_w_probabilities":
            edges = itertools.accumulate(s["probabilities"])
            return next(
                (value for value, edge in zip(s["values"], edges, strict=True) if u < edge),
                s["values"][-1],
            )
        value = EVERY[self.distribution].quantile(u, s)
        if self.distribution in STEPPED:
            value = round(value / s["q"]) * s["q"]
        return value

    def suggested(self, trial: Trial) -> Any:  # noqa: ANN401 - whatever the file lists
        """The value that optuna's sampler chooses: it sees quantiles, and the numbers of values."""
        if self.distribution == "constant":
            return self.settings["value"]
        if self.distribution == "categorical":
            values = self.settings["values"]
            return values[trial.suggest_categorical(self.name, list(range(len(values))))]
        return self.draw(trial.suggest_float(self.name, EDGE, 1 - EDGE))


def read_parameters(
    tree: object, where: str = "parameters", above: tuple[str, ...] = ()
) -> list[Parameter]:
    """The parameters of a sweep file, sorted by name as wandb does.

    Raises UserInputError naming the one that is wrong.
    """
    if not isinstance(tree, dict) or not tree:
        raise UserInputError(f"{where}: expected names with value, values, or min and max")
    parameters = []
    for name, entry in sorted((str(name), entry) for name, entry in tree.items()):
        here = f"{where}.{name}"
        if not isinstance(entry, dict):
            raise UserInputError(f"{here}: found {entry!r}, expected value, values, or min and max")
        if set(entry) == {"parameters"}:
            parameters += read_parameters(entry["parameters"], here, (*above, name))
        else:
            parameters.append(_parameter((*above, name), dict(entry), here))
    return parameters


def _parameter(path: tuple[str, ...], entry: dict[str, Any], here: str) -> Parameter:
    name = str(entry.pop("distribution", None) or _implied(entry, here))
    if name not in EVERY and name not in CHOICES:
        raise UserInputError(
            f"{here}.distribution: no distribution {name!r}{nearest(name, [*CHOICES, *EVERY])}"
        )
    known = CHOICES.get(name) or set(EVERY[name].settings)
    for key in entry:
        if key not in known:
            raise UserInputError(
                f"{here}.{key}: {name} has no such setting, expected {', '.join(sorted(known))}"
            )
    if name in CHOICES:
        _check_choices(name, entry, here)
        return Parameter(path, name, entry)
    filled = {key: entry.get(key, default) for key, default in EVERY[name].settings.items()}
    for key, value in filled.items():
        if value is None:
            raise UserInputError(f"{here}: {name} needs {key}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= (MOST_WHOLE if isinstance(value, int) else LARGEST):
            hint = " (YAML wants a dot in 1.0e-4)" if isinstance(value, str) else ""
            raise UserInputError(f"{here}.{key}: found {value!r}, expected a number{hint}")
    _check_range(name, filled, here)
    return Parameter(path, name, filled)


def _implied(entry: Settings, here: str) -> str:
    """The distribution that wandb takes where a parameter names none."""
    for key, name in IMPLIED.items():
        if key in entry:
            return name
    if {"min", "max"} <= set(entry):
        integers = isinstance(entry["min"], int) and isinstance(entry["max"], int)
        return "int_uniform" if integers else "uniform"
    keys = ", ".join(map(str, entry)) or "nothing"
    raise UserInputError(f"{here}: found {keys}, expected value, values, or min and max")


def _check_choices(name: str, entry: Settings, here: str) -> None:
    for key in CHOICES[name]:
        if key not in entry:
            raise UserInputError(f"{here}: {name} needs {key}")
    values = entry.get("values", [None])
    if not isinstance(values, list) or not values:
        raise UserInputError(f"{here}.values: expected a list of at least one value")
    shares = entry.get("probabilities", [1.0 / len(values)] * len(values))
    fits = isinstance(shares, list) and len(shares) == len(values)
    fits = fits and all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares)
    if not fits or abs(sum(shares) - 1) > 1e-6:
        expected = f"expected one of zero or more for each of {len(values)} values, summing to 1"
        raise UserInputError(f"{here}.probabilities: {expected}")


def _check_range(name: str, s: Settings, here: str) -> None:
    if "min" in s and s["min"] >= s["max"]:
        raise UserInputError(f"{here}: min {s['min']} is not below max {s['max']}")
    if name.endswith("_values") and s["min"] <= 0:
        raise UserInputError(f"{here}.min: {s['min']}, expected above zero for {name}")
    if name == "int_uniform" and not (isinstance(s["min"], int) and isinstance(s["max"], int)):
        ends = f"{s['min']} and {s['max']}"
        raise UserInputError(f"{here}: int_uniform needs whole numbers, found {ends}")
    for key in ("q", "sigma", "a", "b"):
        if key in s and s[key] <= 0:
            raise UserInputError(f"{here}.{key}: {s[key]}, expected above zero")
    try:
        outcomes = [Parameter((), name, dict(s)).draw(u) for u in (EDGE, 0.5, 1 - EDGE)]
    except (OverflowError, ValueError):
        outcomes = [math.inf]
    if not all(math.isfinite(end) for end in outcomes):
        hint = " (its ends are exponents of e)" if "log" in name and "values" not in name else ""
        raise UserInputError(f"{here}: {name} of numbers that are too large{hint}")


def grid(parameters: list[Parameter]) -> list[dict[str, Any]]:
    """Every combination, the last name varying fastest.

    Raises UserInputError for a parameter without a list of values.
    """
    choices = [parameter.choices() for parameter in parameters]
    if (size := math.prod(map(len, choices))) > MOST_GRID:
        most = f"expected at most {MOST_GRID:,}"
        raise UserInputError(f"parameters: a grid of {size:,} trials, {most}")
    return [nested(zip(parameters, values, strict=True)) for values in itertools.product(*choices)]


def draw(parameters: list[Parameter], seed: int, trial: int) -> dict[str, Any]:
    """The values of trial `trial` (from 0): a function of seed, trial and the parameter's name
    alone.
    """
    from vqwave.data import counter_key

    places = ((counter_key("sweep", seed, trial, p.name) + 0.5) / 2**63 for p in parameters)
    return nested((p, p.draw(u)) for p, u in zip(parameters, places, strict=True))


def nested(values: Iterable[tuple[Parameter, Any]]) -> dict[str, Any]:
    """The tree of the values of parameters."""
    tree: dict[str, Any] = {}
    for parameter, value in values:
        here = tree
        for part in parameter.path[:-1]:
            here = here.setdefault(part, {})  # a mapping: no name has two meanings in a file
        here[parameter.path[-1]] = value
    return tree
