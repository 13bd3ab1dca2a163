"""Experiments and the trainer: what a script of one's own imports."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vqwave.training.command_line import main as main
    from vqwave.training.experiment import Evaluation as Evaluation
    from vqwave.training.experiment import Experiment as Experiment
    from vqwave.training.experiment import StepOutput as StepOutput
    from vqwave.training.settings import ExperimentSpec as ExperimentSpec

_MODULES = {
    "Evaluation": "experiment",
    "Experiment": "experiment",
    "ExperimentSpec": "settings",
    "StepOutput": "experiment",
    "main": "command_line",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    if name not in _MODULES:
        raise AttributeError(f"module 'vqwave.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vqwave.training.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
