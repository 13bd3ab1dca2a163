"""Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech.

accelerate launch experiments/vqvae.py --config configs/vqvae/fsdd.yaml
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.experiment import Evaluation, Experiment, ExperimentSpec, Outcome
from vqwave.loop import main
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import codebook, likelihood
from vqwave.models import VQVAE, VQVAESpec
from vqwave.nn.quantize import frame_mask
from vqwave.tracking import SampleSheet


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/vqvae.py`."""

    model: VQVAESpec = option(VQVAESpec(), "encoder, quantizer, decoder")
    losses: dict[str, float] = option(
        {"nll": 1.0, "commitment": 0.25, "codebook": 1.0},
        "weights: nll, commitment, codebook (of a gradient codebook), entropy (with quantizer.entropy), spectral (with readout), "
        "adversary (with adversary)",
    )
    shown: int = option(4, "utterances in samples/")


class VQVAEExperiment(Experiment[Config]):
    """Train a VQ-VAE whose decoder is a WaveNet: speech -> discrete codes -> speech."""

    name = "vqvae"
    config_class = Config
    optional_losses = frozenset({"commitment", "codebook"})  # not every quantizer has both; one config serves all

    @property
    def model_spec(self) -> VQVAESpec:
        return self.config.model

    @property
    def hop(self) -> int:
        return self.model_spec.encoder.build(self.corpus.sample_rate).hop

    def build(self) -> VQVAE:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)

    def start(self, model: VQVAE) -> None:
        waves = self.training_waves()
        model.encoder.fit(waves)
        if model.readout is not None:
            model.readout.frontend.fit(waves)

    def losses(self, batch: Batch) -> Outcome:
        out = self.network(batch.wave, batch.labels, batch.lengths)
        nll = negative_log_likelihood(out.distribution, batch.wave, batch.mask)
        bits = likelihood.bits_of(self.config.model.decoder.head, nll.detach())
        spectral = {} if out.spectral is None else {"spectral": out.spectral}
        adversary = {} if out.verdict is None else {"adversary": out.verdict.loss}
        heard = {} if out.verdict is None else {"adversary_accuracy": out.verdict.accuracy}
        losses = {"nll": nll, **out.quantized.losses, **spectral, **adversary}
        return Outcome(losses, {"bits": bits, **out.quantized.metrics, **heard})

    def evaluate(self, model: VQVAE) -> Evaluation:
        """Bits with the true codes and labels, with another clip's codes, with another speaker's label; codebook use."""
        sums = {name: torch.zeros((), dtype=torch.float64) for name in ("bits", "codes", "speakers", "samples")}
        counts = codebook.CodeCounts(model.quantizer.books, model.quantizer.size, self.corpus.labels.get("speaker", []))
        for batch in self.valid_batches():
            codes = model.encode(batch.wave, batch.lengths)
            others = self.other_labels(batch)
            for name, heard, labels in (
                ("bits", codes, batch.labels),
                ("codes", codes.roll(1, 0), batch.labels),
                ("speakers", codes, others),
            ):
                sums[name] += self._cost(model, batch, heard, labels)
            sums["samples"] += batch.mask.sum()
            counts.add(codes, frame_mask(batch.lengths, model.hop, codes.shape[-1]), batch.labels.get("speaker"))
        total = self.total(sums)
        bits, codes, speakers = (total[name] / total["samples"] for name in ("bits", "codes", "speakers"))
        rate = self.corpus.sample_rate / model.hop
        section = counts.section(rate, self.device) | {"bit_rate": rate * model.quantizer.bits_per_frame}
        baselines, unit = self.baselines(model.decoder.head), likelihood.unit(model.decoder.head)
        scalars = {
            "bits": bits,
            "bits_shuffled_codes": codes,
            "bits_shuffled_speakers": speakers,
            "perplexity": section["perplexity"],
            "codes_used": section["used"],
        }
        nll = {"unit": unit, "model": bits, "baselines": baselines, "shuffled codes": codes, "shuffled speakers": speakers}
        beside = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        headline = f"{bits:.3f} {unit} on held-out speech at {section['bit_rate']:g} bit/s ({beside})"
        return Evaluation(headline, scalars, {"nll": nll, "codes": section})

    def _cost(self, model: VQVAE, batch: Batch, codes: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Bits of a batch, summed over its valid samples, given codes and labels."""
        distribution = model.decoder.predict(batch.wave, model.condition(codes, labels))
        return likelihood.bits(model.decoder.head, distribution, batch.wave)[batch.mask].sum()

    def samples(self, model: VQVAE, sheet: SampleSheet) -> None:
        codec, rows = self.codec(model), self.shown_rows(self.config.shown)
        coded = [codec.encode(self.corpus.read(row), speaker=self.corpus.utterances[row].speaker) for row in rows]
        speakers = [self.corpus.utterances[row].speaker for row in rows]
        targets, voices = speakers[1:] + speakers[:1], rows + rows[1:] + rows[:1]
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
        run = self.config.run
        return [
            f"vqwave convert {run} in.wav --speaker {self.corpus.speakers[0]} --out out.wav",
            f"accelerate launch experiments/distill.py teacher={run}",
            *super().next_steps(),
        ]


if __name__ == "__main__":
    main(VQVAEExperiment)
