"""The melody of a VQ-VAE: a frozen pitch codec, and the range of each voice, in which its codes are
decoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vqwave.codes.pitch import FARTHEST
from vqwave.errors import UserInputError
from vqwave.models.pitch import PitchCodec, PitchCodecSpec, denormalise, normalise
from vqwave.models.wavenet import Vocabulary

VOICE = "voice_pitch"
"""Among an utterance's labels: mean and deviation of its voice's ln(F0 / 100 Hz), (B, 2), in place
of its speaker's.
"""
UNKNOWN = (0.4, 0.2)  # of a voice without statistics: about 150 Hz


class Melody(nn.Module):
    """Pitch (B, 2, F) <-> codes (B, Q, F / ratio) of a melody without its voice.

    Pitch is v ln(F0 / 100 Hz) and v, as `features.Pitch` has it, a frame each `hop` samples. A
    voice is a mean and a deviation of ln(F0 / 100 Hz): that of a label `VOICE`, else that of the
    speaker's own recordings.
    """

    voices: Tensor

    def __init__(self, codec: PitchCodec, speakers: int) -> None:
        super().__init__()
        self.codec = codec
        self.register_buffer("voices", torch.tensor(UNKNOWN).repeat(speakers, 1))  # (S, 2)
        self.register_load_state_dict_post_hook(_check_voices)

    @classmethod
    def of(cls, spec: PitchCodecSpec, sample_rate: int, vocabulary: Vocabulary) -> Melody:
        return cls(spec.build(sample_rate, vocabulary), len(vocabulary.get("speaker", ())))

    def take(self, codec: PitchCodec, voices: Sequence[tuple[float, float]]) -> None:
        """A trained codec as it is, to stay so; mean and deviation of each speaker's ln(F0 / 100
        Hz).
        """
        self.codec.load_state_dict(codec.state_dict())
        self.codec.requires_grad_(requires_grad=False)
        self.voices.copy_(torch.tensor(voices))

    @property
    def hop(self) -> int:
        """Samples a pitch frame."""
        return self.codec.hop // self.codec.ratio

    @property
    def ratio(self) -> int:
        """Pitch frames a code."""
        return self.codec.ratio

    @property
    def reach(self) -> int:
        """Codes before and after its own that a pitch frame is decoded from."""
        # of the output convolution, at the rate of frames
        frames, rate = 1, self.codec.decoder.strides
        for stride in reversed(rate):
            frames = -(-(frames + 1) // stride)
        return frames + 2

    def voice(self, labels: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean and deviation, (B,) each.

        Raises UserInputError where labels name neither voice nor speaker.
        """
        if VOICE in labels:
            voice = labels[VOICE].to(self.voices)
            return voice[..., 0], voice[..., 1]
        if "speaker" not in labels:
            raise UserInputError(
                "voice: neither a speaker nor the mean and deviation of its pitch is given"
            )
        voice = self.voices[labels["speaker"]]
        return voice[..., 0], voice[..., 1]

    @torch.no_grad()
    def encode(
        self, pitch: Tensor, labels: Mapping[str, Tensor], lengths: Tensor | None = None
    ) -> Tensor:
        """pitch (B, 2, F), of which lengths (B,) samples are real -> codes (B, Q, ceil(F /
        ratio)).
        """
        frames = None if lengths is None else (-(-lengths // self.hop)).clamp(max=pitch.shape[-1])
        return self.codec.encode(normalise(pitch, *self.voice(labels)), frames)

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        labels: Mapping[str, Tensor],
        frames: int,
        mask: Tensor | None = None,
    ) -> Tensor:
        """codes (B, Q, N), mask (B, N) of real ones -> pitch (B, 2, frames) in the voice of the
        labels.
        """
        return denormalise(self.codec.decode(codes, mask)[..., :frames], *self.voice(labels))


def _check_voices(melody: Melody, *_: object) -> None:
    """Raises UserInputError for loaded ranges that no voice has, as in a damaged file."""
    mean, deviation = melody.voices.unbind(-1)
    sizes = torch.stack([mean.abs(), deviation], -1)
    if sizes.numel() and not (bool((sizes <= FARTHEST).all()) and bool((deviation > 0).all())):
        raise UserInputError(
            f"voices: mean and deviation of ln(F0 / 100 Hz) of a speaker beyond {FARTHEST:g}, or a"
            " deviation not above 0"
        )
