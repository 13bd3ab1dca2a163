"""Which weights of a run are kept, where validation decides: the best, and when there are no better
ones to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vqwave.models import Model

PARAMETER = "parameter/"


@dataclass
class Selection:
    """The averaged weights at the validation of lowest `criterion`, a scalar of `evaluate`.

    patience: validations without a better one after which the run ends. State, for checkpoints:
    `state`.
    """

    criterion: str
    patience: int
    step: int = -1
    first: float = float("inf")
    best: float = float("inf")
    since: int = 0
    last: int = -1  # step of the validation before
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the run ends here."""
        return self.since >= self.patience

    def offer(self, step: int, scalars: Mapping[str, float], model: Model) -> None:
        """Scalars of a validation of `model` at `step`; another one at the same step, as of a run
        that has ended before, counts nothing.

        Raises KeyError where the criterion is missing.
        """
        value = scalars[self.criterion]
        if step == self.last:
            return
        self.last = step
        if step == 0:
            self.first = value
        if value < self.best:
            self.step, self.best, self.since = step, value, 0
            with torch.inference_mode(mode=False), torch.no_grad():
                self.weights = {name: p.clone() for name, p in model.named_parameters()}
        else:
            self.since += 1

    def selected(self, model: Model) -> Model:
        """`model` with the weights that were selected; itself before the first validation."""
        if not self.weights:
            return model
        chosen = deepcopy(model)
        with torch.no_grad():
            for name, p in chosen.named_parameters():
                p.copy_(self.weights[name])
        return chosen

    @property
    def headline(self) -> str:
        """What was selected."""
        return (
            f"{self.criterion} {self.best:.4g} on held-out speech at step {self.step:,}, whose"
            f" weights are kept ({self.first:.4g} before the first step)"
        )

    @property
    def section(self) -> dict[str, float]:
        """The same, for `evaluation.json`."""
        return {"step": self.step, "best": self.best, "first": self.first}

    def state(self) -> dict[str, Tensor]:
        """Flat tensors, for checkpoints."""
        values = [self.step, self.first, self.best, self.since, self.last]
        numbers = torch.tensor(values, dtype=torch.float64)
        return {"numbers": numbers} | {PARAMETER + name: w for name, w in self.weights.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        step, self.first, self.best, since, *last = state["numbers"].tolist()
        self.step, self.since, self.last = int(step), int(since), int(last[0]) if last else -1
        self.weights = {
            name.removeprefix(PARAMETER): w.clone()
            for name, w in state.items()
            if name.startswith(PARAMETER)
        }
