"""Train a WaveNet alone: unconditional, by speaker or other labels, or as a vocoder on spectral frames.

accelerate launch experiments/wavenet.py --config configs/wavenet/fsdd.yaml
"""

from __future__ import annotations

import torch

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.experiment import Evaluation, Experiment, ExperimentSpec, Outcome
from vqwave.loop import main
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.tracking import SampleSheet


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/wavenet.py`."""

    model: WaveNetSpec = option(WaveNetSpec(), "the WaveNet")
    losses: dict[str, float] = option({"nll": 1.0}, "weights: nll")
    shown: int = option(4, "utterances (or babbles) in samples/")
    shown_seconds: float = option(1.0, "length of a babble")


class WaveNetExperiment(Experiment[Config]):
    """Train a WaveNet alone: unconditional, by labels, or as a vocoder on spectral frames."""

    name = "wavenet"
    config_class = Config

    @property
    def model_spec(self) -> WaveNetSpec:
        return self.config.model

    @property
    def hop(self) -> int:
        features = self.config.model.features
        return features.build(self.corpus.sample_rate).hop if features else 1

    def build(self) -> WaveNet:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)

    def start(self, model: WaveNet) -> None:
        if model.frontend is not None:
            model.frontend.fit(self.training_waves())

    def losses(self, batch: Batch) -> Outcome:
        distribution = self.network(batch.wave, batch.labels)
        nll = negative_log_likelihood(distribution, batch.wave, batch.mask)
        return Outcome({"nll": nll}, {"bits": likelihood.bits_of(self.config.model.head, nll.detach())})

    def evaluate(self, model: WaveNet) -> Evaluation:
        sums = {name: torch.zeros((), dtype=torch.float64) for name in ("bits", "shuffled", "samples")}
        for batch in self.valid_batches():
            for name, labels in (("bits", batch.labels), ("shuffled", self.other_labels(batch))):
                cost = likelihood.bits(model.head, model(batch.wave, labels), batch.wave)
                sums[name] += cost[batch.mask].sum()
            sums["samples"] += batch.mask.sum()
        total = self.total(sums)
        bits = total["bits"] / total["samples"]
        shuffled = total["shuffled"] / total["samples"] if model.conditioner.labels else None
        baselines, unit = self.baselines(model.head), likelihood.unit(model.head)
        sections = {"nll": {"unit": unit, "model": bits, "baselines": baselines, "shuffled speakers": shuffled}}
        beside = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        scalars = {"bits": bits} | ({"bits_shuffled_labels": shuffled} if shuffled is not None else {})
        return Evaluation(f"{bits:.3f} {unit} on held-out speech ({beside})", scalars, sections)

    def samples(self, model: WaveNet, sheet: SampleSheet) -> None:
        codec = self.codec(model)
        for row in self.shown_rows(self.config.shown):
            utterance, wave = self.corpus.utterances[row], torch.from_numpy(self.corpus.read(row))
            vectors = self.vectors(model, row)
            about = {"speaker": utterance.speaker, "text": utterance.text or ""}
            if model.frontend is None:
                drawn = codec.generate(self.config.shown_seconds, labels=utterance.labels, vectors=vectors, seed=row)[0]
                sheet.add(f"babble as {utterance.speaker}", "generation", drawn, **about)
            else:
                sheet.add(utterance.id, "original", wave, **about)
                sheet.add(utterance.id, "reconstruction", codec.resynthesise(wave, labels=utterance.labels, vectors=vectors), **about)

    def next_steps(self) -> list[str]:
        speak = f"vqwave generate {self.config.run} --speaker {self.corpus.speakers[0]} --seconds 3 --out babble.wav"
        return ([] if self.config.model.features else [speak]) + super().next_steps()


if __name__ == "__main__":
    main(WaveNetExperiment)
