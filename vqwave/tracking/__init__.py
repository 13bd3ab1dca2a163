"""Where a run's numbers and sounds go: `metrics.jsonl` and `samples/` always, wandb or tensorboard when asked."""

from vqwave.tracking.boards import Board, TensorBoard, WandbBoard, check_board
from vqwave.tracking.phases import Phases
from vqwave.tracking.samples import SampleSheet
from vqwave.tracking.tracker import Tracker, flatten, own_folder

__all__ = [
    "Board",
    "Phases",
    "SampleSheet",
    "TensorBoard",
    "Tracker",
    "WandbBoard",
    "check_board",
    "flatten",
    "own_folder",
]
