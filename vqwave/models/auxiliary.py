"""Auxiliary objectives of a VQ-VAE: networks around encoder, quantizer and decoder, and their
losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vqwave.distributed.collectives import masked_mean
from vqwave.distributions import Distribution
from vqwave.nn.auxiliary.adversarial_classifier import AdversarialClassifier, AdversarialOutput
from vqwave.nn.auxiliary.conversion_classifier import ConversionClassifier, ConversionOutput
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder
from vqwave.nn.encoders import Encoder
from vqwave.nn.quantize import Quantized


@dataclass(frozen=True)
class Reconstruction:
    """Result of a teacher-forced pass. No distribution where the decoder was not run."""

    distribution: Distribution | None
    quantized: Quantized
    spectral: Tensor | None = None
    adversarial: AdversarialOutput | None = None
    conversion: ConversionOutput | None = None
    cycle: Tensor | None = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """By name: the quantizer's, and those of the auxiliary objectives that there are."""
        losses = {"spectral": self.spectral, "cycle_consistency": self.cycle}
        if self.adversarial is not None:
            losses["domain_adversarial"] = self.adversarial.loss
        if self.conversion is not None:
            losses |= {
                "auxiliary_classification": self.conversion.recorded,
                "conversion_classification": self.conversion.converted,
            }
        return self.quantized.losses | {
            name: loss for name, loss in losses.items() if loss is not None
        }

    @property
    def metrics(self) -> dict[str, Tensor]:
        """The quantizer's; accuracy of the adversarial classifier, and of the conversion classifier
        on conversions.
        """
        accuracies: dict[str, Tensor] = {}
        if self.adversarial is not None:
            accuracies["adversary_accuracy"] = self.adversarial.accuracy
        if self.conversion is not None:
            accuracies["conversion_accuracy"] = self.conversion.accuracy
        return self.quantized.metrics | accuracies


@dataclass(frozen=True)
class EncodedBatch:
    """A training batch between quantizer and decoder.

    wave (B, T) of which lengths (B,) samples are real, labels name -> (B,); mask (B, F) of the real
    frames; z (B, D, F) the latents after time jitter; pitch (B, 2, F') and its codes, of a model
    with melody; spectrum: the spectral decoder's frames, if there is one.
    """

    wave: Tensor
    labels: Mapping[str, Tensor]
    lengths: Tensor | None
    mask: Tensor | None
    quantized: Quantized
    z: Tensor
    pitch_codes: Tensor | None
    pitch: Tensor | None
    spectrum: Tensor | None = None


@dataclass(frozen=True)
class Auxiliaries:
    """The networks of the auxiliary objectives that a model has."""

    spectral_decoder: SpectralDecoder | None = None
    adversarial_classifier: AdversarialClassifier | None = None
    conversion_classifier: ConversionClassifier | None = None

    def spectrum(
        self,
        z: Tensor,
        labels: Mapping[str, Tensor],
        mask: Tensor | None,
        pitch: Tensor | None,
    ) -> Tensor | None:
        """The spectral decoder's frames (B, M, ratio F) of z (B, D, F)."""
        if self.spectral_decoder is None:
            return None
        return self.spectral_decoder(z, labels, mask, pitch)

    def spectral_loss(self, batch: EncodedBatch) -> Tensor | None:
        """Error of the predicted frames: loss `spectral`."""
        if self.spectral_decoder is None or batch.spectrum is None:
            return None
        return self.spectral_decoder.loss(batch.spectrum, batch.wave, batch.mask)

    def adversarial(self, batch: EncodedBatch) -> AdversarialOutput | None:
        """Classification of the quantized latents by their label: loss `domain_adversarial`."""
        if self.adversarial_classifier is None:
            return None
        return self.adversarial_classifier(batch.quantized.z, batch.labels, batch.mask)

    def conversion(
        self, batch: EncodedBatch, converted: Tensor, targets: Mapping[str, Tensor]
    ) -> ConversionOutput | None:
        """Classification of recordings and of their conversions (B, M, ratio F) to the labels
        `targets`: losses `auxiliary_classification` and `conversion_classification`.
        """
        if self.conversion_classifier is None or self.spectral_decoder is None:
            return None
        recorded = self.spectral_decoder.frontend(batch.wave, mask=batch.mask)
        return self.conversion_classifier.losses(
            recorded, batch.labels, converted, targets, batch.mask
        )


def cycle_loss(
    encoder: Encoder, z: Tensor, converted: Tensor, lengths: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Distance of the latents of a conversion from those it was made of: mean squared error over
    real frames, scalar.

    z (B, D, F) quantized, mask (B, F); converted: the spectral decoder's frames for other labels. A
    conversion has no recording to be compared with, but its latents should be those of the source.
    Cyclic reconstruction: Tobing et al., 2019, sec. 3. arXiv:1907.10185 (there of a variational
    autoencoder's whole spectra)
    """
    again = encoder.encode_features(converted, lengths)
    return masked_mean((again - z.detach()).square().mean(1), mask)
