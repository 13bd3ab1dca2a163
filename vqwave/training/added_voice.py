"""One more voice in a trained VQ-VAE: its labels, its rows of the embeddings, and where these
start.

Encoder, quantizer and pitch codec are those of the model, so that codes and their fingerprint are,
too. The new rows start as the mixture of known voices that predicts the recordings best: the
weights of a convex combination, fitted by gradient descent on the spectral decoder's error (on the
likelihood where there is none), with everything else fixed.

A new voice as a combination of known ones: Kuhn et al., 2000, "Rapid speaker adaptation in
eigenvoice space", doi 10.1109/89.876308 (there of components of their means)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vqwave.data import Corpus
from vqwave.data.speaker_vectors import SpeakerVectors, saved_in
from vqwave.errors import UserInputError
from vqwave.inference.embedding_fit import Clips, descend
from vqwave.inference.model_folder import Loaded, ModelCard
from vqwave.models import VQVAE, VQVAESpec
from vqwave.training.coded_clips import CodedClips
from vqwave.training.sources import checked_source

FIT_STEPS, FIT_RATE = 60, 0.1
BEYOND = 0.1  # of the distance from the mean voice: more loses words
SHOWN = 3  # nearest voices that are printed


@dataclass(frozen=True)
class AddedVoice:
    """A model with a row for a new voice.

    labels: the model's values by name, `speaker` among those of `speaker`; known: the voices that
    its decoder was trained in.
    """

    spec: VQVAESpec
    labels: dict[str, list[str]]
    speaker: str
    known: list[str]

    @classmethod
    def to(cls, loaded: Loaded, speaker: str) -> AddedVoice:
        """Raises UserInputError for a model without codes or voices, or that has this one."""
        if not speaker:
            raise UserInputError("speaker: not given, expected the name of the new voice")
        folder, types = loaded.folder or Path(), (VQVAE, VQVAESpec)
        spec = checked_source("base", folder, loaded, types, "a trained VQ-VAE").spec
        labels = loaded.card.labels
        if not loaded.card.decodes:
            raise UserInputError(f"base: {folder} is codes alone, expected a trained VQ-VAE")
        if "speaker" not in spec.decoder.conditioner.categorical:
            raise UserInputError(
                f"base: {loaded.folder} has no speaker labels, expected a model of several voices"
            )
        known = loaded.card.trained("speaker")
        if speaker in known:
            raise UserInputError(
                f"speaker: {speaker}, which {loaded.folder} has already, expected a new name"
            )
        voices = [*labels["speaker"], *([] if speaker in labels["speaker"] else [speaker])]
        bare = replace(spec, adversarial_classifier=None, conversion_classifier=None)
        return cls(bare, {**labels, "speaker": voices}, speaker, known)

    @property
    def row(self) -> int:
        """Of the new voice."""
        return self.labels["speaker"].index(self.speaker)

    @property
    def known_rows(self) -> list[int]:
        """Of the voices that the model has."""
        places = {name: i for i, name in enumerate(self.labels["speaker"])}
        return [places[name] for name in self.known]

    def build(self, loaded: Loaded) -> VQVAE:
        """The model with a row more for the new voice: the mean of the known ones."""
        model = self.spec.build(loaded.card.sample_rate, self.labels)
        weights = loaded.model.state_dict()
        state = {
            name: self._with_row(weights[name], own) for name, own in model.state_dict().items()
        }
        model.load_state_dict(state)
        return model.eval()

    def _with_row(self, trained: Tensor, own: Tensor) -> Tensor:
        if trained.shape == own.shape:
            return trained
        return torch.cat([trained, trained[self.known_rows].mean(0, keepdim=True)])

    def tables(self, model: VQVAE) -> list[nn.Embedding]:
        """Of the speakers, in every part that is conditioned on them."""
        parts = [model.decoder.conditioner, model.spectral_decoder]
        modules = [part.embeddings["speaker"] for part in parts if part is not None]
        return [cast(nn.Embedding, module) for module in modules]

    def start(self, model: VQVAE, weights: Tensor) -> None:
        """Put the new rows at a mixture, weights (K,), of the known ones."""
        with torch.no_grad():
            for table in self.tables(model):
                table.weight[self.row] = weights @ table.weight[self.known_rows]

    @torch.no_grad()
    def fit_spectral_embedding(self, model: VQVAE, clips: CodedClips) -> None:
        """Put the new row of the spectral decoder `BEYOND` further away from the mean of the known
        ones than where it fits clips of the voice, from where it lies on.
        """
        decoder = model.spectral_decoder
        assert decoder is not None
        weight = cast(nn.Embedding, decoder.embeddings["speaker"]).weight
        total = decoder.embedded(clips.labels)[:1]
        rest = total - weight[self.row]  # of other labels
        pitch = model.pitch(clips.pitch_codes, clips.labels, clips.z.shape[-1], clips.mask)
        fitted = descend(decoder, Clips(clips.z, clips.frames, pitch, clips.mask), total) - rest
        mean = weight[self.known_rows].mean(0)
        weight[self.row] = torch.lerp(mean, fitted[0], 1 + BEYOND)

    def fit_mixture(self, model: VQVAE, loss: Callable[[], Tensor]) -> Tensor:
        """Weights (K,) of the known voices, at least 0, of sum 1, that make `loss()` least.

        loss: of recordings with the new voice's label. The model is left as it was.
        """
        logits = torch.zeros(len(self.known), requires_grad=True)
        tables, optimizer = self.tables(model), torch.optim.Adam([logits], FIT_RATE)
        rows = [table.weight[self.known_rows].detach() for table in tables]
        for _ in range(FIT_STEPS):
            mixed = [logits.softmax(0) @ row for row in rows]
            with _in_row(tables, self.row, mixed):
                # of the weights alone: the model's own parameters keep no gradient
                (logits.grad,) = torch.autograd.grad(loss(), [logits])
            optimizer.step()
        return logits.detach().softmax(0)

    def card(self, base: ModelCard, entries: Mapping[str, Any]) -> ModelCard:
        """The base's card with the new voice; entries: further ones, or in place of the base's."""
        about = {**base.about, **entries}
        untrained = {
            name: [value for value in values if name != "speaker" or value != self.speaker]
            for name, values in about.pop("untrained_labels", {}).items()
        }
        if untrained := {name: values for name, values in untrained.items() if values}:
            about["untrained_labels"] = untrained
        rate = base.sample_rate
        return ModelCard(sample_rate=rate, labels=self.labels, spec=self.spec, about=about)

    def vectors(self, loaded: Loaded, corpus: Corpus) -> SpeakerVectors | None:
        """Those of the model's voices, and of the new one if both have any."""
        known, own = loaded.voices, saved_in(corpus.folder)
        vector = None if own is None else own.of(self.speaker)
        if known is None or vector is None:
            return known
        names = (*known.names, self.speaker)
        return replace(known, names=names, vectors=np.vstack([known.vectors, vector]))

    def nearest(self, weights: Tensor) -> str:
        """The voices of most weight, as they are printed."""
        shares = dict(zip(self.known, weights.tolist(), strict=True))
        most = sorted(shares, key=lambda name: -shares[name])[:SHOWN]
        return ", ".join(f"{name} ({shares[name]:.0%})" for name in most)


class _in_row:  # noqa: N801 - a context manager
    """Within, the row `row` of each table is what is given, with its gradient."""

    def __init__(self, tables: Sequence[nn.Embedding], row: int, values: Sequence[Tensor]) -> None:
        self.tables, self.row, self.values = tables, row, values
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        for table, value in zip(self.tables, self.values, strict=True):
            self.hooks.append(table.register_forward_hook(self._hook(value)))

    def _hook(self, value: Tensor) -> Callable[..., Tensor]:
        def replaced(_: nn.Module, ids: tuple[Tensor], output: Tensor) -> Tensor:
            return torch.where((ids[0] == self.row)[..., None], value, output)

        return replaced

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()
