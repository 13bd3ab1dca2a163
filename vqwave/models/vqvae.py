"""VQ-VAE: an encoder, a quantizer, and a decoder of waveforms (a WaveNet, or the student distilled from it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributions import Distribution
from vqwave.errors import BadInput
from vqwave.models.student import Student, StudentSpec
from vqwave.models.wavenet import Vocabulary, WaveNet, WaveNetSpec
from vqwave.nn import draws
from vqwave.nn.adversary import Adversary, AdversarySpec, Verdict
from vqwave.nn.condition import Condition
from vqwave.nn.encoders import Encoder, EncoderSpec, FrameEncoderSpec
from vqwave.nn.listener import Hearing, Listener, ListenerSpec
from vqwave.nn.quantize import EMAQuantizerSpec, Quantized, Quantizer, QuantizerSpec, TimeJitter, frame_mask
from vqwave.nn.ranks import masked_mean
from vqwave.nn.readout import Readout, ReadoutSpec

CODES = ("encoder", "quantizer", "readout")  # the parts that make codes of speech, and say what they mean
DecoderSpec = Annotated[WaveNetSpec | StudentSpec, Field(discriminator="kind")]


@spec
class VQVAESpec:
    """An autoencoder of speech through discrete codes."""

    kind: Literal["vqvae"] = "vqvae"
    encoder: EncoderSpec = option(FrameEncoderSpec(), "waveform -> latents")
    quantizer: QuantizerSpec = option(EMAQuantizerSpec(), "latents -> codes")
    jitter: Annotated[float, Field(ge=0, le=1)] = option(0.12, "probability that training takes a neighbouring frame instead")
    decoder: DecoderSpec = option(WaveNetSpec(), "codes -> waveform")
    hears: Literal["latents", "frames", "both"] = option(
        "latents", "what the decoder hears of the codes: their latents, the frames that the readout makes of them, or both"
    )
    noise: Annotated[float, Field(ge=0)] = option(
        0.0, "most noise that training adds to what the decoder hears, standard deviations: it then takes the voice from its labels"
    )
    readout: ReadoutSpec | None = option(None, "auxiliary spectral target of the codes (loss `spectral`); none as in the paper")
    adversary: AdversarySpec | None = option(None, "classifier that the codes are to fool (loss `adversary`); none as in the paper")
    listener: ListenerSpec | None = option(
        None, "classifier that hears the readout's conversions (losses `listening` and `conversion`); none as in the paper"
    )

    @property
    def needs(self) -> dict[str, str]:
        """The losses that this model cannot give, each with what it would need."""
        cyclic = (  # the encoder can hear what the readout says: see `VQVAE.cycle`
            isinstance(self.encoder, FrameEncoderSpec)
            and self.readout is not None
            and self.readout.features == self.encoder.features
        )
        found = {
            "spectral": (self.readout is not None, "model.readout"),
            "adversary": (self.adversary is not None, "model.adversary"),
            "entropy": (_with_entropy(self.quantizer), "a quantizer with entropy"),
            "listening": (self.listener is not None, "model.listener"),
            "conversion": (self.listener is not None, "model.listener"),
            "cycle": (cyclic, "a readout, and an encoder of kind frames that has the readout's features"),
        }
        return {name: need for name, (there, need) in found.items() if not there}

    def speaking_by(self, decoder: DecoderSpec) -> VQVAESpec:
        """The same codes with another decoder, and without the parts that only training needs."""
        readout = None if self.hears == "latents" else self.readout
        return replace(self, decoder=decoder, readout=readout, adversary=None, listener=None, noise=0.0)

    def decoding(self, codes: VQVAESpec) -> VQVAESpec:
        """This decoder for the codes of another model, which are trained no more."""
        return replace(self, **{name: getattr(codes, name) for name in CODES}, adversary=None, listener=None)

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> VQVAE:
        """Raises BadInput for a decoder that has spectral frames of its own: it would not hear the codes."""
        if self.decoder.features is not None:
            raise BadInput(f"decoder.features: {self.decoder.features.kind}, expected none: it hears the codes")
        encoder = self.encoder.build(sample_rate)
        quantizer = self.quantizer.build(encoder.dim)
        readout, channels, hop = None, encoder.dim, encoder.hop
        if self.readout is not None:
            labels = self.decoder.conditioner.labels
            readout = self.readout.build(encoder.dim, encoder.hop, sample_rate, vocabulary, labels)
        if self.hears != "latents":
            if readout is None:
                raise BadInput(f"hears: {self.hears}, expected a readout, whose frames they are")
            channels, hop = readout.frontend.channels + channels * (self.hears == "both"), readout.frontend.hop
        spectrum = None if self.hears == "latents" else readout.spectrum
        decoder = self.decoder.build(sample_rate, vocabulary, channels, hop, spectrum)
        adversary = None if self.adversary is None else self.adversary.build(encoder.dim, vocabulary)
        listener = None
        if self.listener is not None:
            if readout is None:
                raise BadInput("listener: expected a readout, too, which it hears")
            listener = self.listener.build(readout.frontend.channels, readout.ratio, vocabulary)
        return VQVAE(
            encoder, quantizer, TimeJitter(self.jitter), decoder, readout, adversary, listener, hears=self.hears, noise=self.noise
        )


def _with_entropy(quantizer: QuantizerSpec) -> bool:
    """Whether a quantizer, or one that it is made of, has the loss `entropy`."""
    inner = (getattr(quantizer, name) for name in ("inner", "top", "bottom") if hasattr(quantizer, name))
    return getattr(quantizer, "entropy", None) is not None or any(map(_with_entropy, inner))


@dataclass(frozen=True)
class Reconstruction:
    """What a teacher-forced pass yields. No distribution where the decoder was not run."""

    distribution: Distribution | None
    quantized: Quantized
    spectral: Tensor | None = None
    verdict: Verdict | None = None
    hearing: Hearing | None = None
    cycle: Tensor | None = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """By name: the quantizer's, the readout's, the adversary's, the listener's and the cycle's, of those that there are."""
        found = {"spectral": self.spectral, "cycle": self.cycle}
        if self.verdict is not None:
            found["adversary"] = self.verdict.loss
        if self.hearing is not None:
            found |= {"listening": self.hearing.listening, "conversion": self.hearing.conversion}
        return self.quantized.losses | {name: loss for name, loss in found.items() if loss is not None}

    @property
    def metrics(self) -> dict[str, Tensor]:
        """The quantizer's; how often the adversary names the label, and how often a conversion is heard as it should be."""
        adversary = {} if self.verdict is None else {"adversary_accuracy": self.verdict.accuracy}
        listener = {} if self.hearing is None else {"conversion_accuracy": self.hearing.accuracy}
        return self.quantized.metrics | adversary | listener


class VQVAE(nn.Module):
    """x -> z_e -> codes -> z_q -> p(x | z_q, labels). van den Oord et al., 2017, sec. 3. arXiv:1711.00937"""

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        jitter: TimeJitter,
        decoder: WaveNet | Student,
        readout: Readout | None = None,
        adversary: Adversary | None = None,
        listener: Listener | None = None,
        *,
        hears: Literal["latents", "frames", "both"] = "latents",
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.jitter = jitter
        self.decoder = decoder
        self.readout = readout
        self.adversary = adversary
        self.listener = listener
        self.hears = hears
        self.noise = noise

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.encoder.hop

    @property
    def receptive_field(self) -> int:
        return self.decoder.receptive_field

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, T), T a multiple of hop, of which lengths (B,) samples are real -> codes (B, Q, T / hop)."""
        z = self.encoder(x, lengths)
        return self.quantizer.encode(z, self._mask(lengths, z))

    def take_codes(self, other: VQVAE) -> None:
        """The encoder, quantizer and readout of another model, as they are and to stay so."""
        for name in CODES:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None:
                mine.load_state_dict(theirs.state_dict())
                mine.requires_grad_(False)

    def condition(
        self, codes: Tensor, labels: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> Condition | None:
        """codes (B, Q, F), labels name -> (B,), mask (B, F) of the real frames: the decoder's condition."""
        frames = self.frames(self.quantizer.decode(codes), labels, mask=mask)
        return self.decoder.condition(frames, labels, mask)

    def frames(
        self,
        z: Tensor,
        labels: Mapping[str, Tensor],
        predicted: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """z (B, D, F) quantized latents, mask (B, F) -> the decoder's frames (B, D', F').

        predicted: the readout's frames, if at hand.
        """
        if self.hears == "latents":
            return z
        predicted = self.readout(z, labels, mask) if predicted is None else predicted
        parts = [predicted]
        if self.hears == "both":
            parts = [z[..., None].expand(-1, -1, -1, self.readout.ratio).flatten(-2), predicted]
        if self.decoder.conditioner.predictor is not None:
            parts.append(self.decoder.conditioner.predictor.analyse(self.readout.log_mel(predicted)))
        return torch.cat(parts, 1)

    def taught(self, frames: Tensor) -> Tensor:
        """What the decoder hears of frames (B, D', F') while it is trained: they, and noise; a predictor's columns stay."""
        if not self.decoder.training:
            return frames
        predictor = self.decoder.conditioner.predictor
        if predictor is None:
            return draws.noisy(frames, self.noise)
        own, columns = frames.tensor_split([frames.shape[1] - predictor.frame_channels], 1)
        return torch.cat([draws.noisy(own, self.noise), columns], 1)

    def cycle(self, z: Tensor, converted: Tensor, lengths: Tensor | None = None) -> Tensor:
        """How far the latents of a conversion are from those it was made of: mean squared error over valid frames, scalar.

        z (B, D, F) quantized; converted: the readout's frames in another voice. What the readout says in a voice
        that never said it has no recording to be compared with, but the encoder hears whether it says the same. Cyclic
        reconstruction: Tobing et al., 2019, sec. 3. arXiv:1907.10185 (there of a variational autoencoder's whole spectra)
        """
        again = self.encoder.read(converted, lengths)
        mask = self._mask(lengths, z)
        return masked_mean((again - z.detach()).square().mean(1), mask)

    def _mask(self, lengths: Tensor | None, z: Tensor) -> Tensor | None:
        """Which frames of z (B, D, F) hold samples, (B, F)."""
        return None if lengths is None else frame_mask(lengths, self.hop, z.shape[-1])

    def forward(
        self,
        x: Tensor,
        labels: Mapping[str, Tensor],
        lengths: Tensor | None = None,
        *,
        decode: bool = True,
        others: Mapping[str, Tensor] | None = None,
        cyclic: bool = False,
    ) -> Reconstruction:
        """x (B, T), T a multiple of hop, of which lengths (B,) samples are real.

        decode: run the decoder, which costs the most. others: labels of another voice to convert to, which the listener hears;
        cyclic: encode these conversions again, see `cycle`.
        """
        z = self.encoder(x, lengths)
        mask = self._mask(lengths, z)
        quantized = self.quantizer(z, mask)
        heard = self.jitter(quantized.z, mask)
        predicted = None if self.readout is None else self.readout(heard, labels, mask)
        spectral = None if self.readout is None else self.readout.loss(predicted, x, mask)
        verdict = None if self.adversary is None else self.adversary(quantized.z, labels, mask)
        distribution = None
        if decode:
            frames = self.taught(self.frames(heard, labels, predicted))
            distribution = self.decoder(x, labels, frames, mask)
        hearing = cycle = None
        if others is not None:
            converted = self.readout(heard, others, mask)
            if self.listener is not None:
                recorded = self.readout.frontend(x, mask=mask)
                hearing = self.listener.judge(recorded, labels, converted, others, mask)
            cycle = self.cycle(quantized.z, converted, lengths) if cyclic else None
        return Reconstruction(distribution, quantized, spectral, verdict, hearing, cycle)
