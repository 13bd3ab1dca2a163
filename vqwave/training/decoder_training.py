"""What a decoder is trained on where its codec is frozen: recordings, and the frames of their codes
that condition it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vqwave.data import Batch
from vqwave.decode.postfilter import Postfilter, conditioning_spectrum
from vqwave.errors import UserInputError
from vqwave.models import VQVAE, VQVAESpec
from vqwave.nn.random_segments import sliced
from vqwave.training.sources import Source

PASSES = 2  # of the filter: one leaves a half of what the waveform deviates from the frames, two a
# third
FARTHEST = 2.5  # nats: 22 dB, more than in decoding, where a waveform deviates less


@torch.no_grad()
def decoder_batch(
    model: VQVAE,
    batch: Batch,
    samples: float | None = None,
    *,
    recorded_pitch: bool = False,
    recorded_spectrum: bool = False,
    filtered: bool = False,
) -> tuple[Batch, Tensor]:
    """Recordings and the decoder's frames (B, C, F), of all, or of a segment of `samples` anywhere.

    recorded_pitch, recorded_spectrum: see `VQVAE.features_of_recordings`; filtered: the recordings
    as `filtered_recordings` has them.
    """
    frames = model.features_of_recordings(
        batch.wave,
        batch.labels,
        batch.lengths,
        recorded_pitch=recorded_pitch,
        recorded_spectrum=recorded_spectrum,
    )
    frames = model.add_decoder_noise(frames)
    if filtered:
        batch = replace(batch, wave=filtered_recordings(model, batch))
    return (batch, frames) if samples is None else sliced(batch, frames, samples, model.hop)


def check_settings(
    segment: float | None, clip: float, others: Mapping[str, object], *, frozen: bool
) -> None:
    """Whether settings of a decoder alone fit: seconds of a segment and of a clip, and others by
    name. Raises UserInputError.
    """
    if segment is not None and (not frozen or segment > clip):
        raise UserInputError(
            f"decoder_segment_seconds: {segment:g} s, expected at most data.clip_seconds, and"
            " frozen_codec"
        )
    for name, value in others.items():
        if value and not frozen:
            raise UserInputError(f"{name}: {value}, expected none without frozen_codec")


def check_start(start: Source[VQVAE, VQVAESpec] | None, spec: VQVAESpec) -> None:
    """Raises UserInputError for a decoder to start from that has other settings."""
    if start is not None and start.spec.decoder != spec.decoder:
        raise UserInputError(
            f"start_from: {start.loaded.folder} has another decoder, expected that of `model`"
        )


def check_filtered(model: VQVAE, *, recorded_spectrum: bool) -> None:
    """Raises UserInputError where there are no frames to filter to."""
    if conditioning_spectrum(model) is None or recorded_spectrum:
        raise UserInputError(
            "filtered_recordings: expected a frozen_codec with a spectral decoder of log-mel"
            " frames, model.decoder_input not latents, and recorded_spectrum: false"
        )


def filtered_recordings(model: VQVAE, batch: Batch) -> Tensor:
    """Recordings (B, T) whose bands the post-filter has moved to the log-mel frames that are
    predicted from their codes.

    Predicted frames have lost detail. A decoder that is trained on them and on recordings as they
    are learns to draw it anew; one that is trained on these has nothing to add, as a vocoder of
    true frames has not.
    """
    features = conditioning_spectrum(model)
    assert features is not None  # `check_filtered`
    log_mel = model.predicted_log_mel(batch.wave, batch.labels, batch.lengths)
    waves = []
    rows = zip(batch.wave.cpu().numpy(), log_mel.float().cpu().numpy(), strict=True)
    for recording, frames in rows:
        wave = recording
        for _ in range(PASSES):
            wave = Postfilter(features, 1.0, limit=FARTHEST).whole(wave, frames)
        waves.append(wave)
    return torch.from_numpy(np.stack(waves)).to(batch.wave)
