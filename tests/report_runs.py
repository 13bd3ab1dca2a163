"""Run folders as trainings leave them, made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vqwave.audio import Wave, level_db, write

RATE = 8000


def voice(seed: int, seconds: float = 0.25) -> Wave:
    """A buzz of some pitch, with a little noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * (100 + 20 * seed) * k * t) / k for k in range(1, 9))
    return (0.05 * buzz + rng.normal(0, 0.002, len(t))).astype(np.float32)


def write_samples(run: Path, clips: list[tuple[dict[str, Any], Wave]]) -> None:
    """`samples/` with an index of these clips."""
    rows = []
    for number, (about, wave) in enumerate(clips):
        path = f"{number}.wav"
        write(run / "samples" / path, wave, RATE)
        rows.append(
            {
                "path": path,
                "seconds": len(wave) / RATE,
                "level_db": level_db(wave),
                "target": None,
                **about,
            }
        )
    (run / "samples" / "index.json").write_text(
        json.dumps({"step": 900, "sample_rate": RATE, "rows": rows})
    )


def write_numbers(run: Path, bits: float, with_codes: bool) -> None:
    """`metrics.jsonl`, `evaluation.json` and `model/config.json` of a run that ended at `bits`."""
    rng = np.random.default_rng(0)
    rows = []
    for step in range(10, 910, 10):
        row = {
            "step": step,
            "seconds": step / 5,
            "train/nll": bits + 5 * 0.99**step,
            "optim/lr": 1e-3,
            "train/odd": float("nan"),
        }
        if step % 100 == 0:
            row |= {"valid/bits": bits + 5 * 0.99**step, "valid/bits_shuffled_codes": bits + 0.8}
        rows.append(json.dumps(row))
    (run / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 91')  # killed while it wrote
    counts = rng.multinomial(500, rng.dirichlet(np.ones(16)), size=2)
    codes = {
        "books": 1,
        "size": 16,
        "perplexity": 9.5,
        "used": 14,
        "bit_rate": 200.0,
        "entropy_rate": 160.4,
        "counts": [counts.sum(0).tolist()],
        "by_speaker": {"theo": counts[0].tolist(), "jackson": counts[1].tolist()},
    }
    nll = {
        "unit": "bits per 16-bit sample",
        "model": bits,
        "baselines": {"uniform": 16.0, "marginal histogram": 12.3, "linear predictor": 9.42},
        "shuffled codes": bits + 0.83 if with_codes else None,
        "shuffled speakers": bits + 0.01,
    }
    spectral = {
        "reconstruction": {"log_spectral_distance_db": 9.25},
        "floor": {"log_spectral_distance_db": 21.0},
    }
    evaluation = {
        "split": "valid",
        "step": 900,
        "nll": nll,
        "spectral": spectral,
        "timing": {"times_real_time": 12.5},
    }
    (run / "evaluation.json").write_text(
        json.dumps(evaluation | ({"codes": codes} if with_codes else {}))
    )
    about = {
        "corpus": "fsdd",
        "parameters": {"encoder": 40_000, "decoder": 1_200_000, "total": 1_240_000},
        "receptive_field": 2047,
        "hop": 160,
        "bit_rate": 200.0 if with_codes else None,
        "steps": 900,
        "seconds": 754.0,
    }
    (run / "model").mkdir()
    card = {
        "format": 1,
        "kind": "vqvae",
        "sample_rate": RATE,
        "labels": {"speaker": ["jackson", "theo"]},
        "spec": {},
    }
    (run / "model" / "config.json").write_text(json.dumps(card | {"about": about}))


def make_vqvae(folder: Path) -> Path:
    """A run folder of a VQ-VAE: two utterances with reconstruction and conversion."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("experiment: vqvae\nmodel:\n  kind: vqvae\n")
    write_numbers(folder, 6.8, with_codes=True)
    clips: list[tuple[dict[str, Any], Wave]] = []
    for number, word in enumerate(("seven", "two")):
        about = {"utterance": f"{number}_theo_3", "speaker": "theo", "text": word}
        clips += [
            ({**about, "kind": "original"}, voice(number)),
            ({**about, "kind": "conversion", "target": "jackson"}, voice(number + 10)),
            ({**about, "kind": "reconstruction"}, voice(number + 20, 0.3)),
        ]
    write_samples(folder, clips)
    return folder


def make_student(folder: Path) -> Path:
    """A run folder of the student distilled from it, with the first utterance."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("experiment: distill\nteacher: runs/vqvae\n")
    write_numbers(folder, 7.4, with_codes=False)
    about = {"utterance": "0_theo_3", "speaker": "theo", "text": "seven"}
    write_samples(
        folder,
        [({**about, "kind": "original"}, voice(0)), ({**about, "kind": "student"}, voice(30))],
    )
    return folder
