"""All losses of a distillation by name: what a weight in the config chooses among."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from vqwave.config import option, spec
from vqwave.errors import UserInputError
from vqwave.losses.adversarial import AdversarialSpec
from vqwave.losses.distillation import KL, ContrastiveSpec, Distilled, RandomisedQuantiles, spread
from vqwave.losses.energy import EnergySpec
from vqwave.losses.perceptual import style_loss
from vqwave.losses.spectral import PowerSpec, STFTSpec
from vqwave.models import Classifier


@spec
class PerceptualSpec:
    """The perceptual loss; see `style_loss`."""

    classifier: Path = option(
        default=Path("runs/classifier"), help="run of experiments/classifier.py on the same corpus"
    )


@spec
class DistillationSpec:
    """Settings of the losses; each works as soon as it has a weight in `losses`."""

    kl: KL = option(default=RandomisedQuantiles(), help="how the KL is estimated")
    kl_until: Annotated[int, Field(ge=1)] | None = option(
        default=None,
        help=(
            "step from which on neither the KL nor any other loss asks the teacher: the student is"
            " finished by the losses on recordings, several times as fast"
        ),
    )
    scale_temperature: Annotated[float, Field(gt=0, le=1)] = option(
        default=1.0,
        help=(
            "factor on the noise of unvoiced frames, or of all where voicing is unknown, in"
            " training: 1, but for losses on recordings alone"
        ),
    )
    voiced_temperature: Annotated[float, Field(gt=0, le=1)] = option(
        default=1.0, help="the same of voiced frames"
    )
    contrastive: ContrastiveSpec = option(
        default=ContrastiveSpec(), help="settings of the contrastive loss"
    )
    power: PowerSpec = option(
        default=PowerSpec(), help="settings of the power loss, and the window of log_spectral"
    )
    stft: STFTSpec = option(default=STFTSpec(), help="settings of the multi-resolution STFT loss")
    energy_distance: EnergySpec = option(
        default=EnergySpec(), help="settings of the spectral energy distance"
    )
    perceptual: PerceptualSpec = option(
        default=PerceptualSpec(), help="settings of the perceptual loss"
    )
    adversarial: AdversarialSpec = option(
        default=AdversarialSpec(), help="settings of the adversarial loss"
    )

    def check_temperatures(self, weights: Mapping[str, float]) -> None:
        """Raises UserInputError for narrowed noise with a loss that compares with the teacher,
        whose density is that of samples at temperature 1.
        """
        asked = [name for name in DistillationLosses.of_teacher if weights.get(name)]
        for name in ("scale_temperature", "voiced_temperature"):
            if asked and getattr(self, name) != 1.0:
                raise UserInputError(
                    f"{name}: {getattr(self, name):g} with losses.{asked[0]}, which compares"
                    " densities, expected 1"
                )


class DistillationLosses:
    """The losses that have a weight, by name; the others are not computed.

    `adversarial` is there if `adversarial` has a weight.
    """

    names = (
        "kl",
        "log_scale_regularizer",
        "contrastive",
        "power",
        "log_spectral",
        "stft",
        "energy_distance",
        "perceptual",
        "adversarial",
    )

    of_teacher = ("kl", "log_scale_regularizer", "contrastive")

    def __init__(
        self,
        settings: DistillationSpec,
        weights: Mapping[str, float],
        classifier: Classifier | None = None,
    ) -> None:
        self.classifier = classifier
        self.adversarial = settings.adversarial.build() if weights.get("adversarial") else None
        self.step = 0
        terms: dict[str, Callable[[Distilled], Tensor]] = {
            "kl": lambda d: d.kl,
            "log_scale_regularizer": lambda d: spread(d.student, d.teacher, d.mask),
            "contrastive": lambda d: settings.contrastive.loss(d.divergence(d.contrast()), d.mask),
            "power": lambda d: settings.power.power(d.x, d.y),
            "log_spectral": lambda d: settings.power.log_spectral(d.x, d.y),
            "stft": lambda d: settings.stft.loss(d.x, d.y),
            "energy_distance": lambda d: settings.energy_distance.loss(d.x, d.redraw(), d.y),
            "perceptual": self._perceptual,
            "adversarial": self._adversarial,
        }
        self.terms = {name: terms[name] for name in self.names if weights.get(name)}
        self.kl_until = settings.kl_until

    def _perceptual(self, distilled: Distilled) -> Tensor:
        assert self.classifier is not None  # given wherever the loss has a weight
        return style_loss(self.classifier, distilled.x, distilled.y, distilled.mask)

    def _adversarial(self, distilled: Distilled) -> Tensor:
        assert self.adversarial is not None  # built wherever the loss has a weight
        return self.adversarial.loss(distilled.x, distilled.y, distilled.mask, self.step)

    def to(self, device: torch.device) -> DistillationLosses:
        if self.classifier is not None:
            self.classifier.to(device)
        if self.adversarial is not None:
            self.adversarial.discriminator.to(device)
        return self

    def __call__(self, distilled: Distilled) -> dict[str, Tensor]:
        """Unweighted, by name."""
        terms = self.terms.items()
        if self.kl_until is not None and self.step >= self.kl_until:
            return {name: term(distilled) for name, term in terms if name not in self.of_teacher}
        return {name: term(distilled) for name, term in terms}

    def state(self) -> dict[str, Tensor]:
        """What is trained with the student, for checkpoints: the discriminator."""
        return self.adversarial.state() if self.adversarial else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        if self.adversarial:
            self.adversarial.load_state(state)

    def held_out(self, distilled: Distilled) -> dict[str, Tensor]:
        """The same for a validation batch, without the adversarial term, which has no scale of its
        own.
        """
        return {name: term(distilled) for name, term in self.terms.items() if name != "adversarial"}
