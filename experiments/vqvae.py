"""Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech.

accelerate launch experiments/vqvae.py --config configs/vqvae/fsdd.yaml
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.distributions import Distribution
from vqwave.errors import BadInput
from vqwave.experiment import Count, Evaluation, Experiment, ExperimentSpec, Outcome
from vqwave.loop import main
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import codebook, likelihood
from vqwave.models import VQVAE, VQVAESpec
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
        if config.slice is not None and (self.given is None or self.tracks or config.slice > config.data.clip):
            raise BadInput(f"slice: {config.slice:g} s, expected at most data.clip, a run of codes, and no aligned tracks")

    @property
    def model_spec(self) -> VQVAESpec:
        """With the parts of the run that the codes are taken from, if they are."""
        return self.config.model if self.given is None else self.config.model.decoding(self.given.card.spec)

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
        if self.given is not None:
            frames = self._frames(batch)
            if self.config.slice is not None:
                batch, frames = sliced(batch, frames, self.config.slice * self.corpus.sample_rate, self.model.hop)
            out = self.network(batch.wave, batch.labels, frames, batch.frame_mask(self.model.hop))
            return self._likelihood(out, batch)
        cyclic = bool(self.config.losses.get("cycle"))
        others = self.another_voice(batch) if cyclic or self.model.listener else None
        out = self.network(batch.wave, batch.labels, batch.lengths, decode=self.decodes, others=others, cyclic=cyclic)
        nll = Outcome({}) if out.distribution is None else self._likelihood(out.distribution, batch)
        return Outcome(nll.losses | out.losses, nll.metrics | out.metrics)

    def _likelihood(self, distribution: Distribution, batch: Batch) -> Outcome:
        nll = negative_log_likelihood(distribution, batch.wave, batch.mask)
        return Outcome({"nll": nll}, {"bits": likelihood.bits_of(self.config.model.decoder.head, nll.detach())})

    @torch.no_grad()
    def _frames(self, batch: Batch) -> Tensor:
        """What the decoder hears of clips whose codes are not trained."""
        z = self.model.quantizer.decode(self.model.encode(batch.wave, batch.lengths))
        mask = batch.frame_mask(self.model.hop)
        return self.model.taught(self.model.frames(z, batch.labels, mask=mask))

    def evaluate(self, model: VQVAE) -> Evaluation:
        """Bits with the true codes and labels, with another clip's codes, with another speaker's label; codebook use."""
        names = ("bits", "codes", "speakers", "samples", "spectral", "heard", "clips")
        sums = {name: torch.zeros((), dtype=torch.float64, device=self.device) for name in names}
        counts = codebook.CodeCounts(model.quantizer.books, model.quantizer.size, self.corpus.labels.get("speaker", []))
        for batch in self.valid_batches():
            codes, mask = model.encode(batch.wave, batch.lengths), batch.frame_mask(model.hop)
            sums["samples"] += batch.mask.sum()
            sums["clips"] += len(batch)
            counts.add(codes, mask, batch.labels.get("speaker"))
            if model.readout is not None:
                z = model.quantizer.decode(codes)
                predicted = model.readout(z, batch.labels, mask)
                sums["spectral"] += len(batch) * model.readout.loss(predicted, batch.wave, mask)
            if model.listener is not None:
                voice = self.another_voice(batch, drawn=False)
                frames = model.readout.frontend(batch.wave, mask=mask), model.readout(z, voice, mask)
                heard = model.listener.judge(frames[0], batch.labels, frames[1], voice, mask)
                sums["heard"] += len(batch) * heard.accuracy
            if self.decodes:
                sums["bits"] += self._cost(model, batch, codes, batch.labels)
                sums["codes"] += self._cost(model, batch, codes.roll(1, 0), batch.labels)
                sums["speakers"] += self._cost(model, batch, codes, self.other_labels(batch))
        total = self.total(sums)
        rate = self.corpus.sample_rate / model.hop
        section = counts.section(rate, self.device) | {"bit_rate": rate * model.quantizer.bits_per_frame}
        scalars = {"perplexity": section["perplexity"], "codes_used": section["used"]}
        if model.readout is not None:
            scalars["spectral"] = total["spectral"] / total["clips"]
        if model.listener is not None:
            scalars["conversion_accuracy"] = total["heard"] / total["clips"]
        if not self.decodes:
            headline = f"{scalars.get('spectral', 0):.3f} standard deviations off in the frames at {section['bit_rate']:g} bit/s"
            return Evaluation(headline, scalars, {"codes": section})
        bits, others, speakers = (total[name] / total["samples"] for name in ("bits", "codes", "speakers"))
        scalars |= {"bits": bits, "bits_shuffled_codes": others, "bits_shuffled_speakers": speakers}
        baselines, unit = self.baselines(model.decoder.head), likelihood.unit(model.decoder.head)
        nll = {"unit": unit, "model": bits, "baselines": baselines, "shuffled codes": others, "shuffled speakers": speakers}
        beside = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = f"{bits:.3f} {unit} on held-out speech at {section['bit_rate']:g} bit/s ({beside})"
        return Evaluation(headline, scalars, {"nll": nll, "codes": section})

    def _cost(self, model: VQVAE, batch: Batch, codes: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Bits of a batch, summed over its valid samples, given codes and labels."""
        told = model.condition(codes, labels, batch.frame_mask(model.hop))
        bits = likelihood.bits(model.decoder.head, model.decoder.predict(batch.wave, told), batch.wave)
        return bits[batch.mask].sum()

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
