"""Train a small classifier of raw audio on the corpus' labels, for the perceptual loss.

python experiments/classifier.py --config configs/classifier/fsdd.yaml
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.models import Classifier, ClassifierSpec
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import ExperimentSpec, Weights


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/classifier.py`."""

    model: ClassifierSpec = option(default=ClassifierSpec(), help="the classifier")
    losses: Weights = option(
        default={"cross_entropy": 1.0}, help="weights: cross_entropy (sum over the labels)"
    )


class ClassifierExperiment(Experiment[Config, Classifier]):
    """Train a small classifier of raw audio on the corpus' labels, for the perceptual loss."""

    name = "classifier"
    config_class = Config
    loss_names = ("cross_entropy",)

    @property
    def model_spec(self) -> ClassifierSpec:
        return self.config.model

    @property
    def hop(self) -> int:
        return self.config.model.stride

    def build(self) -> Classifier:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.labels)

    def losses(self, batch: Batch) -> StepOutput:
        scores = self.network(batch.wave, batch.mask)
        costs = [F.cross_entropy(logits, batch.labels[name]) for name, logits in scores.items()]
        right = {
            name: (logits.argmax(1) == batch.labels[name]).float().mean()
            for name, logits in scores.items()
        }
        metrics = {f"accuracy_{name}": value for name, value in right.items()}
        return StepOutput({"cross_entropy": torch.stack(costs).sum()}, metrics)

    def evaluate(self, model: Classifier) -> Evaluation:
        """Accuracy on held-out clips, and that of the most frequent value of the training
        recordings.
        """
        sums = {
            name: torch.zeros((), dtype=torch.float64)
            for name in (*self.config.model.categorical, "clips")
        }
        for batch in self.valid_batches():
            for name, logits in model(batch.wave, batch.mask).items():
                sums[name] += (logits.argmax(1) == batch.labels[name]).sum().cpu()
            sums["clips"] += len(batch)
        total = self.total(sums)
        accuracy = {name: total[name] / total["clips"] for name in self.config.model.categorical}
        commonest = {name: self._commonest(name) for name in accuracy}
        shown = ", ".join(
            f"{name} {value:.1%} (commonest value: {commonest[name]:.1%})"
            for name, value in accuracy.items()
        )
        scalars = {f"accuracy_{name}": value for name, value in accuracy.items()}
        sections = {
            "classifier": (
                scalars | {f"commonest_{name}": value for name, value in commonest.items()}
            )
        }
        return Evaluation(f"{shown} right on held-out clips", scalars, sections)

    def _commonest(self, name: str) -> float:
        """Share of the held-out clips that have the label's commonest value in training."""
        values = [u.labels[name] for u in self.corpus.utterances]
        common = Counter(values[row] for row in self.corpus.of("train")).most_common(1)[0][0]
        clips = self.validation.rows
        return sum(values[row] == common for row in clips) / len(clips)

    def next_steps(self) -> list[str]:
        return [
            "vqwave train distill teacher=RUN losses.perceptual=1"
            f" perceptual.classifier={self.config.run}"
        ]


if __name__ == "__main__":
    main(ClassifierExperiment)
