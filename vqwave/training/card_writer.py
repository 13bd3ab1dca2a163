"""What is written next to a run's weights, and what a dry run prints of its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vqwave.data import Corpus
from vqwave.decode.postfilter import STRENGTH, conditioning_spectrum
from vqwave.inference.model_folder import ModelCard, parameter_counts
from vqwave.models import VQVAE, Model, ModelSpec
from vqwave.training.voice_pairs import VoicePairs


class CardWriter:
    """Writes model cards of one experiment."""

    def __init__(self, experiment: str, corpus: Corpus, voices: VoicePairs, seed: int) -> None:
        self.experiment, self.corpus, self.voices, self.seed = experiment, corpus, voices, seed

    def card(
        self,
        model: Model,
        model_spec: ModelSpec,
        *,
        step: int,
        seconds: float,
        decodes: bool,
        extra: Mapping[str, Any],
    ) -> ModelCard:
        """decodes: whether the model makes waveforms, too; extra: an experiment's own entries."""
        untrained = self.voices.untrained
        filtered = decodes and isinstance(model, VQVAE) and conditioning_spectrum(model) is not None
        about = {
            "experiment": self.experiment,
            "corpus": self.corpus.name,
            "parameters": parameter_counts(model),
            "receptive_field": model.receptive_field,
            "hop": model.hop,
            "bit_rate": bit_rate(model, self.corpus.sample_rate),
            "decoder_trained": decodes,
            "level_db": self.corpus.level_db,
            "steps": step,
            "seconds": round(seconds, 1),
            "seed": self.seed,
            **({"untrained_labels": untrained} if untrained else {}),
            **({"postfilter": STRENGTH} if filtered else {}),
            **extra,
        }
        return ModelCard(
            sample_rate=self.corpus.sample_rate,
            labels=self.corpus.vocabulary,
            spec=model_spec,
            about=about,
        )

    def summary(self, model: Model, clip_samples: int) -> str:
        """Parameters, receptive field, length of a training clip, bit rate of the codes."""
        rate = self.corpus.sample_rate
        counts = ", ".join(f"{name} {count:,}" for name, count in parameter_counts(model).items())
        lines = [
            f"parameters: {counts}",
            (
                f"receptive field: {model.receptive_field:,} samples,"
                f" {1000 * model.receptive_field / rate:.1f} ms at {rate:,} Hz"
            ),
            f"clip: {clip_samples:,} samples, {clip_samples / rate:.3f} s",
        ]
        bits = bit_rate(model, rate)
        if bits is not None:
            lines.append(f"codes: {rate / model.hop:g} frames a second, {bits:g} bit/s")
        return "\n".join(lines)


def bit_rate(model: Model, sample_rate: int) -> float | None:
    """Nominal bits a second of the codes; None for a model without codes."""
    of_all_codes = getattr(model, "bit_rate", None)
    if of_all_codes is not None:
        return of_all_codes(sample_rate)
    quantizer = getattr(model, "quantizer", None)
    return None if quantizer is None else quantizer.bits_per_frame * sample_rate / model.hop
