"""Losses: named, unweighted, pure functions.

Their weights live in the config and are summed in one place.

A loss with settings has a spec next to it; a loss without a weight is never computed.
"""

from vqwave.losses.adversarial import (
    AdversarialSpec,
    AdversarialTraining,
    adversarial_loss,
    discriminator_loss,
)
from vqwave.losses.distillation import (
    KL,
    ClosedGaussian,
    ContrastiveSpec,
    Distilled,
    Divergence,
    FixedQuantiles,
    GaussLegendre,
    IndependentDraws,
    RandomisedQuantiles,
    cross_entropy,
    distillation_kl,
    randomised_quantiles,
    spread,
)
from vqwave.losses.energy import EnergySpec
from vqwave.losses.likelihood import negative_log_likelihood
from vqwave.losses.objective import DistillationLosses, DistillationSpec, PerceptualSpec
from vqwave.losses.perceptual import gram, style_loss
from vqwave.losses.spectral import (
    PowerSpec,
    STFTSpec,
    log_spectral_loss,
    power_loss,
    power_spectrum,
)

__all__ = [
    "KL",
    "AdversarialSpec",
    "AdversarialTraining",
    "ClosedGaussian",
    "ContrastiveSpec",
    "DistillationLosses",
    "DistillationSpec",
    "Distilled",
    "Divergence",
    "EnergySpec",
    "FixedQuantiles",
    "GaussLegendre",
    "IndependentDraws",
    "PerceptualSpec",
    "PowerSpec",
    "RandomisedQuantiles",
    "STFTSpec",
    "adversarial_loss",
    "cross_entropy",
    "discriminator_loss",
    "distillation_kl",
    "gram",
    "log_spectral_loss",
    "negative_log_likelihood",
    "power_loss",
    "power_spectrum",
    "randomised_quantiles",
    "spread",
    "style_loss",
]
