"""A decoder's condition, made of codes: the same bits whether the codes come all at once or as a
stream.

With numba, on the CPU in float32, sums have a fixed order (`decode.cpu.fixed_order`), and any
number of columns can be made at once. Otherwise convolutions in torch may round otherwise for
another length of input. So the columns of a frame (or of a block of some) are then made from a
window of its own, which holds the frames in their receptive field and no more: its shape depends on
their place in the utterance alone. They may also round otherwise on another number of threads: one
makes them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vqwave.decode.cpu.precision import has_numba
from vqwave.distributed.threads import limited_to
from vqwave.errors import UserInputError
from vqwave.models.melody import Melody
from vqwave.models.vqvae import VQVAE
from vqwave.nn.condition import Condition, Conditioner

BLOCK = 8
"""Frames made together where the decoder is given the predicted spectrogram, whose window is long:
a block's window costs little more than a frame's.
"""


@dataclass(frozen=True)
class Reach:
    """Frames before and after a frame on which its columns depend."""

    before: int
    after: int

    @classmethod
    def of(cls, model: VQVAE) -> Reach:
        """Of the spectral decoder, if its output is used, the convolution over frames, and the
        transposed ones (kernel 2 s, stride s).
        """
        conditioner, ratio, around = model.decoder.conditioner, 1, 0
        spectral = model.spectral_decoder
        if model.decoder_input != "latents" and spectral is not None:
            ratio, around = spectral.ratio, spectral.reach
        strides = [cast("nn.ConvTranspose1d", up).stride[0] for up in conditioner.upsample]
        # columns of frame 0, before any is repeated
        first, last = 0, ratio * conditioner.upsampling - 1
        for stride in reversed(strides):
            shift = stride - stride // 2
            first, last = -(-(first + shift - 2 * stride + 1) // stride), (last + shift) // stride
        kernel = _frame_convolution(conditioner).kernel_size[0]
        return cls(
            around - (first - (kernel - 1) // 2) // ratio, around + (last + kernel // 2) // ratio
        )


class MadeColumns(NamedTuple):
    """Columns (1, H, m), and the predicted spectral frames (1, M, m') that they were made of, no
    longer standardised; None where they were made of latents alone.
    """

    columns: Tensor
    spectrum: Tensor | None

    @property
    def frames(self) -> NDArray[np.float32]:
        """The spectral frames (M, m') on the CPU; (0, 0) where there are none."""
        spectrum = self.spectrum
        return np.zeros((0, 0), np.float32) if spectrum is None else spectrum[0].cpu().numpy()


@dataclass
class PendingFrames:
    """What is kept of the frames that came: latents z (1, D, n) from frame `first` on, and the
    number of the next frame.

    With melody: pitch (1, 2, n') from frame `first` on, too, and pitch codes (Q_p, m), of which
    `pitch_code` is the first that is not yet decoded; those before it are kept for its window.
    """

    codes: Tensor  # (Q, < ratio): of a hierarchical quantizer, the group that is not yet complete
    z: Tensor
    pitch_codes: Tensor
    pitch: Tensor
    first: int = 0
    frame: int = 0
    pitch_code: int = 0


class CodeConditions:
    """Codes (Q, n) in, columns out: of every frame all of whose window has come."""

    def __init__(self, model: VQVAE, attributes: Mapping[str, Tensor]) -> None:
        """attributes: labels and vectors of the utterance, as `Conditioner` takes them."""
        self.attributes, self.quantizer = attributes, model.quantizer
        self.reach = Reach.of(model)
        self.block = 1 if model.decoder_input == "latents" else BLOCK
        fixed = _fixed_order(model)
        self.any_length, self.model = fixed is not None, fixed or model
        self.conditioner = self.model.decoder.conditioner
        uses = model.decoder_input != "latents"
        self.spectral = self.model.spectral_decoder if uses else None
        # frames; one at the least: the last of an utterance may be cut short
        self.wait = max(1, self.reach.after)
        self.columns = model.hop // self.conditioner.hold  # a frame
        self.ratio = model.quantizer.downsample
        self.labels = self.conditioner.attributes(attributes)
        weight, self.melody = (
            _frame_convolution(model.decoder.conditioner).weight,
            self.model.melody,
        )
        books = 0 if self.melody is None else self.melody.codec.books
        self.pitch_frames = 0 if self.melody is None else model.hop // self.melody.hop  # of a frame
        self.pending = PendingFrames(
            torch.zeros(self.quantizer.num_codebooks, 0, dtype=torch.int64, device=weight.device),
            weight.new_zeros(1, model.encoder.latent_dim, 0),
            torch.zeros(books, 0, dtype=torch.int64, device=weight.device),
            weight.new_zeros(1, 2, 0),
        )

    @limited_to(1)
    def push(self, codes: Tensor, pitch_codes: Tensor | None = None) -> MadeColumns:
        """Codes (Q, n), n any, and the pitch codes (Q_p, m) that begin among these -> columns that
        can be made now.
        """
        self._keep(codes, pitch_codes)
        if self.melody is not None:
            self._decode_pitch(self.melody, last=False)
        known = self._known
        return self._emit(known - self.wait, known)

    @limited_to(1)
    def flush(self, codes: Tensor | None = None, pitch_codes: Tensor | None = None) -> MadeColumns:
        """The columns of the last frames, those of the last codes, too, if given: nothing follows
        them.

        Raises UserInputError where pitch codes are missing.
        """
        if codes is not None and self.any_length:
            self._keep(codes, pitch_codes)
        elif codes is not None:
            return _joined([self.push(codes, pitch_codes), self.flush()])
        end = self.pending.first + self.pending.z.shape[-1]
        if self.melody is not None:
            self._check_pitch(self.melody, end)  # before anything changes
            self._decode_pitch(self.melody, last=True)
        return self._emit(end, end)

    def _check_pitch(self, melody: Melody, end: int) -> None:
        """Whether there are as many pitch codes as `end` frames need."""
        kept = max(0, self.pending.pitch_code - melody.reach)
        codes = kept + self.pending.pitch_codes.shape[-1]
        due = -(-end * self.pitch_frames // melody.ratio)
        if codes != due:
            reason = f"{codes} pitch codes for {end} frames, expected {due}"
            raise UserInputError(f"{reason}: one each {melody.codec.hop} samples")

    def check(self, pushed: int, made: int) -> None:
        """Whether what is pending is what is left of `pushed` frames of which the columns `made`
        were made. Raises UserInputError: a state may have been damaged.
        """
        pending, reach = self.pending, self.reach.before
        fits = {
            "frame": pending.frame * self.columns == made and pending.frame <= pushed,
            "first": pending.first == max(0, pending.frame - reach),
            "z": pending.first + pending.z.shape[-1] == pushed,
            "codes": pending.codes.shape[-1] == pushed % self.ratio,
        }
        if self.melody is not None:
            begun, ratio = pending.pitch_code, self.melody.ratio
            least = begun - max(0, begun - self.melody.reach)
            frames = begun * ratio - pending.first * self.pitch_frames
            fits["pitch"] = pending.pitch.shape[-1] == frames
            fits["pitch_codes"] = pending.pitch_codes.shape[-1] >= least
        wrong = [name for name, right in fits.items() if not right]
        if wrong:
            raise UserInputError(f"this stream's state: {wrong[0]} does not fit {pushed} frames")

    @property
    def spectral_frames(self) -> int:
        """How many were predicted so far."""
        return 0 if self.spectral is None else self.pending.frame * self.spectral.ratio

    @property
    def _known(self) -> int:
        """Frames of which latents, and pitch where there is any, have come."""
        pending = self.pending
        known = pending.first + pending.z.shape[-1]
        if self.melody is None:
            return known
        return min(known, pending.first + pending.pitch.shape[-1] // self.pitch_frames)

    def _decode_pitch(self, melody: Melody, *, last: bool) -> None:
        """The pitch of every code all of whose window has come, each from a window of its own, or
        all from one.
        """
        pending, before = self.pending, melody.reach
        first = max(0, pending.pitch_code - before)  # of the codes that are kept
        known, parts = first + pending.pitch_codes.shape[-1], [pending.pitch]
        end = known if last else known - before
        while pending.pitch_code < end:
            code = pending.pitch_code
            count = end - code if self.any_length and melody.codec.quantizer.framewise else 1
            low, high = max(0, code - before), min(known, code + count + before)
            window, at = pending.pitch_codes[None, :, low - first : high - first], code - low
            frames = melody.decode(window, self.attributes, (high - low) * melody.ratio)
            parts.append(frames[..., at * melody.ratio : (at + count) * melody.ratio])
            pending.pitch_code += count
        pending.pitch = torch.cat(parts, -1)
        keep = max(0, pending.pitch_code - before) - first
        pending.pitch_codes = pending.pitch_codes[:, keep:]

    def _keep(self, codes: Tensor, pitch_codes: Tensor | None) -> None:
        pending, latents = self.pending, [self.pending.z]
        codes = codes.to(pending.codes.device)
        if pitch_codes is not None and self.melody is not None:
            kept = pending.pitch_codes
            pending.pitch_codes = torch.cat([kept, pitch_codes.to(kept)], -1)
        if self.quantizer.framewise:
            pending.z = torch.cat([pending.z, self.quantizer.decode(codes[None])], -1)
            return
        for code in codes.unbind(1):
            pending.codes = torch.cat([pending.codes, code[:, None]], -1)
            latents.append(self.quantizer.decode(pending.codes[None])[..., -1:])
            if pending.codes.shape[-1] == self.ratio:
                pending.codes = pending.codes[:, :0]
        pending.z = torch.cat(latents, -1)

    def _emit(self, end: int, known: int) -> MadeColumns:
        """Columns of the frames up to `end`, of which `known` have come; what no later frame
        depends on is dropped.
        """
        pending, parts = self.pending, [self._nothing()]
        if end < known:
            end -= end % self.block
        block = max(1, end - pending.frame) if self.any_length else self.block
        for frame in range(pending.frame, end, block):
            last = min(frame + block, end)
            low, high = max(0, frame - self.reach.before), min(known, last + self.reach.after)
            low, high = low - pending.first, high - pending.first
            z, pitch = pending.z[..., low:high].contiguous(), None
            if self.melody is not None:
                window = slice(low * self.pitch_frames, high * self.pitch_frames)
                pitch = pending.pitch[..., window].contiguous()
            parts.append(self._columns(z, pitch, frame - pending.first - low, last - frame))
        pending.frame = max(pending.frame, end)
        keep = max(0, pending.frame - self.reach.before)
        if keep > pending.first:
            gone, pending.first = keep - pending.first, keep
            pending.z = pending.z[..., gone:].clone()
            pending.pitch = pending.pitch[..., gone * self.pitch_frames :].clone()
        return _joined(parts)

    def _nothing(self) -> MadeColumns:
        columns, spectral = self.pending.z.new_zeros(1, self.conditioner.width, 0), self.spectral
        if spectral is None:
            return MadeColumns(columns, None)
        return MadeColumns(columns, columns.new_zeros(1, spectral.frontend.channels, 0))

    def _columns(self, window: Tensor, pitch: Tensor | None, place: int, count: int) -> MadeColumns:
        """Those of `count` frames, from number `place` of their window on: `Conditioner.forward`
        without dropout.
        """
        predicted = spectrum = None
        if self.spectral is not None:
            predicted = self.spectral(window, self.attributes, pitch=pitch)
            part = slice(place * self.spectral.ratio, (place + count) * self.spectral.ratio)
            spectrum = self.spectral.log_mel(predicted[..., part])
        frames = self.model.decoder_features(window, self.attributes, predicted, pitch=pitch)
        x = self.conditioner.columns(frames, self.labels)
        return MadeColumns(x[..., place * self.columns : (place + count) * self.columns], spectrum)


def _joined(parts: Sequence[MadeColumns]) -> MadeColumns:
    frames = [part.spectrum for part in parts if part.spectrum is not None]
    columns = torch.cat([part.columns for part in parts], -1)
    return MadeColumns(columns, torch.cat(frames, -1) if frames else None)


def _frame_convolution(conditioner: Conditioner) -> nn.Conv1d:
    """Of a decoder that is conditioned on frames, as a VQ-VAE's is."""
    if conditioner.frames is None:
        raise ValueError("this conditioner takes no frames")
    return conditioner.frames


def _fixed_order(model: VQVAE) -> VQVAE | None:
    """The model with kernels whose sums have a fixed order, or None."""
    if not has_numba():
        return None
    from vqwave.decode.cpu.fixed_order import with_fixed_order  # numba takes long to import

    return with_fixed_order(model)


def code_condition(
    model: VQVAE, codes: Tensor, attributes: Mapping[str, Tensor], pitch_codes: Tensor | None = None
) -> tuple[Condition, Tensor | None]:
    """All codes (Q, F) of an utterance -> its condition, and the predicted spectral frames (1, M,
    F') of which it was made (see `MadeColumns`).

    On the CPU these are the bits that a stream makes of the codes, however it is cut; on a GPU all
    frames are made at once.
    """
    if codes.device.type == "cpu":
        conditions = CodeConditions(model, attributes)
        columns, spectrum = conditions.flush(codes, pitch_codes)
        return Condition(columns, conditions.conditioner.hold), spectrum
    given = None if pitch_codes is None else pitch_codes[None]
    pitch, z = model.pitch(given, attributes, codes.shape[-1]), model.quantizer.decode(codes[None])
    spectral, predicted, spectrum = model.spectral_decoder, None, None
    if model.decoder_input != "latents" and spectral is not None:
        predicted = spectral(z, attributes, pitch=pitch)
        spectrum = spectral.log_mel(predicted)
    frames = model.decoder_features(z, attributes, predicted, pitch=pitch)
    condition = model.decoder.condition(frames, attributes)
    assert condition is not None  # it has frames
    return condition, spectrum
