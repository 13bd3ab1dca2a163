"""What several tests share: thread count, real speech, the experiments' scripts, frames whose code
rounding cannot change.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vqwave.cli import main
from vqwave.nn.quantize import FSQuantizer, VectorQuantizer

THREADS = int(os.environ.get("OMP_NUM_THREADS") or min(4, os.cpu_count() or 1))
torch.set_num_threads(THREADS)

BESIDE = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def own_threads() -> None:
    """Each test begins with as many threads as the first, whatever a training before it set."""
    torch.set_num_threads(THREADS)


@pytest.fixture(scope="session")
def speech_data() -> Path:
    """The folder of real recordings: VQWAVE_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("VQWAVE_DATA") or BESIDE)
    if not folder.is_dir():
        pytest.skip(f"no real speech here: {folder} is no folder, and VQWAVE_DATA names no other")
    return folder


@pytest.fixture(scope="session")
def experiment_script() -> Callable[[str], ModuleType]:
    """experiments/NAME.py as a module."""

    @cache
    def load(name: str) -> ModuleType:
        path = Path(__file__).resolve().parents[1] / "experiments" / f"{name}.py"
        found = importlib.util.spec_from_file_location(f"experiment_script_{name}", path)
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module  # where dataclasses look for the names of annotations
        found.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must be refused: status 2, nothing on standard output, one line on
    standard error -> that line.
    """

    def run(*words: object, command: Callable[[list[str]], object] = main) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command([str(word) for word in words])
        out, err = capsys.readouterr()
        assert end.value.code == 2
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="session")
def clear_frames() -> Callable[..., Tensor]:
    """The frames whose code does not hang on rounding: the two best differ by more than `share` of
    the latents' variance.
    """
    return _clear_frames


@torch.no_grad()
def _clear_frames(
    quantizer: VectorQuantizer | FSQuantizer, z: Tensor, share: float = 1e-3
) -> Tensor:
    """z (B, D, F) -> (B, F), by distances in float64; of FSQ, by how far each dimension lies from
    the edge of its level.
    """
    z = z.double()
    if isinstance(quantizer, FSQuantizer):
        bounded = quantizer.bound(z)
        return (((bounded - bounded.floor()) - 0.5).abs() > share).all(1)
    codes = quantizer.codebook.codes.double()
    squares = (z.mT[:, :, None] - codes).square().sum(-1)  # (B, F, K)
    best, second = squares.topk(2, largest=False).values.unbind(-1)
    return second - best > share * z.var(2).mean()
