"""Models: each composed of built parts; a spec tree builds any of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vqwave.models.student import Student, StudentSpec
from vqwave.models.vqvae import VQVAE, VQVAESpec
from vqwave.models.wavenet import Vocabulary, WaveNet, WaveNetSpec

ModelSpec = Annotated[WaveNetSpec | StudentSpec | VQVAESpec, Field(discriminator="kind")]
Model = WaveNet | Student | VQVAE

__all__ = ["VQVAE", "Model", "ModelSpec", "Student", "StudentSpec", "VQVAESpec", "Vocabulary", "WaveNet", "WaveNetSpec"]
