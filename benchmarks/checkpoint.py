"""What a save and a resume cost at a model's size: seconds and bytes.

python benchmarks/checkpoint.py --config configs/vqvae/paper.yaml data.corpus=data/demo
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tempfile
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from vqwave import config as settings
from vqwave.inference.model_folder import save_trained
from vqwave.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Prints one JSON line."""
    place = importlib.util.spec_from_file_location("vqvae", ROOT / "experiments" / "vqvae.py")
    module = sys.modules[place.name] = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    request = settings.parse(module.Config, sys.argv[1:], program="benchmarks/checkpoint.py")
    folder = Path(tempfile.mkdtemp(prefix="vqwave-checkpoint-"))
    experiment = module.VQVAEExperiment(replace(request.config, run=folder))
    model = experiment.build()
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    average = {name: p.detach() for name, p in deepcopy(model).named_parameters()}
    state = Checkpoint(model.state_dict(), average, optimizer.state_dict(), {"step": 1})
    began = time.perf_counter()
    save_checkpoint(folder / "checkpoints", 1, state)
    saved = time.perf_counter()
    save_trained(folder / "model", model, experiment.card(model, 1, 0.0))
    wrote = time.perf_counter()
    newest_checkpoint(folder / "checkpoints")
    read = time.perf_counter()
    size = sum(
        path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file()
    )
    shutil.rmtree(folder)
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "checkpoint_bytes": size,
        "save_seconds": round(saved - began, 3),
        "model_seconds": round(wrote - saved, 3),
        "read_seconds": round(read - wrote, 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
