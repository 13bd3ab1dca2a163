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
from vqwave.data.tracks import Track, stored_pitch
from vqwave.data.voices import voices_of
from vqwave.distributions import Distribution
from vqwave.errors import BadInput
from vqwave.experiment import Count, Evaluation, Experiment, ExperimentSpec, Outcome
from vqwave.loop import main
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.metrics.autoencoder import Autoencoding
from vqwave.models import VQVAE, PitchCodec, VQVAESpec
from vqwave.nn.slices import sliced
from vqwave.tracking import SampleSheet


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/vqvae.py`."""

    model: VQVAESpec = option(VQVAESpec(), "encoder, quantizer, decoder")
    losses: dict[str, float] = option(
        {"nll": 1.0, "commitment": 0.25, "codebook": 1.0},
        "weights: nll, commitment, codebook (of a gradient codebook), entropy (with quantizer.entropy), spectral and cycle "
        "(with readout), adversary (with adversary), listening and conversion (with listener)",
    )
    codes: Path | None = option(None, "run whose encoder, quantizer and readout are taken as they are: only the decoder is trained")
    slice: Annotated[float, Field(gt=0)] | None = option(
        None, "with codes: seconds of each clip, anywhere in it, that the decoder is trained on; codes are those of the whole clip"
    )
    pitch: Path | None = option(
        None, "run of experiments/pitch.py whose codec of the melody is taken as it is, a second stream of codes"
    )
    recorded_pitch: bool = option(
        True, "with a melody: the decoder is trained on the recordings' own F0, not on the one decoded from its codes"
    )
    shown: Count = option(4, "utterances in samples/")


class VQVAEExperiment(Experiment[Config]):
    """Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech."""

    name = "vqvae"
    config_class = Config
    loss_names = ("nll", "commitment", "codebook", "entropy", "spectral", "cycle", "adversary", "listening", "conversion")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.given = None if config.codes is None else self.load_source("codes", config.codes)
        if self.given is not None:
            if not isinstance(self.given.model, VQVAE):
                raise BadInput(f"codes: {config.codes} is a {self.given.card.kind}, expected a vqvae")
            self.check_fits("codes", self.given, config.model.decoder.conditioner.labels)
        self.melody = None if config.pitch is None else self.load_source("pitch", config.pitch)
        if self.melody is not None and (self.given is not None or not isinstance(self.melody.model, PitchCodec)):
            raise BadInput(f"pitch: {config.pitch}, expected a run of experiments/pitch.py, and no run of codes, which has its own")
        if config.slice is not None and (self.given is None or config.slice > config.data.clip):
            raise BadInput(f"slice: {config.slice:g} s, expected at most data.clip, and a run of codes")

    @property
    def model_spec(self) -> VQVAESpec:
        """With the parts of the runs that codes are taken from, if they are."""
        if self.given is not None:
            return self.config.model.decoding(self.given.card.spec)
        return self.config.model if self.melody is None else replace(self.config.model, melody=self.melody.card.spec)

    @property
    def tracks(self) -> Sequence[Track]:
        return () if self.model_spec.melody is None else (stored_pitch(self.corpus),)

    @property
    def decodes(self) -> bool:
        """Without the loss `nll` the decoder is left alone: codes are trained with the readout, many times faster."""
        return bool(self.config.losses.get("nll"))

    @property
    def hop(self) -> int:
        return self.model_spec.encoder.build(self.corpus.sample_rate).hop

    def build(self) -> VQVAE:
        taken = dict.fromkeys(self.loss_names[3:], "no `codes`, whose parts are taken as they are")
        for name, need in (self.model_spec.needs if self.given is None else taken).items():
            if self.config.losses.get(name):
                raise BadInput(f"losses.{name}: expected {need}")
        if self.config.losses.get("conversion") and not self.config.losses.get("listening"):
            raise BadInput("losses.conversion: expected a weight of losses.listening, too, by which the listener learns")
        model = self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)
        model.decoder.requires_grad_(self.decodes)
        if self.given is not None:
            model.take_codes(self.given.model)
        elif self.melody is not None:
            model.melody.take(self.melody.model, voices_of(self.corpus))
        return model

    def trained(self, model: VQVAE) -> nn.Module:
        return model if self.given is None else model.decoder

    def start(self, model: VQVAE) -> None:
        if self.given is not None:
            return
        waves = self.training_waves()
        model.encoder.fit(waves)
        if model.readout is not None:
            model.readout.frontend.fit(waves)

    def losses(self, batch: Batch) -> Outcome:
        own_pitch = {"recorded_pitch": self.config.recorded_pitch}
        if self.given is not None:
            with torch.no_grad():  # codes are not trained
                frames = self.model.decoder_frames(batch.wave, batch.labels, batch.lengths, **own_pitch)
                frames = self.model.taught(frames)
            if self.config.slice is not None:
                batch, frames = sliced(batch, frames, self.config.slice * self.corpus.sample_rate, self.model.hop)
            out = self.network(batch.wave, batch.labels, frames, batch.frame_mask(self.model.hop))
            return self._likelihood(out, batch)
        cyclic = bool(self.config.losses.get("cycle"))
        others = self.another_voice(batch) if cyclic or self.model.listener else None
        out = self.network(batch.wave, batch.labels, batch.lengths, decode=self.decodes, others=others, cyclic=cyclic, **own_pitch)
        nll = Outcome({}) if out.distribution is None else self._likelihood(out.distribution, batch)
        return Outcome(nll.losses | out.losses, nll.metrics | out.metrics)

    def _likelihood(self, distribution: Distribution, batch: Batch) -> Outcome:
        nll = negative_log_likelihood(distribution, batch.wave, batch.mask)
        return Outcome({"nll": nll}, {"bits": likelihood.bits_of(self.config.model.decoder.head, nll.detach())})

    def evaluate(self, model: VQVAE) -> Evaluation:
        """Bits with the true codes and labels, with another clip's codes, with another speaker's label; codebook use."""
        found, rate = Autoencoding(model, self.corpus.labels.get("speaker", []), self.device), self.corpus.sample_rate
        for batch in self.valid_batches():
            target = None if model.listener is None else self.another_voice(batch, drawn=False)
            found.add(batch, target, self.other_labels(batch) if self.decodes else None)
        total, section = self.total(found.sums), found.codes(rate)
        scalars = found.scalars(total, rate, self.comparable(model.decoder))
        if not self.decodes:
            headline = f"{scalars.get('spectral', 0):.3f} standard deviations off in the frames at {section['bit_rate']:g} bit/s"
            return Evaluation(headline, scalars, {"codes": section})
        bits, head = scalars["bits"], model.decoder.head
        baselines, unit = self.baselines(head), likelihood.unit(head)
        nll = {"unit": unit, "model": bits, "baselines": baselines}
        nll |= {f"shuffled {name}": scalars.get(f"bits_shuffled_{name}") for name in ("codes", "speakers")}
        references = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = f"{bits:.3f} {unit} on held-out speech at {section['bit_rate']:g} bit/s ({references})"
        return Evaluation(headline, scalars, {"nll": nll, "codes": section})

    def samples(self, model: VQVAE, sheet: SampleSheet) -> None:
        codec, pairs = self.codec(model), self.shown_pairs(self.config.shown)
        if not self.decodes or not pairs:
            return
        rows, voices = [row for row, _ in pairs], [row for row, _ in pairs] + [other for _, other in pairs]
        coded = [codec.encode(self.corpus.read(row), speaker=self.corpus.utterances[row].speaker) for row in rows]
        speakers, targets = ([self.corpus.utterances[row].speaker for row in column] for column in zip(*pairs, strict=True))
        labels = [self.corpus.utterances[row].labels for row in voices]
        vectors = [self.vectors(model.decoder, row) for row in voices]
        drawn = codec.decode_many(coded * 2, speakers + targets, labels=labels, vectors=vectors)
        for i, row in enumerate(rows):
            utterance = self.corpus.utterances[row]
            about = {"speaker": utterance.speaker, "text": utterance.text or ""}
            sheet.add(utterance.id, "original", torch.from_numpy(self.corpus.read(row)), **about)
            sheet.add(utterance.id, "reconstruction", drawn[i], **about)
            if targets[i] != speakers[i]:
                sheet.add(utterance.id, "conversion", drawn[len(rows) + i], target=targets[i], **about)

    def next_steps(self) -> list[str]:
        if not self.decodes:
            return [self.follow("vqvae", "codes"), *super().next_steps()]
        convert = f"vqwave convert {self.config.run} in.wav --speaker {self.a_voice} --out out.wav"
        return [convert, self.follow("distill", "teacher"), *super().next_steps()]


if __name__ == "__main__":
    main(VQVAEExperiment)
