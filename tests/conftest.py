"""What several tests share: thread count, real speech."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or min(4, os.cpu_count() or 1)))

BESIDE = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real recordings: VQWAVE_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("VQWAVE_DATA") or BESIDE)
    if not folder.is_dir():
        pytest.skip(f"no real speech here: {folder} is no folder, and VQWAVE_DATA names no other")
    return folder
