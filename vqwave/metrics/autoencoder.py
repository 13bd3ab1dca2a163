"""Validation of a VQ-VAE: bits with its own codes and with wrong ones, spectral error, use of the
codebook.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vqwave.data import Batch
from vqwave.metrics import codebook, likelihood
from vqwave.models import VQVAE
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder
from vqwave.nn.quantize import Quantizer

Labels = Mapping[str, Tensor]


class Autoencoding:
    """Sums over validation clips; `scalars` and `codes` are computed from them once they are added
    up over all ranks.
    """

    def __init__(self, model: VQVAE, speakers: Sequence[str], device: torch.device) -> None:
        names = ("bits", "codes", "speakers", "samples", "spectral", "conversion", "clips")
        self.model, self.device = model, device
        self.sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}
        self.counts = _counts(model.quantizer, speakers)
        melody = None if model.melody is None else model.melody.codec
        self.pitch_counts = None if melody is None else _counts(melody.quantizer, [])
        self.pitch_hop = 0 if melody is None else melody.hop

    def add(self, batch: Batch, target: Labels | None, others: Labels | None) -> None:
        """target: labels of voices to convert to, for a model with a conversion classifier; others:
        wrong labels, to measure bits.
        """
        model, labels, sums = self.model, batch.labels, self.sums
        codes, mask = model.encode(batch.wave, batch.lengths), batch.frame_mask(model.hop)
        melody = model.encode_pitch(labels, batch.lengths)
        sums["samples"] += batch.mask.sum()
        sums["clips"] += len(batch)
        self.counts.add(codes, mask, labels.get("speaker"))
        if melody is not None and self.pitch_counts is not None:
            self.pitch_counts.add(melody, batch.frame_mask(self.pitch_hop), None)
        spectral, classifier = model.spectral_decoder, model.conversion_classifier
        if spectral is not None:
            predicted = self._spectrum(spectral, codes, melody, labels, mask)
            sums["spectral"] += len(batch) * spectral.loss(predicted, batch.wave, mask)
        if target is not None and spectral is not None and classifier is not None:
            recorded = spectral.frontend(batch.wave, mask=mask)
            converted = self._spectrum(spectral, codes, melody, target, mask)
            output = classifier.losses(recorded, labels, converted, target, mask)
            sums["conversion"] += len(batch) * output.accuracy
        if others is not None:
            sums["bits"] += self._bits(batch, codes, melody, labels)
            rolled = None if melody is None else melody.roll(1, 0)
            sums["codes"] += self._bits(batch, codes.roll(1, 0), rolled, labels)
            sums["speakers"] += self._bits(batch, codes, melody, others)

    def _spectrum(
        self,
        decoder: SpectralDecoder,
        codes: Tensor,
        melody: Tensor | None,
        labels: Labels,
        mask: Tensor,
    ) -> Tensor:
        """The predicted spectral frames."""
        pitch = self.model.pitch(melody, labels, codes.shape[-1], mask)
        return decoder(self.model.quantizer.decode(codes), labels, mask, pitch)

    def _bits(self, batch: Batch, codes: Tensor, melody: Tensor | None, labels: Labels) -> Tensor:
        """Bits of a batch, summed over its valid samples, given codes and labels."""
        decoder = self.model.decoder.scorer
        if decoder is None:
            raise TypeError("a student gives no likelihood of recordings")
        condition = self.model.condition(codes, labels, batch.frame_mask(self.model.hop), melody)
        bits = likelihood.bits(decoder.head, decoder.predict(batch.wave, condition), batch.wave)
        return bits[batch.mask].sum()

    def scalars(
        self, total: Mapping[str, float], sample_rate: int, comparable: tuple[bool, bool]
    ) -> dict[str, float]:
        """total: the sums over all ranks; comparable: see `likelihood.costs`."""
        section = self.codes(sample_rate)
        scalars = {"perplexity": section["perplexity"], "codes_used": section["used"]}
        if self.model.spectral_decoder is not None:
            scalars["spectral"] = total["spectral"] / total["clips"]
        if self.model.conversion_classifier is not None:
            scalars["conversion_accuracy"] = total["conversion"] / total["clips"]
        if total["bits"]:
            names = ("bits", "bits_shuffled_codes", "bits_shuffled_speakers")
            costs = likelihood.costs(total, comparable, "codes", "speakers")
            scalars |= likelihood.measured(dict(zip(names, costs, strict=True)))
        return scalars

    def codes(self, sample_rate: int) -> dict[str, Any]:
        """The section of `evaluation.json` on codes; both rates are with those of the melody."""
        section = self.counts.section(sample_rate / self.model.hop, self.device)
        if self.pitch_counts is not None:
            pitch = self.pitch_counts.section(sample_rate / self.pitch_hop, self.device)
            for name in ("bit_rate", "entropy_rate"):
                section[name] += pitch[name]
        return section


def _counts(quantizer: Quantizer, speakers: Sequence[str]) -> codebook.CodeCounts:
    return codebook.CodeCounts(
        quantizer.num_codebooks, quantizer.codebook_size, speakers, quantizer.codes_per_frame
    )
