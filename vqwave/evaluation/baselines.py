"""Griffin-Lim of spectral frames: of the recordings', and of those a decoder is conditioned on.

The first measures what frames of this kind carry, the second what a decoder adds to its own frames,
or loses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from vqwave.audio import Wave
from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.outputs import GivenVoice
from vqwave.evaluation.progress import Advance, NotApplicable
from vqwave.features import LogMel, LogMelSpec
from vqwave.metrics.griffin_lim import griffin_lim


def usual_frames(sample_rate: int) -> LogMel:
    """64 mel bands (40 below 16 kHz) each 10 ms."""
    hop_ms = 1000 * round(sample_rate / 100) / sample_rate
    bands = 64 if sample_rate >= 16000 else 40
    return LogMelSpec(bands=bands, hop_ms=hop_ms, fmax=min(7600.0, sample_rate / 2)).build(
        sample_rate
    )


def spectrum_of(context: EvaluationContext) -> LogMel | None:
    """The log-mel features on which the decoder is conditioned, predicted or a vocoder's, or
    None.
    """
    predictor = getattr(context.codec.model, "spectral_decoder", None)
    frontend = context.codec.decoder.frontend if predictor is None else predictor.frontend
    return None if frontend is None else frontend.log_mel


def inverted(waves: Sequence[Wave], features: LogMel, advance: Advance) -> list[Wave]:
    """Griffin-Lim of the frames of waveforms (T,)."""
    result = []
    for wave in waves:
        x = F.pad(torch.from_numpy(wave), (0, -len(wave) % features.hop))[None]
        result.append(griffin_lim(features(x), features)[0, : len(wave)].numpy())
        advance(1)
    return result


def true_frames(context: EvaluationContext) -> list[Wave]:
    """Griffin-Lim of the recordings' frames, of the kind that the decoder is conditioned on."""

    def make() -> list[Wave]:
        spectrum = spectrum_of(context)
        features = usual_frames(context.rate) if spectrum is None else spectrum.cpu()
        count = len(context.rows)
        with context.progress("Griffin-Lim of true frames", count, "utterances") as advance:
            return inverted(context.waves, features, advance)

    return context.outputs.once("griffin-lim", "true frames", make)


def own_frames(context: EvaluationContext) -> list[Wave]:
    """Griffin-Lim of the decoder's own frames; a vocoder's are the true ones."""
    if not context.has_codes:
        return true_frames(context)
    return context.outputs.once(
        "griffin-lim",
        "own frames",
        lambda: _predicted(context, range(len(context.rows)), context.outputs.own_voices),
    )


def converted_frames(context: EvaluationContext) -> list[Wave]:
    """The same of conversions, in the order of `EvaluationContext.pairs`."""
    places = [i for i, _ in context.pairs]
    return context.outputs.once(
        "griffin-lim",
        "conversions",
        lambda: _predicted(context, places, context.outputs.target_voices),
    )


@torch.inference_mode()
def _predicted(
    context: EvaluationContext, places: Sequence[int], voices: Sequence[GivenVoice]
) -> list[Wave]:
    """Griffin-Lim of predicted frames: codes of utterances `places` in these voices."""
    codec, model, result = context.codec, context.vqvae, []
    predictor, spectrum = model.spectral_decoder, spectrum_of(context)
    if predictor is None or spectrum is None:
        raise NotApplicable("the decoder is conditioned on no log-mel frames")
    with context.progress("Griffin-Lim of predicted frames", len(places), "utterances") as advance:
        for place, voice in zip(places, voices, strict=True):
            coded = context.coded[place]
            given, like = codec.given, voice.like
            conditions = given.voice(None, voice.labels, voice.embeddings, like)
            conditions |= given.range_of(conditions, coded.pitch, like=like)
            codes = coded.codes[None].to(codec.device)
            melody = None if coded.pitch is None else coded.pitch.codes[None].to(codec.device)
            pitch = model.pitch(melody, conditions, codes.shape[-1])
            frames = predictor(model.quantizer.decode(codes), conditions, pitch=pitch)
            waves = griffin_lim(predictor.log_mel(frames), spectrum)
            result.append(waves[0, : coded.samples].cpu().numpy())
            advance(1)
    return result
