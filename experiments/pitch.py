"""Train a pitch codec: the melody of speech in some 60 bit/s, without its words and its speaker.

python experiments/pitch.py --config configs/pitch/fsdd.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vqwave.config import option, spec
from vqwave.data import Batch
from vqwave.data.frame_tracks import PITCH, PitchTrack, Track
from vqwave.data.voices import pitch_of, voice_pitches
from vqwave.errors import UserInputError
from vqwave.metrics import codebook
from vqwave.metrics.f0 import PARTS, f0_correlation, f0_error, voicing_error
from vqwave.models import PitchCodec, PitchCodecSpec, denormalise, normalise
from vqwave.nn.quantize import frame_mask
from vqwave.training.command_line import main
from vqwave.training.experiment import Evaluation, Experiment, StepOutput
from vqwave.training.settings import ExperimentSpec, Weights


@spec
class Config(ExperimentSpec):
    """Settings of `experiments/pitch.py`."""

    model: PitchCodecSpec = option(default=PitchCodecSpec(), help="encoder, codes, decoder")
    losses: Weights = option(
        default={"contour": 1.0, "voicing": 1.0, "commitment": 0.25},
        help="weights: contour (squared error where voiced), voicing (nats), commitment",
    )


class PitchExperiment(Experiment[Config, PitchCodec]):
    """Train a pitch codec: the melody of speech in some 60 bit/s."""

    name = "pitch"
    config_class = Config
    loss_names = ("contour", "voicing", "commitment")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ranges = voice_pitches(self.corpus)
        if not self.ranges or self.corpus.pitch is None:
            raise UserInputError(
                f"data.corpus: {config.data.corpus} has no voiced training recordings"
            )
        self.stored = self.corpus.pitch

    @property
    def model_spec(self) -> PitchCodecSpec:
        return self.config.model

    @property
    def hop(self) -> int:
        return self.stored.hop * self.config.model.downsample

    @property
    def tracks(self) -> Sequence[Track]:
        return (PitchTrack(self.stored.hop, self.stored.lowest, self.stored.highest),)

    def build(self) -> PitchCodec:
        return self.model_spec.build(self.corpus.sample_rate, self.corpus.vocabulary)

    @cached_property
    def _statistics(self) -> Tensor:
        """Mean and deviation that each utterance is normalised by, (N, 2)."""
        rows = range(len(self.corpus.utterances))
        voices = [pitch_of(self.corpus, row, self.ranges) for row in rows]
        return torch.tensor([[voice.mean, voice.deviation] for voice in voices])

    def _contour(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised contours (B, 2, F), how many frames of each are real (B,), and which (B,
        F).
        """
        mean, deviation = self._of(batch)
        contour = normalise(batch.labels[PITCH], mean, deviation)
        mask = frame_mask(batch.lengths, self.stored.hop, contour.shape[-1])
        return contour, mask.sum(1), mask

    def _of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B,) of a batch."""
        mean, deviation = self._statistics.to(batch.index.device)[batch.index].unbind(1)
        return mean, deviation

    def losses(self, batch: Batch) -> StepOutput:
        contour, lengths, mask = self._contour(batch)
        out = self.network(contour, lengths)
        return StepOutput(out.losses(contour, mask), out.quantized.metrics)

    def evaluate(self, model: PitchCodec) -> Evaluation:
        """F0 error, correlation (less the voice's mean) and voicing error of decoded codes;
        codebook use.
        """
        sums = {name: torch.zeros(PARTS, dtype=torch.float64) for name in ("decoded", "flat")}
        counts = codebook.CodeCounts(
            model.books, model.size, self.corpus.speakers, model.quantizer.codes_per_frame
        )
        for batch in self.valid_batches():
            contour, lengths, mask = self._contour(batch)
            codes = model.encode(contour, lengths)
            counts.add(codes, mask[:, :: model.ratio], batch.labels["speaker"])
            decoded = denormalise(model.decode(codes), *self._of(batch))
            flat = torch.stack([self._of(batch)[0][:, None] * mask, contour[:, 1]], 1)
            for name, predicted in (("decoded", decoded), ("flat", flat)):
                sums[name] += self._sums(batch, predicted, mask)
        total = {name: self._measures(value) for name, value in sums.items()}
        rate = self.corpus.sample_rate / model.hop
        section = counts.section(rate, self.device)
        scalars = total["decoded"] | {
            "perplexity": section["perplexity"],
            "codes_used": section["used"],
        }
        headline = (
            f"F0 off by {scalars['f0_error']:.2f} semitones (voice's mean:"
            f" {total['flat']['f0_error']:.2f}), correlation {scalars['f0_correlation']:.3f},"
            f" voicing error {100 * scalars['voicing_error']:.1f} % at {section['bit_rate']:.1f}"
            " bit/s"
        )
        return Evaluation(headline, scalars, {"pitch": total, "codes": section})

    def next_steps(self) -> list[str]:
        return [self.next_command("vqvae", "pitch", "own-codes"), *super().next_steps()]

    def _sums(self, batch: Batch, predicted: Tensor, mask: Tensor) -> Tensor:
        """The sums (PARTS,) of a batch, as `vqwave.metrics.f0` has them; ln F0 less the voice's
        mean.
        """
        (a, voiced), (b, decoded) = (x.double().unbind(1) for x in (batch.labels[PITCH], predicted))
        both = mask & (voiced > 0) & (decoded > 0)
        mean = self._of(batch)[0].double()[:, None].expand_as(a)[both]
        x, y = a[both] - mean, b[both] - mean
        wrong = (mask & ((voiced > 0) != (decoded > 0))).sum()
        parts = (len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y, mask.sum(), wrong)
        return torch.stack([torch.as_tensor(part, dtype=torch.float64).cpu() for part in parts])

    def _measures(self, sums: Tensor) -> dict[str, float]:
        """By name, over all ranks."""
        total = self.total({str(i): value for i, value in enumerate(sums)})
        row = np.array([[total[str(i)] for i in range(PARTS)]])
        measures = {
            "f0_error": f0_error,
            "f0_correlation": f0_correlation,
            "voicing_error": voicing_error,
        }
        with np.errstate(invalid="ignore", divide="ignore"):
            return {name: float(measure(row)[0]) for name, measure in measures.items()}

    def card_entries(self) -> dict[str, Any]:
        """Each voice's mean and deviation of ln(F0 / 100 Hz), by which contours are normalised."""
        stored = self.stored
        voices = {name: [voice.mean, voice.deviation] for name, voice in self.ranges.items()}
        pitch = {"hop": stored.hop, "range": [stored.lowest, stored.highest], "voices": voices}
        return {"pitch": pitch}


if __name__ == "__main__":
    main(PitchExperiment)
