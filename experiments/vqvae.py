"""Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech.

python experiments/vqvae.py --config configs/vqvae/fsdd.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.data.frame_tracks import Track, stored_pitch
from vqwave.data.voices import voices_of
from vqwave.distributions import Distribution, Head
from vqwave.errors import UserInputError
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.metrics.autoencoder import Autoencoding
from vqwave.models import VQVAE, PitchCodec, PitchCodecSpec, VQVAESpec, WaveNetSpec
from vqwave.training import decoder_training
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import Count, ExperimentSpec, Weights
from vqwave.training.tracking import SampleSheet


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/vqvae.py`."""

    model: VQVAESpec = option(default=VQVAESpec(), help="encoder, quantizer, decoder")
    losses: Weights = option(
        default={"nll": 1.0, "commitment": 0.25, "codebook": 1.0},
        help="weights: nll, commitment, codebook (of a gradient codebook), entropy (with"
        " quantizer.entropy), spectral and cycle_consistency (with spectral_decoder),"
        " domain_adversarial (with adversarial_classifier), auxiliary_classification and"
        " conversion_classification (with conversion_classifier)",
    )
    frozen_codec: Path | None = option(
        default=None,
        help="run whose encoder, quantizer and spectral decoder are kept; the decoder is trained",
    )
    decoder_segment_seconds: Annotated[float, Field(gt=0)] | None = option(
        default=None,
        help="with frozen_codec: seconds of each clip, anywhere, that the decoder is trained on;"
        " codes are those of the full clip",
    )
    pitch: Path | None = option(
        default=None,
        help="run of experiments/pitch.py whose codec of the melody is taken as it is, a second"
        " stream of codes",
    )
    recorded_pitch: bool = option(
        default=True,
        help="with a melody: the decoder is trained on the recordings' F0, not on its codes'",
    )
    recorded_spectrum: bool = option(
        default=False,
        help="with model.decoder_input: trained on the recordings' own frames, as a vocoder is",
    )
    filtered_recordings: bool = option(
        default=False,
        help="with frozen_codec: trained on recordings filtered to the frames of their codes",
    )
    start_from: Path | None = option(
        default=None,
        help="with frozen_codec: run whose decoder, of these settings, training starts from",
    )
    num_samples: Count = option(default=4, help="utterances in samples/")


class VQVAEExperiment(Experiment[Config, VQVAE]):
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
        self.given = self.sources.load_typed(
            "frozen_codec", config.frozen_codec, (VQVAE, VQVAESpec), "a vqvae"
        )
        if self.given is not None:
            labels = config.model.decoder.conditioner.categorical
            self.sources.check_compatible("frozen_codec", self.given.loaded, labels)
            config.model.check_vectors(self.given.spec)
            if config.pitch is not None:
                raise UserInputError(
                    f"pitch: {config.pitch}, expected none with frozen_codec, which has its own"
                )
        self.melody = self.sources.load_typed(
            "pitch", config.pitch, (PitchCodec, PitchCodecSpec), "a run of experiments/pitch.py"
        )
        decoder_training.check_settings(
            config.decoder_segment_seconds,
            config.data.clip_seconds,
            {"filtered_recordings": config.filtered_recordings, "start_from": config.start_from},
            frozen=self.given is not None,
        )
        self.start = self.sources.load_typed(
            "start_from", config.start_from, (VQVAE, VQVAESpec), "a vqvae"
        )
        decoder_training.check_start(self.start, self.model_spec)

    @property
    def more_losses(self) -> Sequence[str]:
        """A quantizer from outside the package may have losses of its own."""
        return sorted(self.config.model.quantizer.losses - set(self.loss_names))

    @property
    def model_spec(self) -> VQVAESpec:
        """With the parts of the runs that codes are taken from, if they are."""
        model = self.config.model
        if self.given is not None:
            return model.with_frozen_codec(self.given.spec)
        return model if self.melody is None else replace(model, melody=self.melody.spec)

    @property
    def head(self) -> Head:
        """Of the decoder. Raises UserInputError for a student, which has none."""
        decoder = self.config.model.decoder
        if not isinstance(decoder, WaveNetSpec):
            raise UserInputError(
                "model.decoder.kind: student, expected wavenet (experiments/distill.py trains"
                " students)"
            )
        return decoder.head

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
        weight = self.config.losses.get
        taken = dict.fromkeys(
            self.loss_names[3:], "no `frozen_codec`, whose parts are taken as they are"
        )
        for name, need in (self.model_spec.needs if self.given is None else taken).items():
            if weight(name):
                raise UserInputError(f"losses.{name}: expected {need}")
        if weight("conversion_classification") and not weight("auxiliary_classification"):
            raise UserInputError(
                "losses.conversion_classification: expected a weight of"
                " losses.auxiliary_classification, too, which trains the conversion classifier"
            )
        model = self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)
        model.decoder.requires_grad_(self.trains_decoder)
        if self.given is not None:
            model.load_frozen_codec(self.given.model)
            if self.config.filtered_recordings:
                decoder_training.check_filtered(
                    model, recorded_spectrum=self.config.recorded_spectrum
                )
            if self.start is not None:
                model.decoder.load_state_dict(self.start.model.decoder.state_dict())
        elif self.melody is not None and model.melody is not None:
            model.melody.take(self.melody.model, voices_of(self.corpus))
        return model

    def trainable(self, model: VQVAE) -> nn.Module:
        return model if self.given is None else model.decoder

    def fit_statistics(self, model: VQVAE) -> None:
        if self.given is not None:
            return
        waves = self.recordings.waves()
        model.encoder.fit(waves)
        if model.spectral_decoder is not None:
            model.spectral_decoder.frontend.fit(waves)

    def losses(self, batch: Batch) -> StepOutput:
        recorded = {n: getattr(self.config, n) for n in ("recorded_pitch", "recorded_spectrum")}
        if self.given is not None:
            seconds, filtered = self.config.decoder_segment_seconds, self.config.filtered_recordings
            samples = None if seconds is None else seconds * self.corpus.sample_rate
            batch, frames = decoder_training.decoder_batch(
                self.model, batch, samples, filtered=filtered, **recorded
            )
            out = self.network(batch.wave, batch.labels, frames, batch.frame_mask(self.model.hop))
            return self._likelihood(out, batch)
        cyclic = bool(self.config.losses.get("cycle_consistency"))
        converts = cyclic or self.model.conversion_classifier is not None
        others = self.voices.sample_target_voice(batch) if converts else None
        settings = {"decode": self.trains_decoder, "others": others, "cyclic": cyclic, **recorded}
        out = self.network(batch.wave, batch.labels, batch.lengths, **settings)
        nll = StepOutput({})
        if out.distribution is not None:
            nll = self._likelihood(out.distribution, batch)
        return StepOutput(nll.losses | out.losses, nll.metrics | out.metrics)

    def _likelihood(self, distribution: Distribution, batch: Batch) -> StepOutput:
        nll = negative_log_likelihood(distribution, batch.wave, batch.mask)
        return StepOutput({"nll": nll}, {"bits": likelihood.bits_of(self.head, nll.detach())})

    def evaluate(self, model: VQVAE) -> Evaluation:
        """Bits with the true codes and labels, with another clip's codes, with another speaker's
        label; codebook use.
        """
        rate, speakers = self.corpus.sample_rate, self.corpus.labels.get("speaker", [])
        autoencoding = Autoencoding(model, speakers, self.device)
        for batch in self.valid_batches():
            target = mismatched = None
            if model.conversion_classifier is not None:
                target = self.voices.sample_target_voice(batch, drawn=False)
            if self.trains_decoder:
                mismatched = self.voices.mismatched_labels(batch)
            autoencoding.add(batch, target, mismatched)
        total, codes = self.total(autoencoding.sums), autoencoding.codes(rate)
        scalars = autoencoding.scalars(total, rate, self.comparable(model.decoder))
        if self.trains_decoder:
            return self._likelihood_evaluation(scalars, codes)
        headline = (
            f"{scalars.get('spectral', 0):.3f} standard deviations off in the frames at"
            f" {codes['bit_rate']:g} bit/s"
        )
        return Evaluation(headline, scalars, {"codes": codes})

    def _likelihood_evaluation(
        self, scalars: dict[str, float], codes: dict[str, Any]
    ) -> Evaluation:
        bits, baselines = scalars["bits"], self.baselines(self.head)
        unit = self.head.cost_unit
        nll = {"unit": unit, "model": bits, "baselines": baselines}
        nll |= {
            f"shuffled {name}": scalars.get(f"bits_shuffled_{name}")
            for name in ("codes", "speakers")
        }
        references = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = (
            f"{bits:.3f} {unit} on held-out speech at {codes['bit_rate']:g} bit/s ({references})"
        )
        return Evaluation(headline, scalars, {"nll": nll, "codes": codes})

    def samples(self, model: VQVAE, sheet: SampleSheet) -> None:
        pairs = self.validation.example_pairs(self.config.num_samples)
        if not self.trains_decoder or not pairs:
            return
        speech, utterances = self.speech_model(model), self.corpus.utterances
        rows, others = ([*column] for column in zip(*pairs, strict=True))
        coded = [
            speech.encode(self.corpus.read(row), speaker=utterances[row].speaker) for row in rows
        ]
        voices = [*rows, *others]
        waves = speech.decode_many(
            coded * 2,
            [utterances[row].speaker for row in voices],
            labels=[utterances[row].labels for row in voices],
            embeddings=[self.recordings.vectors(model.decoder, row) for row in voices],
        )
        for i, (row, other) in enumerate(pairs):
            utterance, target = utterances[row], utterances[other].speaker
            about = {"speaker": utterance.speaker, "text": utterance.text or ""}
            sheet.add(utterance.id, "original", torch.from_numpy(self.corpus.read(row)), **about)
            sheet.add(utterance.id, "reconstruction", waves[i], **about)
            if target != utterance.speaker:
                converted = waves[len(rows) + i]
                sheet.add(utterance.id, "conversion", converted, target=target, **about)

    def next_steps(self) -> list[str]:
        model, reports, run = self.model_spec, super().next_steps(), self.config.run
        if not self.trains_decoder:
            own = "own-decoder" if model.predicts_log_mel else ""
            taps = " model.decoder.pitch_taps=0" if own and model.melody is None else ""
            return [self.next_command("vqvae", "frozen_codec", own) + taps, *reports]
        convert = f"vqwave convert {run} in.wav --speaker {self.example_speaker} --out out.wav"
        student = self.next_command("distill", "teacher", "own-student" * self.head.continuous)
        return [convert, student, *reports]


if __name__ == "__main__":
    main(VQVAEExperiment)
