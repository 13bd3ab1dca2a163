"""What a new voice trains in the decoder of a VQ-VAE, on the codes of recordings, which stay as
they are; the spectral decoder comes first, see `spectral_adaptation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from vqwave.data import Batch
from vqwave.decode.reference import noise_scales
from vqwave.decode.sampling import Temperatures, temperatures_of
from vqwave.losses import EnergySpec, negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.models import VQVAE, Student, WaveNet
from vqwave.nn.module_lists import submodules
from vqwave.nn.random_segments import sliced
from vqwave.nn.wavenet import Stack
from vqwave.rng import keyed
from vqwave.rng.philox import uniforms
from vqwave.training.coded_clips import CodedClips

D = TypeVar("D", bound=nn.Module)
PARTS = 4  # uniforms a sample of a student's noise


class Objective(ABC, Generic[D]):
    """How a decoder of type D is trained on recordings."""

    names: tuple[str, ...]

    def __init__(self, temperatures: Temperatures) -> None:
        """temperatures: that the decoder generates by."""
        self.temperatures = temperatures

    @abstractmethod
    def losses(
        self, decoder: D, batch: Batch, frames: Tensor, u: Tensor | None = None
    ) -> dict[str, Tensor]:
        """frames (B, D, F) of the clips -> losses by name, unweighted.

        u: uniforms of fixed noise (2, 4, B, T), of two samples a clip; else they are drawn.
        """

    def metrics(self, decoder: D, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is logged with the losses."""
        del decoder, losses
        return {}


class LikelihoodObjective(Objective[WaveNet]):
    """A WaveNet's negative log-likelihood."""

    names = ("nll",)

    def losses(
        self, decoder: WaveNet, batch: Batch, frames: Tensor, u: Tensor | None = None
    ) -> dict[str, Tensor]:
        del u
        mask = batch.frame_mask(decoder.hop)
        distribution = decoder(batch.wave, batch.labels, frames, mask)
        return {"nll": negative_log_likelihood(distribution, batch.wave, batch.mask)}

    def metrics(self, decoder: WaveNet, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"bits": likelihood.bits_of(decoder.head, losses["nll"].detach())}


class SpectralObjective(Objective[Student]):
    """The spectral energy distance of a student's samples, by its own temperatures, from the
    recordings, without a teacher. Gritsenko et al., 2020, eq. 5 to 7. arXiv:2008.01160
    """

    names = ("energy_distance",)

    def __init__(self, temperatures: Temperatures) -> None:
        super().__init__(temperatures)
        self.distance = EnergySpec()

    def losses(
        self, decoder: Student, batch: Batch, frames: Tensor, u: Tensor | None = None
    ) -> dict[str, Tensor]:
        B, T = batch.wave.shape
        if u is None:
            u = keyed.uniforms(B, 2, PARTS, T, like=batch.wave).permute(1, 2, 0, 3)
        given = (frames, batch.labels, batch.frame_mask(decoder.hop))
        scale = noise_scales(decoder, self.temperatures, *given, samples=T)
        x, other = (
            decoder(decoder.noise(each, scale), batch.labels, frames, given[2]).x * batch.mask
            for each in u.clamp(1e-6, 1 - 1e-6)
        )
        return {"energy_distance": self.distance.loss(x, other, batch.wave)}


OBJECTIVES: dict[str, type[Objective[Any]]] = {
    "wavenet": LikelihoodObjective,
    "student": SpectralObjective,
}
"""By `kind` of a decoder's settings."""


def objective_of(kind: str, about: Mapping[str, Any]) -> Objective[Any]:
    """That of a `kind` of decoder, by the temperatures that its card's `about` has."""
    return OBJECTIVES[kind](temperatures_of(about))


class Adaptation(nn.Module):
    """The decoder of a VQ-VAE, as a module that yields the losses of a batch.

    The other parts of the model are no parts of this one, so that they stay in evaluation mode.
    """

    def __init__(self, model: VQVAE, objective: Objective[Any], segment: int) -> None:
        """segment: samples of each clip, anywhere, that the decoder is trained on."""
        super().__init__()
        self.decoder = model.decoder
        self.objective, self.segment = objective, segment
        self._model = (model,)  # a tuple is not registered

    @property
    def model(self) -> VQVAE:
        """All of it."""
        return self._model[0]

    def start_loss(self, batch: Batch) -> Callable[[], Tensor]:
        """What the mixture that the new rows start from makes least on clips of the new voice: the
        error of the spectral decoder, where there is none the decoder's loss.
        """
        model, decoder = self.model, self.model.spectral_decoder
        if decoder is None:
            return lambda: torch.stack(list(self.held_out(batch, 0, 0).values())).sum()
        x = CodedClips.of(model, [batch])

        def loss() -> Tensor:
            pitch = model.pitch(x.pitch_codes, x.labels, x.z.shape[-1], x.mask)
            return decoder.loss(decoder(x.z, x.labels, x.mask, pitch), batch.wave, x.mask)

        return loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """A training batch -> losses by name, unweighted."""
        frames = self.model.add_decoder_noise(self._frames(batch))
        batch, frames = sliced(batch, frames, self.segment, self.model.hop)
        return self.objective.losses(self.decoder, batch, frames)

    def held_out(self, batch: Batch, seed: int, first: int) -> dict[str, Tensor]:
        """The same of whole clips, the first of which has number `first`, without noise."""
        B, T = batch.wave.shape
        clips = torch.arange(B) + first
        u = torch.stack([uniforms(each, clips, 0, T) for each in (seed, seed + 1)])
        return self.objective.losses(self.decoder, batch, self._frames(batch), u.to(batch.wave))

    def _frames(self, batch: Batch) -> Tensor:
        """What conditions the decoder on the codes; the recordings' own spectral frames and pitch,
        in place of what is predicted, as a vocoder is trained.
        """
        return self.model.features_of_recordings(
            batch.wave, batch.labels, batch.lengths, recorded_pitch=True, recorded_spectrum=True
        )

    def voice_parameters(self) -> list[nn.Parameter]:
        """Embeddings of labels, and the layers that project a condition."""
        parts: list[nn.Module | None] = [self.decoder.conditioner]
        parts += [stack.projection for stack in submodules(self.decoder, Stack)]
        return [p for part in parts if part is not None for p in part.parameters()]

    def other_parameters(self) -> list[nn.Parameter]:
        """All others that are trained."""
        voice = {id(p) for p in self.voice_parameters()}
        return [p for p in self.parameters() if id(p) not in voice]


def held_out_sums(
    trained: Adaptation, batches: Iterable[Batch], weights: Mapping[str, float], seed: int
) -> dict[str, Tensor]:
    """Sums over the clips of `batches` of each loss by name and of `loss`, their weighted sum, and
    how many `clips` there are.
    """
    sums: dict[str, Tensor] = {}
    first = 0
    for batch in batches:
        losses = trained.held_out(batch, seed, first)
        total = sum(
            (weights.get(name, 0.0) * x for name, x in losses.items()),
            torch.zeros(()).to(batch.wave),
        )
        first += len(batch)
        for name, value in {"loss": total, **losses, "clips": torch.ones(())}.items():
            zero = torch.zeros((), dtype=torch.float64)
            sums[name] = sums.get(name, zero) + len(batch) * value.cpu()
    return sums
