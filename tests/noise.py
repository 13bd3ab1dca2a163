"""A corpus of noise, for trainings whose sound does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vqwave import audio
from vqwave.data import prepare

RATE = 8000


def noise_corpus(root: Path, takes: int, samples: int) -> Path:
    """Two speakers, `takes` recordings of so many samples each; prepared in a folder of `root`."""
    rng = np.random.default_rng(0)
    for speaker in ("ann", "bob"):
        (root / "in" / speaker).mkdir(parents=True)
        for take in range(takes):
            wave = 0.1 * rng.standard_normal(samples).astype(np.float32)
            audio.write(root / "in" / speaker / f"{take}.wav", wave, RATE)
    prepare("folder", root / "in", root / "corpus", quiet=True)
    return root / "corpus"
