"""Where a run's numbers and sounds go: `metrics.jsonl` and `samples/` always, wandb or tensorboard
when asked.
"""

from vqwave.training.tracking.boards import Board, TensorBoard, WandbBoard, check_board
from vqwave.training.tracking.phases import Phases
from vqwave.training.tracking.samples import SampleSheet
from vqwave.training.tracking.tracker import Tracker, flatten, metrics_rows, own_folder

__all__ = [
    "Board",
    "Phases",
    "SampleSheet",
    "TensorBoard",
    "Tracker",
    "WandbBoard",
    "check_board",
    "flatten",
    "metrics_rows",
    "own_folder",
]
