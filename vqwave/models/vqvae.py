"""VQ-VAE: an encoder, a quantizer, and a decoder of waveforms (a WaveNet, or the student distilled
from it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data.frame_tracks import PITCH
from vqwave.distributed.collectives import masked_mean
from vqwave.distributions import Distribution
from vqwave.errors import UserInputError
from vqwave.models.melody import Melody
from vqwave.models.pitch import PitchCodecSpec
from vqwave.models.student import Student, StudentSpec
from vqwave.models.wavenet import Vocabulary, WaveNet, WaveNetSpec
from vqwave.nn.auxiliary.adversarial_classifier import (
    AdversarialClassifier,
    AdversarialClassifierSpec,
    AdversarialOutput,
)
from vqwave.nn.auxiliary.conversion_classifier import (
    ConversionClassifier,
    ConversionClassifierSpec,
    ConversionOutput,
)
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder, SpectralDecoderSpec
from vqwave.nn.condition import Condition
from vqwave.nn.encoders import Encoder, EncoderSpec, FrameEncoderSpec
from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    Quantized,
    Quantizer,
    QuantizerSpec,
    TimeJitter,
    frame_mask,
)
from vqwave.rng import keyed

# the parts that make codes of speech, and say what they mean
CODES = ("encoder", "quantizer", "spectral_decoder", "melody")
DecoderSpec = Annotated[WaveNetSpec | StudentSpec, Field(discriminator="kind")]


@spec
class VQVAESpec:
    """An autoencoder of speech through discrete codes."""

    kind: Literal["vqvae"] = "vqvae"
    encoder: EncoderSpec = option(default=FrameEncoderSpec(), help="waveform -> latents")
    quantizer: QuantizerSpec = option(default=EMAQuantizerSpec(), help="latents -> codes")
    time_jitter: Annotated[float, Field(ge=0, le=1)] = option(
        default=0.12, help="probability that training takes a neighbouring frame instead"
    )
    decoder: DecoderSpec = option(default=WaveNetSpec(), help="codes -> waveform")
    melody: PitchCodecSpec | None = option(
        default=None,
        help=(
            "codec of the melody, a second and slower stream of codes (setting `pitch`); none as in"
            " the paper"
        ),
    )
    decoder_input: Literal["latents", "spectrogram", "both"] = option(
        default="latents",
        help=(
            "what the decoder hears of the codes: their latents, the frames that the readout makes"
            " of them, or both"
        ),
    )
    decoder_input_noise: Annotated[float, Field(ge=0)] = option(
        default=0.0,
        help=(
            "most noise that training adds to what the decoder hears, standard deviations: it then"
            " takes the voice from its labels"
        ),
    )
    spectral_decoder: SpectralDecoderSpec | None = option(
        default=None,
        help="auxiliary spectral target of the codes (loss `spectral`); none as in the paper",
    )
    adversarial_classifier: AdversarialClassifierSpec | None = option(
        default=None,
        help="classifier that the codes are to fool (loss `adversary`); none as in the paper",
    )
    conversion_classifier: ConversionClassifierSpec | None = option(
        default=None,
        help=(
            "classifier of converted frames (losses `auxiliary_` and `conversion_classification`);"
            " none as in the paper"
        ),
    )

    @property
    def needs(self) -> dict[str, str]:
        """The losses that this model cannot give, each with what it would need."""
        cyclic = (  # the encoder can hear what the readout says: see `VQVAE.cycle`
            isinstance(self.encoder, FrameEncoderSpec)
            and self.spectral_decoder is not None
            and self.spectral_decoder.features == self.encoder.features
        )
        found = {
            "spectral": (self.spectral_decoder is not None, "model.spectral_decoder"),
            "domain_adversarial": (
                self.adversarial_classifier is not None,
                "model.adversarial_classifier",
            ),
            "entropy": (_with_entropy(self.quantizer), "a quantizer with entropy"),
            "auxiliary_classification": (
                self.conversion_classifier is not None,
                "model.conversion_classifier",
            ),
            "conversion_classification": (
                self.conversion_classifier is not None,
                "model.conversion_classifier",
            ),
            "cycle_consistency": (
                cyclic,
                "a spectral decoder, and an encoder of kind spectral that has its features",
            ),
        }
        return {name: need for name, (there, need) in found.items() if not there}

    def with_decoder(self, decoder: DecoderSpec) -> VQVAESpec:
        """The same codes with another decoder, and without the parts that only training needs."""
        spectral_decoder = None if self.decoder_input == "latents" else self.spectral_decoder
        return replace(
            self,
            decoder=decoder,
            spectral_decoder=spectral_decoder,
            adversarial_classifier=None,
            conversion_classifier=None,
            decoder_input_noise=0.0,
        )

    def with_frozen_codec(self, codes: VQVAESpec) -> VQVAESpec:
        """This decoder for the codes of another model, which are trained no more."""
        return replace(
            self,
            **{name: getattr(codes, name) for name in CODES},
            adversarial_classifier=None,
            conversion_classifier=None,
        )

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> VQVAE:
        """Raises UserInputError for a decoder that has spectral frames of its own: it would not
        hear the codes.
        """
        if self.decoder.features is not None:
            raise UserInputError(
                f"decoder.features: {self.decoder.features.kind}, expected none: it hears the codes"
            )
        encoder = self.encoder.build(sample_rate)
        quantizer = self.quantizer.build(encoder.latent_dim)
        melody = None if self.melody is None else Melody.of(self.melody, sample_rate, vocabulary)
        readout, channels, hop = None, encoder.latent_dim, encoder.hop
        if self.spectral_decoder is not None:
            labels = self.decoder.conditioner.categorical
            pitch_hop = 0 if melody is None else melody.hop
            readout = self.spectral_decoder.build(
                encoder.latent_dim, encoder.hop, sample_rate, vocabulary, labels, pitch_hop
            )
        if self.decoder_input != "latents":
            if readout is None:
                raise UserInputError(
                    f"decoder_input: {self.decoder_input}, expected a spectral decoder, whose"
                    " frames they are"
                )
            channels, hop = (
                readout.frontend.channels + channels * (self.decoder_input == "both"),
                readout.frontend.hop,
            )
        if melody is not None:
            if hop % melody.hop or melody.codec.hop % encoder.hop:
                found = f"frames of {melody.hop} samples, a code of {melody.codec.hop}"
                wanted = (
                    f"{encoder.hop} of a latent and {hop} of the decoder's frames to lie between"
                    " them, evenly"
                )
                raise UserInputError(f"model.melody: {found}, expected the {wanted}")
            channels += 2 * (hop // melody.hop)
        spectrum = None if self.decoder_input == "latents" else readout.spectrum
        decoder = self.decoder.build(sample_rate, vocabulary, channels, hop, spectrum)
        adversary = (
            None
            if self.adversarial_classifier is None
            else self.adversarial_classifier.build(encoder.latent_dim, vocabulary)
        )
        listener = None
        if self.conversion_classifier is not None:
            if readout is None:
                raise UserInputError(
                    "conversion_classifier: expected a spectral decoder, too, which it is"
                    " conditioned on"
                )
            listener = self.conversion_classifier.build(
                readout.frontend.channels, readout.ratio, vocabulary
            )
        return VQVAE(
            encoder,
            quantizer,
            TimeJitter(self.time_jitter),
            decoder,
            readout,
            adversary,
            listener,
            melody=melody,
            decoder_input=self.decoder_input,
            decoder_input_noise=self.decoder_input_noise,
        )


def _with_entropy(quantizer: QuantizerSpec) -> bool:
    """Whether a quantizer, or one that it is made of, has the loss `entropy`."""
    inner = (
        getattr(quantizer, name)
        for name in ("quantizer", "top", "bottom")
        if hasattr(quantizer, name)
    )
    return getattr(quantizer, "entropy", None) is not None or any(map(_with_entropy, inner))


@dataclass(frozen=True)
class Reconstruction:
    """What a teacher-forced pass yields. No distribution where the decoder was not run."""

    distribution: Distribution | None
    quantized: Quantized
    spectral: Tensor | None = None
    adversarial: AdversarialOutput | None = None
    conversion: ConversionOutput | None = None
    cycle: Tensor | None = None

    @property
    def losses(self) -> dict[str, Tensor]:
        """By name: the quantizer's, the readout's, the adversary's, the listener's and the cycle's,
        of those that there are.
        """
        found = {"spectral": self.spectral, "cycle_consistency": self.cycle}
        if self.adversarial is not None:
            found["domain_adversarial"] = self.adversarial.loss
        if self.conversion is not None:
            found |= {
                "auxiliary_classification": self.conversion.listening,
                "conversion_classification": self.conversion.conversion,
            }
        return self.quantized.losses | {
            name: loss for name, loss in found.items() if loss is not None
        }

    @property
    def metrics(self) -> dict[str, Tensor]:
        """The quantizer's; how often the adversary names the label, and how often a conversion is
        heard as it should be.
        """
        adversary = (
            {} if self.adversarial is None else {"adversary_accuracy": self.adversarial.accuracy}
        )
        listener = (
            {} if self.conversion is None else {"conversion_accuracy": self.conversion.accuracy}
        )
        return self.quantized.metrics | adversary | listener


class VQVAE(nn.Module):
    """x -> z_e -> codes -> z_q -> p(x | z_q, labels).

    van den Oord et al., 2017, sec. 3. arXiv:1711.00937
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        time_jitter: TimeJitter,
        decoder: WaveNet | Student,
        spectral_decoder: SpectralDecoder | None = None,
        adversarial_classifier: AdversarialClassifier | None = None,
        conversion_classifier: ConversionClassifier | None = None,
        *,
        melody: Melody | None = None,
        decoder_input: Literal["latents", "spectrogram", "both"] = "latents",
        decoder_input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.time_jitter = time_jitter
        self.decoder = decoder
        self.spectral_decoder = spectral_decoder
        self.adversarial_classifier = adversarial_classifier
        self.conversion_classifier = conversion_classifier
        self.melody = melody
        self.decoder_input = decoder_input
        self.decoder_input_noise = decoder_input_noise

    @property
    def hop(self) -> int:
        """Samples a frame."""
        return self.encoder.hop

    @property
    def receptive_field(self) -> int:
        return self.decoder.receptive_field

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (B, T), T a multiple of hop, of which lengths (B,) samples are real -> codes (B, Q, T /
        hop).
        """
        z = self.encoder(x, lengths)
        return self.quantizer.encode(z, self._mask(lengths, z))

    def load_frozen_codec(self, other: VQVAE) -> None:
        """The encoder, quantizer and readout of another model, as they are and to stay so."""
        for name in CODES:
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None:
                mine.load_state_dict(theirs.state_dict())
                mine.requires_grad_(False)

    def condition(
        self,
        codes: Tensor,
        labels: Mapping[str, Tensor],
        mask: Tensor | None = None,
        pitch_codes: Tensor | None = None,
    ) -> Condition | None:
        """codes (B, Q, F), labels name -> (B,), mask (B, F) of the real frames: the decoder's
        condition.

        pitch_codes (B, Q_p, F_p): of a model with melody.
        """
        pitch = self.pitch(pitch_codes, labels, codes.shape[-1], mask)
        frames = self.decoder_features(self.quantizer.decode(codes), labels, mask=mask, pitch=pitch)
        return self.decoder.condition(frames, labels, mask)

    def encode_pitch(
        self, labels: Mapping[str, Tensor], lengths: Tensor | None = None
    ) -> Tensor | None:
        """labels["pitch"] (B, 2, F') -> codes of the melody (B, Q_p, F_p); None for a model
        without.
        """
        return None if self.melody is None else self.melody.encode(labels[PITCH], labels, lengths)

    def bit_rate(self, sample_rate: int) -> float:
        """Nominal bits a second of all codes."""
        melody = 0.0
        if self.melody is not None:
            melody = self.melody.codec.bits_per_frame / self.melody.codec.hop
        return sample_rate * (self.quantizer.bits_per_frame / self.hop + melody)

    def pitch(
        self,
        pitch_codes: Tensor | None,
        labels: Mapping[str, Tensor],
        frames: int,
        mask: Tensor | None = None,
    ) -> Tensor | None:
        """Codes of the melody (B, Q_p, F_p) -> pitch (B, 2, F') of so many latents, in the voice of
        the labels.

        mask (B, frames) of the real latents.

        Raises UserInputError where a model with melody is given none.
        """
        if self.melody is None:
            return None
        if pitch_codes is None:
            raise UserInputError(
                "these codes have no pitch codes, expected some: this model decodes a melody"
            )
        real = None if mask is None else mask[:, :: self.melody.codec.hop // self.hop]
        return self.melody.decode(pitch_codes, labels, frames * self.hop // self.melody.hop, real)

    def decoder_features(
        self,
        z: Tensor,
        labels: Mapping[str, Tensor],
        predicted: Tensor | None = None,
        mask: Tensor | None = None,
        pitch: Tensor | None = None,
    ) -> Tensor:
        """z (B, D, F) quantized latents, mask (B, F), pitch (B, 2, F'') -> the decoder's frames (B,
        D', F').

        Channels: latents, the readout's frames, pitch, a predictor's columns; of those that there
        are. predicted: the readout's frames, if at hand.
        """
        parts, spectral = [z], self.decoder_input != "latents"
        if spectral:
            predicted = (
                self.spectral_decoder(z, labels, mask, pitch) if predicted is None else predicted
            )
            parts = [predicted]
        if self.decoder_input == "both":
            parts = [
                z[..., None].expand(-1, -1, -1, self.spectral_decoder.ratio).flatten(-2),
                predicted,
            ]
        if pitch is not None:
            folded = self.decoder.hop // self.melody.hop
            parts.append(rearrange(pitch, "b c (f n) -> b (c n) f", n=folded))
        predictor = self.decoder.conditioner.predictor
        if predictor is not None:
            parts.append(predictor.analyse(self.spectral_decoder.log_mel(predicted), pitch))
        return torch.cat(parts, 1)

    def add_decoder_noise(self, frames: Tensor) -> Tensor:
        """Frames (B, D', F') as they condition the decoder in training: with noise; pitch and a
        predictor's columns stay.
        """
        if not self.decoder.training or not self.decoder_input_noise:
            return frames
        predictor, kept = self.decoder.conditioner.predictor, 0
        if self.melody is not None:
            kept += 2 * (self.decoder.hop // self.melody.hop)
        if predictor is not None:
            kept += predictor.frame_channels
        own, rest = frames.tensor_split([frames.shape[1] - kept], 1)
        return torch.cat([keyed.noisy(own, self.decoder_input_noise), rest], 1)

    def features_of_recordings(
        self,
        x: Tensor,
        labels: Mapping[str, Tensor],
        lengths: Tensor | None = None,
        *,
        recorded_pitch: bool = False,
    ) -> Tensor:
        """Recordings x (B, T), of which lengths (B,) samples are real -> what conditions the
        decoder of their codes.

        recorded_pitch: the decoder gets the recordings' own pitch, labels["pitch"] (B, 2, F'), in
        place of what is decoded from its codes.
        """
        codes, mask = self.encode(x, lengths), None
        if lengths is not None:
            mask = frame_mask(lengths, self.hop, codes.shape[-1])
        pitch = self.pitch(self.encode_pitch(labels, lengths), labels, codes.shape[-1], mask)
        z = self.quantizer.decode(codes)
        if not recorded_pitch or pitch is None:
            return self.decoder_features(z, labels, mask=mask, pitch=pitch)
        predicted = (
            None if self.spectral_decoder is None else self.spectral_decoder(z, labels, mask, pitch)
        )
        return self.decoder_features(z, labels, predicted, mask, self.recorded_pitch(labels, pitch))

    def recorded_pitch(self, labels: Mapping[str, Tensor], decoded: Tensor) -> Tensor:
        """labels["pitch"] as long as what is decoded from its codes, (B, 2, F).

        The decoded contour is off by a few samples of a period. A decoder trained on it finds no
        period where its pitch taps look, and learns to leave them alone; one trained on the
        recordings' own learns to repeat the period that it is given, and follows the decoded
        contour where there is no recording.
        """
        F = decoded.shape[-1]
        given = labels[PITCH].to(decoded)[..., :F]
        return nn.functional.pad(given, (0, F - given.shape[-1]))

    def cycle(self, z: Tensor, converted: Tensor, lengths: Tensor | None = None) -> Tensor:
        """How far the latents of a conversion are from those it was made of: mean squared error
        over valid frames, scalar.

        z (B, D, F) quantized; converted: the readout's frames in another voice. What the readout
        says in a voice that never said it has no recording to be compared with, but the encoder
        hears whether it says the same. Cyclic reconstruction: Tobing et al., 2019, sec. 3.
        arXiv:1907.10185 (there of a variational autoencoder's whole spectra)
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
        recorded_pitch: bool = False,
    ) -> Reconstruction:
        """x (B, T), T a multiple of hop, of which lengths (B,) samples are real.

        decode: run the decoder, which costs the most. others: labels of another voice to convert
        to, which the listener hears; cyclic: encode these conversions again, see `cycle`;
        recorded_pitch: see `features_of_recordings`.
        """
        z = self.encoder(x, lengths)
        mask = self._mask(lengths, z)
        quantized = self.quantizer(z, mask)
        heard = self.time_jitter(quantized.z, mask)
        melody = self.encode_pitch(labels, lengths)
        pitch = self.pitch(melody, labels, z.shape[-1], mask)
        predicted = (
            None
            if self.spectral_decoder is None
            else self.spectral_decoder(heard, labels, mask, pitch)
        )
        spectral = (
            None
            if self.spectral_decoder is None
            else self.spectral_decoder.loss(predicted, x, mask)
        )
        verdict = (
            None
            if self.adversarial_classifier is None
            else self.adversarial_classifier(quantized.z, labels, mask)
        )
        distribution = None
        if decode:
            given_pitch = (
                self.recorded_pitch(labels, pitch)
                if recorded_pitch and pitch is not None
                else pitch
            )
            frames = self.add_decoder_noise(
                self.decoder_features(heard, labels, predicted, pitch=given_pitch)
            )
            distribution = self.decoder(x, labels, frames, mask)
        hearing = cycle = None
        if others is not None:
            theirs = self.pitch(melody, others, z.shape[-1], mask)
            converted = self.spectral_decoder(heard, others, mask, theirs)
            if self.conversion_classifier is not None:
                recorded = self.spectral_decoder.frontend(x, mask=mask)
                hearing = self.conversion_classifier.judge(
                    recorded, labels, converted, others, mask
                )
            cycle = self.cycle(quantized.z, converted, lengths) if cyclic else None
        return Reconstruction(distribution, quantized, spectral, verdict, hearing, cycle)
