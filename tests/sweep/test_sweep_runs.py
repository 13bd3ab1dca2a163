"""The shipped sweeps in earnest, at tiny sizes: what wandb's agent prints is run; a sweep of six is
killed and goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from noise import noise_corpus
from optuna.trial import FrozenTrial

from vqwave.sweep import Plan, Sweep, best_of, read

ROOT = Path(__file__).parents[2]
STACK = (
    "{layers: 2, dilation_cycle: 2, residual_channels: 4, gate_channels: 4, skip_channels: 4,"
    " hidden_channels: 4}"
)
SHORT = [
    "data.clip_seconds=0.1",
    "data.batch=2",
    "data.valid_clip_seconds=0.1",
    "data.valid_clips=2",
    "num_samples=1",
    "train.threads=1",
]
TINY = {
    "wavenet": ["model.network.layers=2", "model.network.dilation_cycle=2", "sample_seconds=0.02"],
    "vqvae": [
        f"model.decoder.network={STACK}",
        "model.encoder.channels=8",
        "model.spectral_decoder=null",
        "losses.spectral=0",
    ],
    "distill": [
        "model.flows=[2]",
        (
            "model.network={dilation_cycle: 2, residual_channels: 4, gate_channels: 4,"
            " hidden_channels: 4}"
        ),
        "losses.power=0",
    ],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_corpus(tmp_path_factory.mktemp("corpus"), takes=20, samples=1600)


def environment(folder: Path, processes: int = 1) -> dict[str, str]:
    """accelerate as it would be configured for so many processes on a CPU; wandb offline."""
    kind = "MULTI_GPU" if processes > 1 else "NO"
    settings = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "num_processes": processes,
        "num_machines": 1,
    }
    settings |= {
        "machine_rank": 0,
        "mixed_precision": "no",
        "use_cpu": False,
        "main_training_function": "main",
    }
    place = folder / f"home-{processes}" / "accelerate" / "default_config.yaml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(yaml.safe_dump(settings))
    here = {
        "HF_HOME": str(place.parents[1]),
        "ACCELERATE_USE_CPU": "true",
        "WANDB_MODE": "offline",
        "OMP_NUM_THREADS": "1",
    }
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, **here, "PATH": path, "PYTHONPATH": str(ROOT)}


def agents_command(plan: Plan, values: dict[str, Any]) -> list[str]:
    """By wandb's own builder, called as its agent calls it."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    words = create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in values.items()}}
    )
    words |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [plan.program]}
    parts = create_sweep_command(list(plan.tree["command"]))
    return [
        word for part in parts for word in (words[part[2:-1]] if part.startswith("${") else [part])
    ]


def run(command: list[str], env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """What a training has logged."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_what_wandbs_agent_prints_trains(corpus: Path, tmp_path: Path) -> None:
    """Random for the WaveNet, a grid for the VQ-VAE, and a student of the latter."""
    env = environment(tmp_path)
    for name in ("wavenet", "vqvae", "distill"):
        plan = read(ROOT / "configs" / "sweeps" / f"{name}.yaml")
        values = plan.trials(2, 0)[1]
        places = [f"data.corpus={corpus}", f"run={tmp_path / name}"] + (
            [f"teacher={tmp_path / 'vqvae'}"] if name == "distill" else []
        )
        run(
            [
                *agents_command(plan, values),
                *places,
                *SHORT,
                *TINY[name],
                "train.steps=2",
                "train.log_every=1",
            ],
            env,
        )
        settings = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        assert settings["optim"]["lr"] == values["optim.lr"]
        assert settings["train"]["tracker"] == "wandb"
        rows = rows_of(tmp_path / name)
        assert np.isfinite(rows[-1][plan.metric])
        assert list((tmp_path / name / "wandb").glob("offline-run-*/*.wandb"))
    assert settings["losses"]["log_spectral"] == values["losses.log_spectral"]


RANKS = """
import json, os, pathlib, sys
from vqwave.config import to_tree
import importlib.util
place = importlib.util.spec_from_file_location("swept", os.environ["PROGRAM"])
module = sys.modules["swept"] = importlib.util.module_from_spec(place)
place.loader.exec_module(module)
from vqwave.config import parse
tree = to_tree(parse(module.Config, sys.argv[1:]).config)
(pathlib.Path(os.environ["PARSED"]) / os.environ["RANK"]).write_text(json.dumps(tree))
"""


def test_every_rank_reads_its_values_from_its_arguments(tmp_path: Path) -> None:
    program = tmp_path / "ranks.py"
    program.write_text(RANKS)
    plan = read(ROOT / "configs" / "sweeps" / "wavenet.yaml")
    values = plan.trials(3, 0)[2]
    command = [
        str(program) if word == plan.program else word for word in agents_command(plan, values)
    ]
    run(
        command,
        {**environment(tmp_path, 2), "PROGRAM": str(ROOT / plan.program), "PARSED": str(tmp_path)},
    )
    first, second = (json.loads((tmp_path / rank).read_text()) for rank in ("0", "1"))
    assert first == second
    assert first["optim"]["lr"] == values["optim.lr"]
    assert (
        first["model"]["network"]["residual_channels"] == values["model.network.residual_channels"]
    )


def trials_of(out: Path) -> list[FrozenTrial]:
    """The trials that have ended."""
    return Sweep(read(ROOT / "configs" / "sweeps" / "wavenet.yaml"), out).finished()


def test_a_sweep_of_six_killed_in_the_middle_goes_on(corpus: Path, tmp_path: Path) -> None:
    """kill -9 of the sweep and of all that it started, while its third trial trains: two are kept,
    the third resumes.
    """
    out, env = tmp_path / "out", environment(tmp_path)
    words = [
        f"data.corpus={corpus}",
        *SHORT,
        *TINY["wavenet"],
        "train.steps=100",
        "train.log_every=10",
        "train.save_every=10",
        "train.valid_every=50",
    ]
    command = [
        sys.executable,
        "-m",
        "vqwave",
        "sweep",
        "configs/sweeps/wavenet.yaml",
        "--count",
        "6",
        "--out",
        str(out),
    ]
    command += ["--set", *words]
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((out / "trial-003" / "checkpoints").glob("step-*")):
        assert process.poll() is None
        time.sleep(0.02)
    for each in [process, *psutil.Process(process.pid).children(recursive=True)]:
        each.send_signal(signal.SIGKILL)
    process.wait()
    before = trials_of(out)
    assert [trial.number for trial in before] == [0, 1]
    assert not (out / "trial-003" / "evaluation.json").exists()
    first = rows_of(out / "trial-003")[0]

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    after = trials_of(out)
    assert after[:2] == before
    assert [trial.number for trial in after] == [0, 1, 2, 3, 4, 5]
    assert all(np.isfinite(trial.value) for trial in after)
    best = best_of(after, minimize=True)
    assert done.stdout.splitlines()[-1].startswith(
        f"best: trial {best.number + 1}, valid/bits {best.value:.4f}"
    )
    rows = rows_of(out / "trial-003")
    assert rows[0] == first  # its seconds, too: it did not begin anew
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert (out / "trial-003.log").read_text().count("$ ") == 2
