"""Train a WaveNet alone: unconditional, by speaker or other labels, or as a vocoder on spectral
frames.

python experiments/wavenet.py --config configs/wavenet/fsdd.yaml
"""

from __future__ import annotations

import torch

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.losses import negative_log_likelihood
from vqwave.metrics import likelihood
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, StepOutput
from vqwave.training.settings import Count, ExperimentSpec, Seconds, Weights
from vqwave.training.tracking import SampleSheet
from vqwave.training.waveform_experiment import WaveformExperiment


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/wavenet.py`."""

    model: WaveNetSpec = option(default=WaveNetSpec(), help="the WaveNet")
    losses: Weights = option(default={"nll": 1.0}, help="weights: nll")
    num_samples: Count = option(default=4, help="utterances (or generated clips) in samples/")
    sample_seconds: Seconds = option(default=1.0, help="length of a generated clip")


class WaveNetExperiment(WaveformExperiment[Config, WaveNet]):
    """Train a WaveNet alone: unconditional, by labels, or as a vocoder on spectral frames."""

    name = "wavenet"
    config_class = Config

    @property
    def model_spec(self) -> WaveNetSpec:
        return self.config.model

    def build(self) -> WaveNet:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.vocabulary)

    def losses(self, batch: Batch) -> StepOutput:
        distribution = self.network(batch.wave, batch.labels, None, batch.frame_mask(self.hop))
        nll = negative_log_likelihood(distribution, batch.wave, batch.mask)
        return StepOutput(
            {"nll": nll}, {"bits": likelihood.bits_of(self.config.model.head, nll.detach())}
        )

    def evaluate(self, model: WaveNet) -> Evaluation:
        """Bits with the true condition, with another speaker's labels, with another clip's
        frames.
        """
        sums = {
            name: torch.zeros((), dtype=torch.float64, device=self.device)
            for name in ("bits", "shuffled", "frames", "samples")
        }
        for batch in self.valid_batches():
            mask = batch.frame_mask(model.hop)
            frames = None
            if model.frontend is not None:
                frames = model.frontend(batch.wave, batch.labels, mask)
            others = None if frames is None else frames.roll(1, 0)
            for name, labels, condition in (
                ("bits", batch.labels, frames),
                ("shuffled", self.voices.mismatched_labels(batch), frames),
                ("frames", batch.labels, others),
            ):
                distribution = model(batch.wave, labels, condition, mask)
                cost = likelihood.bits(model.head, distribution, batch.wave)
                sums[name] += cost[batch.mask].sum()
            sums["samples"] += batch.mask.sum()
        total = self.total(sums)
        bits, frames, shuffled = likelihood.costs(
            total, self.comparable(model), "frames", "shuffled"
        )
        frames = frames if model.frontend is not None else None
        baselines, unit = self.baselines(model.head), model.head.cost_unit
        sections = {
            "nll": {
                "unit": unit,
                "model": bits,
                "baselines": baselines,
                "shuffled speakers": shuffled,
            }
        }
        sections["nll"] |= {"shuffled frames": frames} if frames is not None else {}
        references = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        scalars = {"bits": bits} | (
            {"bits_shuffled_labels": shuffled} if shuffled is not None else {}
        )
        scalars |= {"bits_shuffled_frames": frames} if frames is not None else {}
        return Evaluation(f"{bits:.3f} {unit} on held-out speech ({references})", scalars, sections)

    def samples(self, model: WaveNet, sheet: SampleSheet) -> None:
        self.add_samples(model, sheet, self.config.num_samples, self.config.sample_seconds)

    def next_steps(self) -> list[str]:
        generate = (
            f"vqwave generate {self.config.run} --speaker {self.example_speaker} --seconds 3 --out"
            " generated.wav"
        )
        return ([] if self.config.model.features else [generate]) + super().next_steps()


if __name__ == "__main__":
    main(WaveNetExperiment)
