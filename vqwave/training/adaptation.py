"""What a new voice trains in a VQ-VAE: the decoder and the spectral decoder, on the codes of
recordings, which stay as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from vqwave.data import Batch
from vqwave.decode.reference import noise_scales
from vqwave.decode.sampling import Temperatures, temperatures_of
from vqwave.inference.embedding_fit import Clips
from vqwave.losses import EnergySpec, negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.models import VQVAE, Student, WaveNet
from vqwave.nn.auxiliary.spectral_decoder import EMBEDDING
from vqwave.nn.module_lists import submodules
from vqwave.nn.random_segments import sliced
from vqwave.nn.wavenet import Stack
from vqwave.rng import keyed
from vqwave.rng.philox import uniforms
from vqwave.training.added_voice import AddedVoice

D = TypeVar("D", bound=nn.Module)
PARTS = 4  # uniforms a sample of a student's noise


@dataclass(frozen=True)
class Coded:
    """Recordings as they reach the decoders: quantized latents z (B, D, F), mask (B, F) of the real
    ones, pitch (B, 2, F') of a model with melody: decoded from its codes, and the recordings' own.
    """

    z: Tensor
    mask: Tensor
    pitch: Tensor | None
    recorded: Tensor | None


@torch.no_grad()
def coded(model: VQVAE, batch: Batch) -> Coded:
    """Encoder, quantizer and pitch codec are not trained."""
    codes, mask = model.encode(batch.wave, batch.lengths), batch.frame_mask(model.hop)
    melody = model.encode_pitch(batch.labels, batch.lengths)
    pitch = model.pitch(melody, batch.labels, codes.shape[-1], mask)
    recorded = None if pitch is None else model.recorded_pitch(batch.labels, pitch)
    return Coded(model.quantizer.decode(codes), mask, pitch, recorded)


def spectral_loss(
    model: VQVAE, batch: Batch, x: Coded, added: AddedVoice
) -> tuple[Tensor | None, Tensor | None]:
    """The spectral decoder's frames, and their error; None of a model without."""
    if model.spectral_decoder is None:
        return None, None
    labels = {**batch.labels, EMBEDDING: added.spectral_embedding(model, batch.labels)}
    spectrum = model.spectral_decoder(x.z, labels, x.mask, x.pitch)
    return spectrum, model.spectral_decoder.loss(spectrum, batch.wave, x.mask)


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
    """The decoders of a VQ-VAE, as one module that yields the losses of a batch.

    The remaining parts of the model are no parts of this one, so that they stay in evaluation mode.
    """

    def __init__(
        self, model: VQVAE, objective: Objective[Any], segment: int, added: AddedVoice
    ) -> None:
        """segment: samples of each clip, anywhere, that the decoder is trained on."""
        super().__init__()
        self.added = added
        self.decoder, self.spectral_decoder = model.decoder, model.spectral_decoder
        self.objective, self.segment = objective, segment
        self._model = (model,)  # a tuple is not registered

    @property
    def model(self) -> VQVAE:
        """All of it."""
        return self._model[0]

    def choose_trained(self) -> None:
        """All of the decoder has gradients; of the spectral decoder the speakers' embeddings alone:
        the frames of the other voices stay as they are.
        """
        self.decoder.requires_grad_(requires_grad=True)
        if self.spectral_decoder is not None:
            self.spectral_decoder.embeddings["speaker"].requires_grad_(requires_grad=True)

    def start_loss(self, batch: Batch) -> Callable[[], Tensor]:
        """What the mixture that the new rows start from makes least on clips of the new voice: the
        error of the spectral decoder, where there is none the decoder's loss.
        """
        x = coded(self.model, batch)

        def loss() -> Tensor:
            error = spectral_loss(self.model, batch, x, self.added)[1]
            if error is None:
                error = torch.stack(list(self.held_out(batch, 0, 0).values())).sum()
            return error

        return loss

    def fit_spectral_embedding(self, batch: Batch) -> None:
        """Where the new row of the spectral decoder starts, by clips of the new voice."""
        decoder, x = self.spectral_decoder, coded(self.model, batch)
        if decoder is not None:
            clips = Clips(x.z, decoder.frontend(batch.wave, mask=x.mask), x.pitch, x.mask)
            self.added.fit_spectral_embedding(self.model, clips, batch.labels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """A training batch -> losses by name, unweighted."""
        frames, losses = self._frames(batch)
        frames = self.model.add_decoder_noise(frames)
        batch, frames = sliced(batch, frames, self.segment, self.model.hop)
        return losses | self.objective.losses(self.decoder, batch, frames)

    def held_out(self, batch: Batch, seed: int, first: int) -> dict[str, Tensor]:
        """The same of whole clips, the first of which has number `first`, without noise."""
        frames, losses = self._frames(batch)
        B, T = batch.wave.shape
        clips = torch.arange(B) + first
        u = torch.stack([uniforms(each, clips, 0, T) for each in (seed, seed + 1)])
        return losses | self.objective.losses(self.decoder, batch, frames, u.to(batch.wave))

    def _frames(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The decoder's frames, and the loss of the spectral decoder, of which only the new row is
        trained, by no other loss.
        """
        model, x = self.model, coded(self.model, batch)
        spectrum, error = spectral_loss(model, batch, x, self.added)
        predicted = None if spectrum is None else spectrum.detach()
        frames = model.decoder_features(x.z, batch.labels, predicted, x.mask, x.recorded)
        return frames, {} if error is None else {"spectral": error}

    def voice_parameters(self) -> list[nn.Parameter]:
        """Embeddings of labels, and the layers that project a condition."""
        parts: list[nn.Module | None] = [self.decoder.conditioner]
        parts += [stack.projection for stack in submodules(self.decoder, Stack)]
        if self.spectral_decoder is not None:
            parts.append(self.spectral_decoder.embeddings)
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
