"""Voices as unit vectors, by Resemblyzer's speaker encoder (GE2E): the cosine of two of them says
how alike they are.

Of the package only the weights are read: its front end (40 mel powers of 25 ms each 10 ms at 16
kHz) is written out here, so that neither librosa nor webrtcvad is loaded. Silences are not cut out,
as that package does before; levels below -30 dBFS are raised to it, as there.

Reference: Wan et al., 2018, "Generalized End-to-End Loss for Speaker Verification".
arXiv:1710.10467
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from vqwave.audio import Wave, level_db, resample
from vqwave.errors import UnavailableError
from vqwave.features import mel_filters

RATE, FFT, HOP, BANDS = 16000, 400, 160, 40
WINDOW, STEP = 160, 77  # frames of a window and from one to the next: 1.6 s, 1.3 windows a second
COVERED = 0.75  # of the last window, or it is left out
QUIETEST_DB = -30.0
SIZE = 256  # numbers of a vector
Embedding = NDArray[np.float64]


class SpeakerEncoder(nn.Module):
    """Three LSTM layers of 256 over mel powers; the last state, projected and normalised."""

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, SIZE, 3, batch_first=True)
        self.linear = nn.Linear(SIZE, SIZE)
        filters = mel_filters(RATE, FFT, BANDS, 0.0, RATE / 2, scale="slaney").float()
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, mel: Tensor) -> Tensor:
        """Mel powers (B, F, 40) -> unit vectors (B, 256), none of whose parts is negative."""
        _, (state, _) = self.lstm(mel)
        return F.normalize(F.relu(self.linear(state[-1])), dim=1)

    @torch.inference_mode()
    def embed(self, wave: Wave, sample_rate: int) -> Embedding:
        """(T,) at a rate in Hz -> a unit vector (256,): the mean over windows of 1.6 s."""
        wave = resample(wave, sample_rate, RATE)
        level = level_db(wave)
        if math.isfinite(level) and level < QUIETEST_DB:
            wave = wave * np.float32(10 ** ((QUIETEST_DB - level) / 20))
        starts = window_starts(len(wave))
        x = torch.from_numpy(np.pad(wave, (0, max(0, (starts[-1] + WINDOW) * HOP - len(wave)))))
        hann = torch.hann_window(FFT)
        power = (
            torch.stft(x, FFT, HOP, window=hann, pad_mode="constant", return_complex=True)
            .abs()
            .square()
        )
        mel = (self.filters @ power).T  # (F, 40)
        parts = self(torch.stack([mel[start : start + WINDOW] for start in starts]))
        return unit(parts.double().mean(0).numpy())


def window_starts(samples: int) -> list[int]:
    """First frames of the windows over a recording; a last one less than 3/4 full is left out."""
    frames = math.ceil((samples + 1) / HOP)
    starts = list(range(0, max(1, frames - WINDOW + STEP + 1), STEP))
    if len(starts) > 1 and (samples / HOP - starts[-1]) / WINDOW < COVERED:
        starts.pop()
    return starts


def installed() -> Path | None:
    """The folder of the package that has the weights; None where it is not installed."""
    package = importlib.util.find_spec("resemblyzer")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(next(iter(package.submodule_search_locations)))


def speaker_encoder(weights: str | Path | None = None) -> SpeakerEncoder:
    """The encoder with the installed package's weights, or those of a file.

    Raises UnavailableError where that package is not installed.
    """
    if weights is None:
        package = installed()
        if package is None:
            raise UnavailableError(
                "the package resemblyzer is not installed: pip install 'vqwave[voices]'"
            )
        weights = package / "pretrained.pt"
    state = torch.load(weights, map_location="cpu", weights_only=True)["model_state"]
    encoder = SpeakerEncoder()
    encoder.load_state_dict(
        {name: value for name, value in state.items() if name.startswith(("lstm.", "linear."))}
    )
    return encoder.eval()


def unit(vector: Embedding) -> Embedding:
    """A vector (D,) at length one; zeros stay."""
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def voice_of(embeddings: Sequence[Embedding]) -> Embedding:
    """A speaker's voice: the mean direction of the embeddings of recordings."""
    return unit(np.mean(embeddings, axis=0))
