"""What `chaos.py` kills: tiny experiments of every kind, what befalls them, and what they leave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqwave import audio
from vqwave.data import prepare

STEPS = 24  # optimizer steps of a run
COMMON = (
    f"train.steps={STEPS} train.log_every=2 train.valid_every=7 train.save_every=5 train.threads=1"
    " train.dist_timeout_minutes=9 data.valid_clips=4 data.batch=4 data.clip_seconds=0.06"
    " data.valid_clip_seconds=0.06 optim.warmup=3 num_samples=1"
).split()
STACK = (
    "network={layers: 3, dilation_cycle: 3, residual_channels: 8, gate_channels: 8, skip_channels:"
    " 8, hidden_channels: 8}"
)
DECODER = STACK.replace("network", "model.decoder.network")
BOOK = [
    "model.quantizer.codebook_size=8",
    "model.quantizer.kmeans_after_steps=3",
    "model.quantizer.dead_code_threshold=0.3",
    "model.time_jitter=0.2",
]
VQVAE = [DECODER, "model.encoder.channels=8", "model.spectral_decoder.channels=8"]
STUDENT = [
    "model.flows=[3, 3]",
    (
        "model.network={layers: 3, dilation_cycle: 3, residual_channels: 8, gate_channels: 8,"
        " hidden_channels: 8}"
    ),
]


@dataclass(frozen=True)
class Scenario:
    """What is trained, on how many processes, with which settings; how often it is killed, and what
    else happens to it.
    """

    name: str
    experiment: str
    world: int
    settings: list[str]
    kills: int = 3
    damage: tuple[str, ...] = ()
    full_disk: bool = False


SCENARIOS = (
    Scenario(
        "vqvae", "vqvae", 1, [*VQVAE, *BOOK], 5, ("cut short", "of another step"), full_disk=True
    ),
    Scenario(
        "wavenet, dropout and noise, 2 workers",
        "wavenet",
        1,
        [
            f"model.{STACK}",
            "model.input_dropout.prob=0.2",
            "model.input_dropout.noise_std=0.01",
            "model.conditioner.dropout.all=0.2",
            "data.workers=2",
        ],
        4,
        ("a byte altered",),
    ),
    Scenario(
        "wavenet, bf16, accumulation",
        "wavenet",
        1,
        [f"model.{STACK}", "train.precision=bf16", "train.grad_accumulation=2"],
        4,
    ),
    Scenario(
        "wavenet, 2 processes",
        "wavenet",
        2,
        [f"model.{STACK}", "model.input_dropout.prob=0.2"],
        4,
        ("a file missing",),
        full_disk=True,
    ),
    Scenario(
        "vqvae, bf16, accumulation, 2 processes",
        "vqvae",
        2,
        [*VQVAE, *BOOK, "train.precision=bf16", "train.grad_accumulation=2"],
        4,
    ),
    Scenario(
        "vqvae, residual stages with dropout, 2 processes",
        "vqvae",
        2,
        [
            *VQVAE,
            (
                "model.quantizer={kind: residual, quantizer_dropout: 0.5, quantizer:"
                " {codebook_size: 4, kmeans_after_steps: 3}}"
            ),
            "data.workers=1",
        ],
        3,
    ),
    Scenario(
        "distill, adversarial",
        "distill",
        1,
        [
            *STUDENT,
            "teacher={teacher}",
            "losses={kl: 1.0, power: 10.0, adversarial: 1.0}",
            "adversarial.start=4",
        ],
        4,
        ("checksums emptied",),
    ),
    Scenario(
        "distill, bf16, 2 processes",
        "distill",
        2,
        [*STUDENT, "teacher={teacher}", "train.precision=bf16"],
        3,
    ),
    Scenario(
        "prior, dropout",
        "prior",
        1,
        [
            "codec={teacher}",
            "model.conditioner.categorical=[speaker]",
            f"model.{STACK}",
            "model.token_dropout=0.2",
            "model.label_dropout=0.2",
        ],
        3,
    ),
    Scenario(
        "prior, 2 processes",
        "prior",
        2,
        [
            "codec={teacher}",
            "model.conditioner.categorical=[speaker]",
            f"model.{STACK}",
            "model.token_dropout=0.2",
        ],
        3,
    ),
    Scenario(
        "adapt, replay",
        "adapt",
        1,
        [
            "base={teacher}",
            "data.corpus={folder}/voice",
            "speaker=cid",
            "decoder_segment_seconds=0.03",
            "train.minutes=null",
        ],
        4,
        ("of another step",),
        full_disk=True,
    ),
)


def cut_short(step: Path, older: Path) -> None:
    path = step / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def altered(step: Path, older: Path) -> None:
    path = step / "network.safetensors"
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "cut short": cut_short,
    "a byte altered": altered,
    "a file missing": lambda step, older: (step / "progress.json").unlink(),
    "checksums emptied": lambda step, older: (step / "SHA256.json").write_text("{}"),
    "of another step": lambda step, older: shutil.copy(
        older / "average.safetensors", step / "average.safetensors"
    ),
}


def result(run: Path) -> dict[str, object]:
    """All that a run leaves, without times."""
    step = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = [
        *step.glob("*.safetensors"),
        run / "model" / "model.safetensors",
        *(run / "samples").glob("*.wav"),
    ]
    found: dict[str, object] = {
        path.relative_to(run).as_posix(): path.read_bytes() for path in files
    }
    progress = json.loads((step / "progress.json").read_text())
    timed = {"seconds", "running"}
    found["progress"] = {key: value for key, value in progress.items() if key not in timed}
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines()):
        found[f"metrics {number}"] = {
            k: v
            for k, v in json.loads(line).items()
            if k != "seconds" and not k.startswith("time/")
        }
    found["evaluation"] = json.loads((run / "evaluation.json").read_text())
    return found


def make_corpus(folder: Path) -> None:
    """Two speakers of hissing tones, longer than a clip; and a third of its own."""
    rng = np.random.default_rng(0)
    for number, speaker in enumerate(("ann", "bob", "cid")):
        source = folder / ("third" if speaker == "cid" else "in")
        (source / speaker).mkdir(parents=True)
        for take in range(12):
            t = np.arange(2400 + 100 * take) / 8000
            wave = 0.1 * np.sin(
                2 * np.pi * (110 + 60 * number + 10 * take) * t
            ) + 0.03 * rng.standard_normal(len(t))
            audio.write(source / speaker / f"{take}.wav", wave.astype(np.float32), 8000)
    prepare("folder", folder / "in", folder / "corpus", quiet=True)
    prepare("folder", folder / "third", folder / "voice", quiet=True)
