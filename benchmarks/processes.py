"""One process, two processes, and two hosts (two launches on loopback) with the same global batch:
how far their losses part.

python benchmarks/processes.py --steps 200

Trains the experiments at a tiny size with dropout, jitter and random crops, on the CPU (gloo), and
prints for each step's logged total loss the largest difference from the one process. Nothing is
shared between the ways but the corpus and the settings.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "wavenet": [
        "sample_seconds=0.05",
        "model.input_dropout.prob=0.2",
        "model.input_dropout.noise_std=0.01",
        "model.conditioner.dropout.all=0.1",
    ],
    "vqvae": [
        "model.time_jitter=0.2",
        "model.quantizer.kmeans_after_steps=5",
        "optim.lr=2e-4",
    ],  # at 2e-3 any rounding grows by itself
}
COMMON = [
    "data.batch=4",
    "data.clip_seconds=0.1",
    "data.valid_clip_seconds=0.1",
    "data.valid_clips=4",
    "train.log_every=1",
    "train.threads=1",
]
COMMON += ["train.valid_every=1000", "train.save_every=1000", "num_samples=1"]
LAUNCH = [
    sys.executable,
    "-m",
    "accelerate.commands.launch",
    "--quiet",
    "--mixed_precision",
    "no",
    "--dynamo_backend",
    "no",
]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def launches(way: str) -> list[list[str]]:
    """The command's beginnings, one a host."""
    port = ["--main_process_port", free_port()]
    if way == "1 process":
        return [[*LAUNCH, "--num_processes", "1", "--num_machines", "1"]]
    if way == "2 processes":
        return [[*LAUNCH, "--multi_gpu", "--num_processes", "2", "--num_machines", "1", *port]]
    two = [
        *LAUNCH,
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "2",
        "--main_process_ip",
        "127.0.0.1",
        *port,
    ]
    return [[*two, "--machine_rank", str(host)] for host in (0, 1)]


def train(experiment: str, way: str, run: Path, corpus: Path, steps: int) -> list[float]:
    """The total losses by step.

    Each host has a run folder of its own: only the first one's is written.
    """
    program = [
        str(ROOT / "experiments" / f"{experiment}.py"),
        "--config",
        str(ROOT / "configs" / experiment / "tiny.yaml"),
    ]
    settings = [
        f"data.corpus={corpus}",
        f"train.steps={steps}",
        *COMMON,
        *SETTINGS[experiment],
        "--quiet",
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    hosts = [
        subprocess.Popen(
            [*beginning, *program, *settings, f"run={run}-host{number}"],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        for number, beginning in enumerate(launches(way))
    ]
    if sum(host.wait() != 0 for host in hosts):
        raise SystemExit(f"{experiment}, {way}: a process failed")
    rows = [
        json.loads(line) for line in Path(f"{run}-host0", "metrics.jsonl").read_text().splitlines()
    ]
    return [row["train/total"] for row in rows if "train/total" in row]


def main() -> None:
    """Prints a line for each experiment and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--corpus", type=Path, default=ROOT / "data" / "demo")
    parser.add_argument("--experiments", nargs="*", default=list(SETTINGS))
    parser.add_argument("--ways", nargs="*", default=["2 processes", "2 hosts"])
    parser.add_argument("--out", type=Path, help="keep the losses by step: a JSON file")
    options = parser.parse_args()
    folder, losses = Path(tempfile.mkdtemp(prefix="vqwave-processes-")), {}
    for experiment in options.experiments:
        for way in ("1 process", *options.ways):
            run = folder / f"{experiment}-{way.replace(' ', '-')}"
            losses[f"{experiment}, {way}"] = result = train(
                experiment, way, run, options.corpus, options.steps
            )
            one = losses[f"{experiment}, 1 process"]
            largest = max(abs(a - b) for a, b in zip(one, result, strict=True))
            ends = f"{result[0]:.6f} -> {result[-1]:.6f}"
            print(
                f"{experiment}, {way}: {len(result)} steps, total {ends}, largest difference"
                f" {largest:.2e}",
                flush=True,
            )
    if options.out is not None:
        options.out.write_text(json.dumps(losses, indent=1))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
