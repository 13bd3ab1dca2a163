"""Models: each composed of built parts; a spec tree builds any of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqwave.models.classifier import Classifier, ClassifierSpec
from vqwave.models.pitch import PitchCodec, PitchCodecSpec, denormalise, normalise
from vqwave.models.prior import Prior, PriorSpec
from vqwave.models.student import Density, Student, StudentSpec
from vqwave.models.vqvae import VQVAE, VQVAESpec
from vqwave.models.wavenet import Vocabulary, WaveNet, WaveNetSpec

ModelSpec = Annotated[
    WaveNetSpec | StudentSpec | VQVAESpec | PriorSpec | ClassifierSpec | PitchCodecSpec,
    Field(discriminator="kind"),
]
Model = WaveNet | Student | VQVAE | Prior | Classifier | PitchCodec

__all__ = [
    "VQVAE",
    "Classifier",
    "ClassifierSpec",
    "Density",
    "Model",
    "ModelSpec",
    "PitchCodec",
    "PitchCodecSpec",
    "Prior",
    "PriorSpec",
    "Student",
    "StudentSpec",
    "VQVAESpec",
    "Vocabulary",
    "WaveNet",
    "WaveNetSpec",
    "denormalise",
    "normalise",
]
