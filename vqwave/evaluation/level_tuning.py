"""The level of a model's copies, and the gain of the spectral decoder's frames that mends it.

Log-mel frames are predicted by their median, which lies below the mean power of all that fit the
codes, and low temperatures take energy: copies are softer than the recordings. A decoder that is
conditioned on the predicted frames is as much louder as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vqwave.evaluation.context import EvaluationContext
from vqwave.evaluation.judged import NO_COPIES
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder

PASSES = 3  # at the most, each with the gain of those before
CLOSE = 0.05  # dB
NO_FRAMES = "no spectral decoder of log-mel frames conditions its decoder"


def level(context: EvaluationContext) -> float:
    """Energy of all copies, by the context's temperatures, against that of the recordings, dB.

    Raises NotApplicable for a model that makes no copies.
    """
    context.need(context.reconstructs, NO_COPIES)
    copies = context.outputs.with_sampling(context.settings.sampling).reconstructed("model")
    energies = [
        sum(float(np.square(wave, dtype=np.float64).sum()) for wave in waves)
        for waves in (copies, context.waves)
    ]
    return 10 * float(np.log10(max(energies[0], 1e-30) / max(energies[1], 1e-30)))


def tune(context: EvaluationContext, report: Callable[[float, float], None]) -> float:
    """Amplify the frames of the context's model until its copies have the recordings' level.

    report: called with the gain and the level at that gain, both dB, as they are measured. Returns
    the gain. Raises NotApplicable for a decoder that no predicted log-mel frames condition, or
    whose level does not follow theirs, as that of an untrained one.
    """
    predictor = spectral_decoder(context)
    gain, first = 0.0, level(context)
    measured = first
    report(gain, measured)
    for _ in range(PASSES):
        if abs(measured) < CLOSE:
            return gain
        predictor.amplify(-measured)
        gain -= measured
        measured = level(context)
        report(gain, measured)
    context.need(
        abs(measured) <= abs(first) / 2,
        f"its level does not follow its frames: {gain:+.1f} dB of these moved it from"
        f" {first:+.1f} to {measured:+.1f} dB",
    )
    return gain


def spectral_decoder(context: EvaluationContext) -> SpectralDecoder:
    """The part of the model whose frames condition its decoder. Raises NotApplicable."""
    model = context.vqvae
    predictor = None if model.decoder_input == "latents" else model.spectral_decoder
    context.need(predictor is not None and predictor.spectrum is not None, NO_FRAMES)
    assert predictor is not None
    return predictor
