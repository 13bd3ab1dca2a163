"""VQ-VAE: an encoder, a quantizer, and a decoder of waveforms (a WaveNet, or the student distilled
from it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.data.frame_tracks import PITCH
from vqwave.distributions import Distribution
from vqwave.errors import UserInputError
from vqwave.models.auxiliary import Auxiliaries, EncodedBatch, Reconstruction, cycle_loss
from vqwave.models.melody import Melody
from vqwave.models.pitch import PitchCodecSpec
from vqwave.models.student import Student, StudentSpec
from vqwave.models.wavenet import Vocabulary, WaveNet, WaveNetSpec
from vqwave.nn.auxiliary.adversarial_classifier import (
    AdversarialClassifierSpec,
)
from vqwave.nn.auxiliary.conversion_classifier import (
    ConversionClassifier,
    ConversionClassifierSpec,
)
from vqwave.nn.auxiliary.spectral_decoder import SpectralDecoder, SpectralDecoderSpec
from vqwave.nn.condition import Condition
from vqwave.nn.encoders import AnyEncoderSpec, Encoder, FrameEncoderSpec
from vqwave.nn.quantize import (
    AnyQuantizerSpec,
    EMAQuantizerSpec,
    Quantizer,
    TimeJitter,
    frame_mask,
)
from vqwave.nn.repeat import repeated
from vqwave.rng import keyed

# the parts that make codes of speech, and spectra of codes
CODES = ("encoder", "quantizer", "spectral_decoder", "melody")
DecoderInput = Literal["latents", "spectrogram", "both"]
DecoderSpec = Annotated[WaveNetSpec | StudentSpec, Field(discriminator="kind")]


@spec
class VQVAESpec:
    """An autoencoder of speech through discrete codes."""

    kind: Literal["vqvae"] = "vqvae"
    encoder: AnyEncoderSpec = option(default=FrameEncoderSpec(), help="waveform -> latents")
    quantizer: AnyQuantizerSpec = option(default=EMAQuantizerSpec(), help="latents -> codes")
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
    decoder_input: DecoderInput = option(
        default="latents",
        help=(
            "what conditions the decoder: the codes' latents, the spectral decoder's frames of"
            " them, or both"
        ),
    )
    decoder_input_noise: Annotated[float, Field(ge=0)] = option(
        default=0.0,
        help=(
            "most noise that training adds to the decoder's input, standard deviations: it then"
            " takes the voice from its labels"
        ),
    )
    spectral_decoder: SpectralDecoderSpec | None = option(
        default=None,
        help="auxiliary spectral target of the codes (loss `spectral`); none as in the paper",
    )
    adversarial_classifier: AdversarialClassifierSpec | None = option(
        default=None,
        help=(
            "classifier that the codes are to fool (loss `domain_adversarial`); none as in the"
            " paper"
        ),
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
        spectral, quantizer_losses = self.spectral_decoder, self.quantizer.losses
        classifies = self.conversion_classifier is not None
        cyclic = spectral is not None and spectral.features == self.encoder.spectral_input
        given = {
            "spectral": (spectral is not None, "model.spectral_decoder"),
            "domain_adversarial": (
                self.adversarial_classifier is not None,
                "model.adversarial_classifier",
            ),
            "entropy": ("entropy" in quantizer_losses, "a quantizer with entropy"),
            "auxiliary_classification": (classifies, "model.conversion_classifier"),
            "conversion_classification": (classifies, "model.conversion_classifier"),
            "cycle_consistency": (
                cyclic,
                "a spectral decoder, and an encoder of kind spectral that has its features",
            ),
        }
        return {name: need for name, (there, need) in given.items() if not there}

    @property
    def predicts_log_mel(self) -> bool:
        """Whether its spectral decoder predicts what a linear predictor is made from."""
        spectral = self.spectral_decoder
        return spectral is not None and spectral.features.kind == "log_mel"

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

    def check_vectors(self, codec: VQVAESpec) -> None:
        """Raises UserInputError where a frozen codec's spectral decoder takes other vectors."""
        if codec.spectral_decoder is None or not codec.spectral_decoder.vectors:
            return
        own, theirs = self.decoder.conditioner, codec.decoder.conditioner
        dropped = [bool(each.dropout.categorical) for each in (own, theirs)]
        if own.embeddings != theirs.embeddings or dropped[0] != dropped[1]:
            raise UserInputError(
                f"model.decoder.conditioner: embeddings {own.embeddings}, dropout.categorical"
                f" {own.dropout.categorical:g}, expected those of frozen_codec:"
                f" {theirs.embeddings}, {theirs.dropout.categorical:g}"
            )

    def build(self, sample_rate: int, vocabulary: Vocabulary) -> VQVAE:
        """Raises UserInputError for a decoder with spectral frames of its own: it would not be
        conditioned on the codes.
        """
        if self.decoder.features is not None:
            raise UserInputError(
                f"decoder.features: {self.decoder.features.kind}, expected none: it is conditioned"
                " on the codes"
            )
        encoder = self.encoder.build(sample_rate)
        quantizer = self.quantizer.build(encoder.latent_dim)
        melody = None if self.melody is None else Melody.of(self.melody, sample_rate, vocabulary)
        spectral = self._spectral_decoder(encoder, melody, sample_rate, vocabulary)
        decoder = self._decoder(encoder, melody, spectral, sample_rate, vocabulary)
        adversarial = (
            None
            if self.adversarial_classifier is None
            else self.adversarial_classifier.build(encoder.latent_dim, vocabulary)
        )
        return VQVAE(
            encoder,
            quantizer,
            decoder,
            time_jitter=TimeJitter(self.time_jitter),
            auxiliaries=Auxiliaries(spectral, adversarial, self._conversion(spectral, vocabulary)),
            melody=melody,
            decoder_input=self.decoder_input,
            decoder_input_noise=self.decoder_input_noise,
        )

    def _spectral_decoder(
        self, encoder: Encoder, melody: Melody | None, sample_rate: int, vocabulary: Vocabulary
    ) -> SpectralDecoder | None:
        if self.spectral_decoder is None:
            return None
        return self.spectral_decoder.build(
            encoder.latent_dim,
            encoder.hop,
            sample_rate,
            vocabulary,
            conditioner=self.decoder.conditioner,
            pitch_hop=0 if melody is None else melody.hop,
        )

    def _decoder(
        self,
        encoder: Encoder,
        melody: Melody | None,
        spectral: SpectralDecoder | None,
        sample_rate: int,
        vocabulary: Vocabulary,
    ) -> WaveNet | Student:
        channels, hop, spectrum = encoder.latent_dim, encoder.hop, None
        if self.decoder_input != "latents":
            if spectral is None:
                raise UserInputError(
                    f"decoder_input: {self.decoder_input}, expected a spectral decoder, whose"
                    " frames they are"
                )
            channels = spectral.frontend.channels + channels * (self.decoder_input == "both")
            hop, spectrum = spectral.frontend.hop, spectral.spectrum
        if melody is not None:
            if hop % melody.hop or melody.codec.hop % encoder.hop:
                raise UserInputError(
                    f"model.melody: frames of {melody.hop} samples, a code of {melody.codec.hop},"
                    f" expected the {encoder.hop} of a latent and {hop} of the decoder's frames to"
                    " lie between them, evenly"
                )
            channels += 2 * (hop // melody.hop)
        return self.decoder.build(sample_rate, vocabulary, channels, hop, spectrum)

    def _conversion(
        self, spectral: SpectralDecoder | None, vocabulary: Vocabulary
    ) -> ConversionClassifier | None:
        if self.conversion_classifier is None:
            return None
        if spectral is None:
            raise UserInputError(
                "conversion_classifier: expected a spectral decoder, too, which it is conditioned"
                " on"
            )
        return self.conversion_classifier.build(
            spectral.frontend.channels, spectral.ratio, vocabulary
        )


class VQVAE(nn.Module):
    """x -> z_e -> codes -> z_q -> p(x | z_q, labels).

    van den Oord et al., 2017, sec. 3. arXiv:1711.00937
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: WaveNet | Student,
        *,
        time_jitter: TimeJitter,
        auxiliaries: Auxiliaries,
        melody: Melody | None = None,
        decoder_input: DecoderInput = "latents",
        decoder_input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.time_jitter = time_jitter
        self.decoder = decoder
        self.spectral_decoder = auxiliaries.spectral_decoder
        self.adversarial_classifier = auxiliaries.adversarial_classifier
        self.conversion_classifier = auxiliaries.conversion_classifier
        self.melody = melody
        self.decoder_input = decoder_input
        self.decoder_input_noise = decoder_input_noise

    @property
    def auxiliaries(self) -> Auxiliaries:
        """The networks of the auxiliary objectives."""
        return Auxiliaries(
            self.spectral_decoder, self.adversarial_classifier, self.conversion_classifier
        )

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
        """Encoder, quantizer, spectral decoder and melody of another model, not trained further."""
        for name in CODES:
            own, frozen = getattr(self, name), getattr(other, name)
            if own is not None:
                own.load_state_dict(frozen.state_dict())
                own.requires_grad_(requires_grad=False)

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
                "these codes have no pitch codes, expected some (pitch_codes): it has a melody"
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

        Channels: latents, the spectral decoder's frames, pitch, a predictor's columns; of those
        that there are. predicted: the spectral decoder's frames, if at hand.
        """
        parts = [z]
        if self.decoder_input != "latents":
            if predicted is None:
                predicted = self.auxiliaries.spectrum(z, labels, mask, pitch)
            assert predicted is not None  # `build` refuses a model without
            parts = [predicted]
            if self.decoder_input == "both":
                assert self.spectral_decoder is not None
                parts = [repeated(z, self.spectral_decoder.ratio), predicted]
        if self.melody is not None and pitch is not None:
            frames = self.decoder.hop // self.melody.hop
            parts.append(rearrange(pitch, "b c (f n) -> b (c n) f", n=frames))
        predictor = self.decoder.conditioner.predictor
        if predictor is not None and self.spectral_decoder is not None and predicted is not None:
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
        recorded_spectrum: bool = False,
    ) -> Tensor:
        """Recordings x (B, T), of which lengths (B,) samples are real -> the decoder's frames of
        their codes.

        recorded_pitch: the decoder gets the recordings' own pitch, labels["pitch"] (B, 2, F'), in
        place of what is decoded from its codes; recorded_spectrum: and their own spectral frames,
        in place of those that the spectral decoder predicts.
        """
        z, mask, pitch = self._coded(x, labels, lengths)
        if recorded_spectrum and self.spectral_decoder is not None:
            spectrum = self.spectral_decoder.frontend(x, mask=mask)
        else:
            spectrum = self.auxiliaries.spectrum(z, labels, mask, pitch)
        if recorded_pitch and pitch is not None:
            pitch = self.recorded_pitch(labels, pitch)
        return self.decoder_features(z, labels, spectrum, mask, pitch)

    def predicted_log_mel(
        self, x: Tensor, labels: Mapping[str, Tensor], lengths: Tensor | None = None
    ) -> Tensor:
        """Recordings x (B, T) -> the log-mel frames (B, M, F') that the spectral decoder predicts
        from their codes.
        """
        assert self.spectral_decoder is not None
        z, mask, pitch = self._coded(x, labels, lengths)
        predicted = self.auxiliaries.spectrum(z, labels, mask, pitch)
        assert predicted is not None
        return self.spectral_decoder.log_mel(predicted)

    def _coded(
        self, x: Tensor, labels: Mapping[str, Tensor], lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Recordings as their codes have them: latents (B, D, F), which are real, and pitch."""
        codes = self.encode(x, lengths)
        mask = self._mask(lengths, codes)
        pitch = self.pitch(self.encode_pitch(labels, lengths), labels, codes.shape[-1], mask)
        return self.quantizer.decode(codes), mask, pitch

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

    def _mask(self, lengths: Tensor | None, z: Tensor) -> Tensor | None:
        """Which frames of z (B, ..., F) hold samples, (B, F)."""
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
        recorded_spectrum: bool = False,
    ) -> Reconstruction:
        """x (B, T), T a multiple of hop, of which lengths (B,) samples are real.

        decode: run the decoder, which costs the most. others: labels of another voice to convert
        to, for the conversion classifier; cyclic: encode these conversions again, see `cycle_loss`;
        recorded_pitch, recorded_spectrum: see `features_of_recordings`.
        """
        batch, auxiliaries = self._encode_batch(x, labels, lengths), self.auxiliaries
        spectral = auxiliaries.spectral_loss(batch)
        adversarial = auxiliaries.adversarial(batch)
        own = {"recorded_pitch": recorded_pitch, "recorded_spectrum": recorded_spectrum}
        distribution = self._decode_batch(batch, **own) if decode else None
        conversion = cycle = None
        if others is not None:
            converted = self._converted(batch, others)
            conversion = auxiliaries.conversion(batch, converted, others)
            if cyclic:
                cycle = cycle_loss(self.encoder, batch.quantized.z, converted, lengths, batch.mask)
        return Reconstruction(
            distribution, batch.quantized, spectral, adversarial, conversion, cycle
        )

    def _encode_batch(
        self, x: Tensor, labels: Mapping[str, Tensor], lengths: Tensor | None
    ) -> EncodedBatch:
        z = self.encoder(x, lengths)
        mask = self._mask(lengths, z)
        quantized = self.quantizer(z, mask)
        jittered = self.time_jitter(quantized.z, mask)
        pitch_codes = self.encode_pitch(labels, lengths)
        pitch = self.pitch(pitch_codes, labels, z.shape[-1], mask)
        spectrum = self.auxiliaries.spectrum(jittered, labels, mask, pitch)
        return EncodedBatch(
            x, labels, lengths, mask, quantized, jittered, pitch_codes, pitch, spectrum
        )

    def _decode_batch(
        self, batch: EncodedBatch, *, recorded_pitch: bool, recorded_spectrum: bool
    ) -> Distribution:
        pitch, spectrum = batch.pitch, batch.spectrum
        if recorded_pitch and pitch is not None:
            pitch = self.recorded_pitch(batch.labels, pitch)
        if recorded_spectrum and self.spectral_decoder is not None:
            spectrum = self.spectral_decoder.frontend(batch.wave, mask=batch.mask)
        frames = self.decoder_features(batch.z, batch.labels, spectrum, pitch=pitch)
        return self.decoder(batch.wave, batch.labels, self.add_decoder_noise(frames), batch.mask)

    def _converted(self, batch: EncodedBatch, targets: Mapping[str, Tensor]) -> Tensor:
        """The spectral decoder's frames for other labels, with their melody in another voice."""
        pitch = self.pitch(batch.pitch_codes, targets, batch.z.shape[-1], batch.mask)
        converted = self.auxiliaries.spectrum(batch.z, targets, batch.mask, pitch)
        if converted is None:
            raise UserInputError("conversion: this model has no spectral decoder, expected one")
        return converted
