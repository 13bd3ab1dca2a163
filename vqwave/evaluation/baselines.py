"""Griffin-Lim of spectral frames: of the recordings', and of those a decoder is conditioned on.

The first says what frames of this kind carry, the second what a decoder adds to its own frames, or
loses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from vqwave.audio import Wave
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.stages import Advance
from vqwave.features import LogMel, LogMelSpec
from vqwave.metrics.griffin_lim import griffin_lim
from vqwave.nn.frontend import Frontend


def usual_frames(sample_rate: int) -> LogMel:
    """64 mel bands (40 below 16 kHz) each 10 ms."""
    hop_ms = 1000 * round(sample_rate / 100) / sample_rate
    bands = 64 if sample_rate >= 16000 else 40
    return LogMelSpec(bands=bands, hop_ms=hop_ms, fmax=min(7600.0, sample_rate / 2)).build(
        sample_rate
    )


def frontend_of(material: EvaluationContext) -> Frontend | None:
    """The front end of the decoder's log-mel frames, a readout's or a vocoder's, or None."""
    model = material.codec.model
    readout = getattr(model, "spectral_decoder", None)
    frontend = material.codec.decoder.frontend if readout is None else readout.frontend
    return frontend if isinstance(getattr(frontend, "features", None), LogMel) else None


def again(waves: Sequence[Wave], features: LogMel, advance: Advance) -> list[Wave]:
    """Griffin-Lim of the frames of waveforms (T,)."""
    made = []
    for wave in waves:
        x = F.pad(torch.from_numpy(wave), (0, -len(wave) % features.hop))[None]
        made.append(griffin_lim(features(x), features)[0, : len(wave)].numpy())
        advance(1)
    return made


def true_frames(material: EvaluationContext) -> list[Wave]:
    """Griffin-Lim of the recordings' frames, of the kind that the decoder is conditioned on."""

    def make() -> list[Wave]:
        frontend = frontend_of(material)
        features = usual_frames(material.rate) if frontend is None else frontend.features.cpu()
        with material.stage(
            "Griffin-Lim of true frames", len(material.rows), "utterances"
        ) as advance:
            return again(material.waves, features, advance)

    return material.once("griffin-lim", "true frames", make)


def own_frames(material: EvaluationContext) -> list[Wave]:
    """Griffin-Lim of the decoder's own frames; a vocoder's are the true ones."""
    if not material.has_codes:
        return true_frames(material)
    return material.once(
        "griffin-lim",
        "own frames",
        lambda: _predicted(material, range(len(material.rows)), material.rows),
    )


def converted_frames(material: EvaluationContext) -> list[Wave]:
    """The same of conversions, in the order of `EvaluationContext.pairs`."""
    places, voices = [i for i, _ in material.pairs], material.pair_rows
    return material.once("griffin-lim", "conversions", lambda: _predicted(material, places, voices))


@torch.inference_mode()
def _predicted(
    material: EvaluationContext, places: Sequence[int], voices: Sequence[int]
) -> list[Wave]:
    """Griffin-Lim of predicted frames: codes of utterances `places`, voices of rows `voices`."""
    codec, made = material.codec, []
    model = codec.model
    with material.stage("Griffin-Lim of predicted frames", len(places), "utterances") as advance:
        for place, voice in zip(places, voices, strict=True):
            coded = material.coded[place]
            labels = material.labels_of(voice, material.rows[place])
            conditions = codec.given.attributes(labels, material.vectors_of(codec, voice))
            conditions |= codec.given.range_of(conditions, coded.pitch)
            codes = coded.codes[None].to(codec.device)
            melody = None if coded.pitch is None else coded.pitch.codes[None].to(codec.device)
            pitch = model.pitch(melody, conditions, codes.shape[-1])
            predicted = model.spectral_decoder(
                model.quantizer.decode(codes), conditions, pitch=pitch
            )
            waves = griffin_lim(
                model.spectral_decoder.log_mel(predicted), model.spectral_decoder.spectrum
            )
            made.append(waves[0, : coded.samples].cpu().numpy())
            advance(1)
    return made
