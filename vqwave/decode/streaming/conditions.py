"""What a decoder is told of codes, made window by window: the same bits whether the codes come
whole or as a stream.

Convolutions in torch may round otherwise for another length of input. So the columns of a frame (or
of a block of some) are made from a window of its own, which holds all frames that they can hear and
no more: its shape depends on their place in the utterance alone. They may also round otherwise on
another number of threads: one makes them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vqwave.distributed.threads import limited_to
from vqwave.errors import UserInputError
from vqwave.models.vqvae import VQVAE
from vqwave.nn.condition import Condition

BLOCK = 8
"""Frames made together where a readout is heard, whose window is long: a block's window costs
little more than a frame's.
"""


@dataclass(frozen=True)
class Reach:
    """Frames that the columns of one frame hear before it and after it."""

    before: int
    after: int

    @classmethod
    def of(cls, model: VQVAE) -> Reach:
        """Of the readout that is heard, if any, the convolution over frames, and the transposed
        ones (kernel 2 s, stride s).
        """
        conditioner, ratio, around = model.decoder.conditioner, 1, 0
        if model.decoder_input != "latents":
            ratio, around = model.spectral_decoder.ratio, model.spectral_decoder.reach
        strides = [layer.stride[0] for layer in conditioner.upsample]
        # columns of frame 0, before any is repeated
        first, last = 0, ratio * conditioner.upsampling - 1
        for stride in reversed(strides):
            shift = stride - stride // 2
            first, last = -(-(first + shift - 2 * stride + 1) // stride), (last + shift) // stride
        kernel = conditioner.frames.kernel_size[0]
        return cls(
            around - (first - (kernel - 1) // 2) // ratio, around + (last + kernel // 2) // ratio
        )


@dataclass
class PendingFrames:
    """What is kept of the frames that came: latents z (1, D, n) from frame `first` on, and which
    frame's turn it is.

    With melody: pitch (1, 2, n') from frame `first` on, too, and pitch codes (Q_p, m), of which
    `pitch_code` is the first that is not yet decoded; those before it are kept for its window.
    """

    codes: Tensor  # (Q, < ratio): of a two-level codebook, the stretch that is not yet whole
    z: Tensor
    pitch_codes: Tensor
    pitch: Tensor
    first: int = 0
    frame: int = 0
    pitch_code: int = 0


class CodeConditions:
    """Codes (Q, n) in, columns (1, H, m) out: of every frame all of whose window has come."""

    def __init__(self, model: VQVAE, told: Mapping[str, Tensor]) -> None:
        """told: labels and vectors of the utterance, as `Conditioner` takes them."""
        self.model, self.told, self.quantizer, self.conditioner = (
            model,
            told,
            model.quantizer,
            model.decoder.conditioner,
        )
        self.reach = Reach.of(model)
        self.block = 1 if model.decoder_input == "latents" else BLOCK
        # frames; one at the least: the last of an utterance may be cut short
        self.wait = max(1, self.reach.after)
        self.columns = model.hop // self.conditioner.hold  # a frame
        self.ratio = model.quantizer.downsample
        self.labels = self.conditioner.attributes(told)
        weight, self.melody = self.conditioner.frames.weight, model.melody
        books = 0 if self.melody is None else self.melody.codec.books
        self.pitch_frames = 0 if self.melody is None else model.hop // self.melody.hop  # of a frame
        self.pending = PendingFrames(
            torch.zeros(self.quantizer.num_codebooks, 0, dtype=torch.int64, device=weight.device),
            weight.new_zeros(1, model.encoder.latent_dim, 0),
            torch.zeros(books, 0, dtype=torch.int64, device=weight.device),
            weight.new_zeros(1, 2, 0),
        )

    @limited_to(1)
    def push(self, codes: Tensor, pitch_codes: Tensor | None = None) -> Tensor:
        """Codes (Q, n), n any, and the pitch codes (Q_p, m) that begin among these -> columns that
        can be made now.
        """
        self._keep(codes.to(self.pending.codes.device))
        if self.melody is not None and pitch_codes is not None:
            it = self.pending
            it.pitch_codes = torch.cat([it.pitch_codes, pitch_codes.to(it.pitch_codes)], -1)
            self._decode_pitch(last=False)
        known = self._known
        return self._emit(known - self.wait, known)

    @limited_to(1)
    def flush(self) -> Tensor:
        """The columns of the last frames: nothing follows them.

        Raises UserInputError where pitch codes are missing.
        """
        if self.melody is not None:
            self._decode_pitch(last=True)
        end = self.pending.first + self.pending.z.shape[-1]
        if self._known < end:
            found = f"pitch codes: they end at frame {self._known} of {end}"
            raise UserInputError(f"{found}, expected one each {self.melody.codec.hop} samples")
        return self._emit(end, end)

    @property
    def _known(self) -> int:
        """Frames of which latents, and pitch where there is any, have come."""
        it = self.pending
        known = it.first + it.z.shape[-1]
        return (
            known
            if self.melody is None
            else min(known, it.first + it.pitch.shape[-1] // self.pitch_frames)
        )

    def _decode_pitch(self, *, last: bool) -> None:
        """The pitch of every code all of whose window has come, each from a window of its own."""
        it, melody, before = self.pending, self.melody, self.melody.reach
        first = max(0, it.pitch_code - before)  # of the codes that are kept
        known, parts = first + it.pitch_codes.shape[-1], [it.pitch]
        while it.pitch_code < (known if last else known - before):
            low, high = max(0, it.pitch_code - before), min(known, it.pitch_code + before + 1)
            window, at = it.pitch_codes[None, :, low - first : high - first], it.pitch_code - low
            frames = melody.decode(window, self.told, (high - low) * melody.ratio)
            parts.append(frames[..., at * melody.ratio : (at + 1) * melody.ratio])
            it.pitch_code += 1
        it.pitch = torch.cat(parts, -1)
        it.pitch_codes = it.pitch_codes[:, max(0, it.pitch_code - before) - first :]

    def _keep(self, codes: Tensor) -> None:
        it, latents = self.pending, [self.pending.z]
        for code in codes.unbind(1):
            it.codes = torch.cat([it.codes, code[:, None]], -1)
            latents.append(self.quantizer.decode(it.codes[None])[..., -1:])
            if it.codes.shape[-1] == self.ratio:
                it.codes = it.codes[:, :0]
        it.z = torch.cat(latents, -1)

    def _emit(self, end: int, known: int) -> Tensor:
        """Columns of the frames up to `end`, of which `known` have come; what no later frame hears
        is forgotten.
        """
        it, parts = self.pending, [self.pending.z.new_zeros(1, self.conditioner.width, 0)]
        if end < known:
            end -= end % self.block
        for frame in range(it.frame, end, self.block):
            last = min(frame + self.block, end)
            low, high = max(0, frame - self.reach.before), min(known, last + self.reach.after)
            low, high = low - it.first, high - it.first
            z, pitch = it.z[..., low:high].contiguous(), None
            if self.melody is not None:
                pitch = it.pitch[
                    ..., low * self.pitch_frames : high * self.pitch_frames
                ].contiguous()
            parts.append(self._columns(z, pitch, frame - it.first - low, last - frame))
        it.frame = max(it.frame, end)
        keep = max(0, it.frame - self.reach.before)
        if keep > it.first:
            gone, it.first = keep - it.first, keep
            it.z = it.z[..., gone:].clone()
            it.pitch = it.pitch[..., gone * self.pitch_frames :].clone()
        return torch.cat(parts, -1)

    def _columns(self, window: Tensor, pitch: Tensor | None, place: int, count: int) -> Tensor:
        """Those of `count` frames, from number `place` of their window on: `Conditioner.forward`
        without dropout.
        """
        x = self.conditioner.columns(
            self.model.decoder_features(window, self.told, pitch=pitch), self.labels
        )
        return x[..., place * self.columns : (place + count) * self.columns]


def code_condition(
    model: VQVAE, codes: Tensor, told: Mapping[str, Tensor], pitch_codes: Tensor | None = None
) -> Condition:
    """A whole utterance's codes (Q, F) -> its condition: the bits that a stream makes of them,
    however it is cut.
    """
    conditions = CodeConditions(model, told)
    columns = torch.cat([conditions.push(codes, pitch_codes), conditions.flush()], -1)
    return Condition(columns, conditions.conditioner.hold)
