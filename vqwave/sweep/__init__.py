"""Sweeps: the files that `wandb sweep` takes, and a runner of them that needs no server."""

from vqwave.sweep.plan import Plan, read
from vqwave.sweep.runner import StoppedError, Sweep
from vqwave.sweep.table import best_of, text_table

__all__ = ["Plan", "StoppedError", "Sweep", "best_of", "read", "text_table"]
