"""Sweeps: the files that `wandb sweep` takes, and a runner of them that needs no server."""

from vqwave.sweep.plan import Plan, read
from vqwave.sweep.trials import Stopped, Sweep, Trial

__all__ = ["Plan", "Stopped", "Sweep", "Trial", "read"]
