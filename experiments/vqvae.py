"""Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech.

accelerate launch experiments/vqvae.py --config configs/vqvae/fsdd.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.data.frame_tracks import Track, stored_pitch
from vqwave.data.voices import voices_of
from vqwave.distributions import Distribution
from vqwave.errors import UserInputError
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.metrics.autoencoder import Autoencoding
from vqwave.models import VQVAE, PitchCodec, VQVAESpec
from vqwave.nn.random_segments import sliced
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec
from vqwave.training.tracking import SampleSheet
from vqwave.training.trainer import main


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/vqvae.py`."""

    model: VQVAESpec = option(default=VQVAESpec(), help="encoder, quantizer, decoder")
    losses: dict[str, float] = option(
        default={"nll": 1.0, "commitment": 0.25, "codebook": 1.0},
        help=(
            "weights: nll, commitment, codebook (of a gradient codebook), entropy (with"
            " quantizer.entropy), spectral and cycle_consistency (with spectral_decoder),"
            " domain_adversarial (with adversarial_classifier), auxiliary_classification and"
            " conversion_classification (with conversion_classifier)"
        ),
    )
    frozen_codec: Path | None = option(
        default=None,
        help="run whose encoder, quantizer and spectral decoder are kept; the decoder is trained",
    )
    decoder_segment_seconds: Annotated[float, Field(gt=0)] | None = option(
        default=None,
        help=(
            "with frozen_codec: seconds of each clip, anywhere, that the decoder is trained on;"
            " codes are those of the whole clip"
        ),
    )
    pitch: Path | None = option(
        default=None,
        help=(
            "run of experiments/pitch.py whose codec of the melody is taken as it is, a second"
            " stream of codes"
        ),
    )
    recorded_pitch: bool = option(
        default=True,
        help=(
            "with a melody: the decoder is trained on the recordings' own F0, not on the one"
            " decoded from its codes"
        ),
    )
    num_samples: Count = option(default=4, help="utterances in samples/")


class VQVAEExperiment(Experiment[Config]):
    """Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech."""

    name = "vqvae"
    config_class = Config
    loss_names = (
        "nll",
        "commitment",
        "codebook",
        "entropy",
        "spectral",
        "cycle_consistency",
        "domain_adversarial",
        "auxiliary_classification",
        "conversion_classification",
    )

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.given = (
            None
            if config.frozen_codec is None
            else self.load_source("frozen_codec", config.frozen_codec)
        )
        if self.given is not None:
            if not isinstance(self.given.model, VQVAE):
                raise UserInputError(
                    f"frozen_codec: {config.frozen_codec} is a {self.given.card.kind}, expected a"
                    " vqvae"
                )
            self.check_compatible(
                "frozen_codec", self.given, config.model.decoder.conditioner.categorical
            )
        self.melody = None if config.pitch is None else self.load_source("pitch", config.pitch)
        if self.melody is not None and (
            self.given is not None or not isinstance(self.melody.model, PitchCodec)
        ):
            raise UserInputError(
                f"pitch: {config.pitch}, expected a run of experiments/pitch.py, and no"
                " frozen_codec, which has its own"
            )
        segment = config.decoder_segment_seconds
        if segment is not None and (self.given is None or segment > config.data.clip_seconds):
            raise UserInputError(
                f"decoder_segment_seconds: {segment:g} s, expected at most data.clip_seconds, and"
                " frozen_codec"
            )

    @property
    def more_losses(self) -> Sequence[str]:
        """A quantizer from outside the package may have losses of its own."""
        return sorted(self.config.model.quantizer.losses - set(self.loss_names))

    @property
    def model_spec(self) -> VQVAESpec:
        """With the parts of the runs that codes are taken from, if they are."""
        if self.given is not None:
            return self.config.model.with_frozen_codec(self.given.card.spec)
        return (
            self.config.model
            if self.melody is None
            else replace(self.config.model, melody=self.melody.card.spec)
        )

    @property
    def tracks(self) -> Sequence[Track]:
        return () if self.model_spec.melody is None else (stored_pitch(self.corpus),)

    @property
    def trains_decoder(self) -> bool:
        """Without the loss `nll` the decoder is left alone: codes are trained with the spectral
        decoder, many times faster.
        """
        return bool(self.config.losses.get("nll"))

    @property
    def hop(self) -> int:
        return self.model_spec.encoder.build(self.corpus.sample_rate).hop

    def build(self) -> VQVAE:
        taken = dict.fromkeys(
            self.loss_names[3:], "no `frozen_codec`, whose parts are taken as they are"
        )
        for name, need in (self.model_spec.needs if self.given is None else taken).items():
            if self.config.losses.get(name):
                raise UserInputError(f"losses.{name}: expected {need}")
        if self.config.losses.get("conversion_classification") and not self.config.losses.get(
            "auxiliary_classification"
        ):
            raise UserInputError(
                "losses.conversion_classification: expected a weight of"
                " losses.auxiliary_classification, too, by which the conversion classifier learns"
            )
        model = self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)
        model.decoder.requires_grad_(self.trains_decoder)
        if self.given is not None:
            model.load_frozen_codec(self.given.model)
        elif self.melody is not None:
            model.melody.take(self.melody.model, voices_of(self.corpus))
        return model

    def trainable(self, model: VQVAE) -> nn.Module:
        return model if self.given is None else model.decoder

    def fit_statistics(self, model: VQVAE) -> None:
        if self.given is not None:
            return
        waves = self.training_waves()
        model.encoder.fit(waves)
        if model.spectral_decoder is not None:
            model.spectral_decoder.frontend.fit(waves)

    def losses(self, batch: Batch) -> StepOutput:
        own_pitch = {"recorded_pitch": self.config.recorded_pitch}
        if self.given is not None:
            with torch.no_grad():  # codes are not trained
                frames = self.model.features_of_recordings(
                    batch.wave, batch.labels, batch.lengths, **own_pitch
                )
                frames = self.model.add_decoder_noise(frames)
            if self.config.decoder_segment_seconds is not None:
                batch, frames = sliced(
                    batch,
                    frames,
                    self.config.decoder_segment_seconds * self.corpus.sample_rate,
                    self.model.hop,
                )
            out = self.network(batch.wave, batch.labels, frames, batch.frame_mask(self.model.hop))
            return self._likelihood(out, batch)
        cyclic = bool(self.config.losses.get("cycle_consistency"))
        others = (
            self.sample_target_voice(batch) if cyclic or self.model.conversion_classifier else None
        )
        settings = {"decode": self.trains_decoder, "others": others, "cyclic": cyclic, **own_pitch}
        out = self.network(batch.wave, batch.labels, batch.lengths, **settings)
        nll = (
            StepOutput({})
            if out.distribution is None
            else self._likelihood(out.distribution, batch)
        )
        return StepOutput(nll.losses | out.losses, nll.metrics | out.metrics)

    def _likelihood(self, distribution: Distribution, batch: Batch) -> StepOutput:
        nll = negative_log_likelihood(distribution, batch.wave, batch.mask)
        return StepOutput(
            {"nll": nll}, {"bits": likelihood.bits_of(self.config.model.decoder.head, nll.detach())}
        )

    def evaluate(self, model: VQVAE) -> Evaluation:
        """Bits with the true codes and labels, with another clip's codes, with another speaker's
        label; codebook use.
        """
        found, rate = (
            Autoencoding(model, self.corpus.labels.get("speaker", []), self.device),
            self.corpus.sample_rate,
        )
        for batch in self.valid_batches():
            target = (
                None
                if model.conversion_classifier is None
                else self.sample_target_voice(batch, drawn=False)
            )
            found.add(batch, target, self.mismatched_labels(batch) if self.trains_decoder else None)
        total, section = self.total(found.sums), found.codes(rate)
        scalars = found.scalars(total, rate, self.comparable(model.decoder))
        if not self.trains_decoder:
            headline = (
                f"{scalars.get('spectral', 0):.3f} standard deviations off in the frames at"
                f" {section['bit_rate']:g} bit/s"
            )
            return Evaluation(headline, scalars, {"codes": section})
        bits, head = scalars["bits"], model.decoder.head
        baselines, unit = self.baselines(head), likelihood.unit(head)
        nll = {"unit": unit, "model": bits, "baselines": baselines}
        nll |= {
            f"shuffled {name}": scalars.get(f"bits_shuffled_{name}")
            for name in ("codes", "speakers")
        }
        references = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = (
            f"{bits:.3f} {unit} on held-out speech at {section['bit_rate']:g} bit/s ({references})"
        )
        return Evaluation(headline, scalars, {"nll": nll, "codes": section})

    def samples(self, model: VQVAE, sheet: SampleSheet) -> None:
        codec, pairs = self.codec(model), self.shown_pairs(self.config.num_samples)
        if not self.trains_decoder or not pairs:
            return
        rows, voices = (
            [row for row, _ in pairs],
            [row for row, _ in pairs] + [other for _, other in pairs],
        )
        coded = [
            codec.encode(self.corpus.read(row), speaker=self.corpus.utterances[row].speaker)
            for row in rows
        ]
        speakers, targets = (
            [self.corpus.utterances[row].speaker for row in column]
            for column in zip(*pairs, strict=True)
        )
        labels = [self.corpus.utterances[row].labels for row in voices]
        vectors = [self.vectors(model.decoder, row) for row in voices]
        drawn = codec.decode_many(coded * 2, speakers + targets, labels=labels, embeddings=vectors)
        for i, row in enumerate(rows):
            utterance = self.corpus.utterances[row]
            about = {"speaker": utterance.speaker, "text": utterance.text or ""}
            sheet.add(utterance.id, "original", torch.from_numpy(self.corpus.read(row)), **about)
            sheet.add(utterance.id, "reconstruction", drawn[i], **about)
            if targets[i] != speakers[i]:
                sheet.add(
                    utterance.id, "conversion", drawn[len(rows) + i], target=targets[i], **about
                )

    def next_steps(self) -> list[str]:
        if not self.trains_decoder:
            return [self.next_command("vqvae", "frozen_codec"), *super().next_steps()]
        convert = (
            f"vqwave convert {self.config.run} in.wav --speaker {self.example_speaker} --out"
            " out.wav"
        )
        return [convert, self.next_command("distill", "teacher"), *super().next_steps()]


if __name__ == "__main__":
    main(VQVAEExperiment)
