"""Train flows by the likelihood of recordings, without a teacher: masked flows (MAF), plain or on
folded time.

python experiments/flow.py --config configs/flow/tiny.yaml
"""

from __future__ import annotations

import torch
from torch import nn

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.distributed.collectives import masked_mean
from vqwave.distributions import Gaussian, Head, Logistic
from vqwave.metrics import likelihood
from vqwave.models import Density, Student, StudentSpec
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, StepOutput
from vqwave.training.settings import Count, ExperimentSpec, Seconds, Weights
from vqwave.training.tracking import SampleSheet
from vqwave.training.waveform_experiment import WaveformExperiment

HEADS: dict[str, Head] = {"gaussian": Gaussian(), "logistic": Logistic()}


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/flow.py`."""

    model: StudentSpec = option(
        default=StudentSpec(flow_type="maf"),
        help="the flows; with flow_type maf the density takes one pass",
    )
    losses: Weights = option(default={"nll": 1.0}, help="weights: nll")
    num_samples: Count = option(default=2, help="utterances (or generated clips) in samples/")
    sample_seconds: Seconds = option(
        default=0.3, help="length of a generated clip; a maf draws one block after another"
    )


class FlowExperiment(WaveformExperiment[Config, Student]):
    """Train flows by the likelihood of recordings, without a teacher."""

    name = "flow"
    config_class = Config

    @property
    def model_spec(self) -> StudentSpec:
        return self.config.model

    def build(self) -> Student:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.vocabulary)

    def trainable(self, model: Student) -> nn.Module:
        return Density(model)

    def losses(self, batch: Batch) -> StepOutput:
        log_p = self.network(batch.wave, batch.labels, None, batch.frame_mask(self.hop))
        return StepOutput({"nll": masked_mean(-log_p, batch.mask)})

    def evaluate(self, model: Student) -> Evaluation:
        """Bits a held-out sample costs at 16 bit, with the true labels and with somebody else's."""
        density, head = Density(model), HEADS[self.config.model.base]
        sums = {
            name: torch.zeros((), dtype=torch.float64) for name in ("bits", "shuffled", "samples")
        }
        for batch in self.valid_batches():
            for name, labels in (
                ("bits", batch.labels),
                ("shuffled", self.voices.mismatched_labels(batch)),
            ):
                cost = -density(batch.wave, labels, None, batch.frame_mask(model.hop))
                sums[name] += likelihood.bits_of(head, cost)[batch.mask].sum().cpu()
            sums["samples"] += batch.mask.sum().cpu()
        total = self.total(sums)
        bits, _, shuffled = likelihood.costs(total, self.comparable(model), "bits", "shuffled")
        baselines, unit = self.baselines(head), head.cost_unit
        references = ", ".join(f"{name} {value:.2f}" for name, value in baselines.items())
        sections = {
            "nll": {
                "unit": unit,
                "model": bits,
                "baselines": baselines,
                "shuffled speakers": shuffled,
            }
        }
        headline = f"{bits:.3f} {unit} on held-out speech ({references})"
        scalars = likelihood.measured({"bits": bits, "bits_shuffled_labels": shuffled})
        return Evaluation(headline, scalars, sections)

    def samples(self, model: Student, sheet: SampleSheet) -> None:
        self.add_samples(model, sheet, self.config.num_samples, self.config.sample_seconds)


if __name__ == "__main__":
    main(FlowExperiment)
