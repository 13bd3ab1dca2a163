"""WaveNet: alone, conditioned on labels and spectral frames, or as the decoder of a VQ-VAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributions import Distribution, Head, MixtureOfLogistics
from vqwave.features import FeatureSpec
from vqwave.nn.causal import shift_right
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec
from vqwave.nn.frontend import Frontend
from vqwave.nn.wavenet import Stack, StackSpec, StackState

Vocabulary = Mapping[str, Sequence[str]]  # label column -> its values; an index into the values is what networks hear


class ClassInput(nn.Module):
    """The past as one-hot classes: an embedding of the head's code of each sample. van den Oord et al., 2016, sec. 2.2"""

    def __init__(self, head: Head, channels: int) -> None:
        super().__init__()
        self.head = head
        self.embedding = nn.Embedding(head.channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T) waveform -> (B, R, T)."""
        return self.embedding(self.head.encode(x)).transpose(1, 2)


class ScalarInput(nn.Module):
    """The past as real numbers, through a 1x1 convolution; differentiable in the waveform, as distillation needs.

    Weights start with a spread of `GAIN`: level-normalised speech has a standard deviation near 0.07.
    """

    GAIN = 10.0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, channels, 1)
        nn.init.normal_(self.conv.weight, std=self.GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T) waveform -> (B, R, T)."""
        return self.conv(x[:, None])


@spec
class WaveNetSpec:
    """A WaveNet: what it predicts, its sizes, and what it is conditioned on."""

    kind: Literal["wavenet"] = "wavenet"
    head: Head = option(MixtureOfLogistics(), "distribution over the next sample")
    network: StackSpec = option(StackSpec(), "sizes of the stack")
    conditioner: ConditionerSpec = option(ConditionerSpec(), "labels and upsampling")
    features: FeatureSpec | None = option(None, "spectral frames to condition on (a vocoder); none inside a VQ-VAE")

    def build(self, sample_rate: int, vocabulary: Vocabulary, frame_channels: int = 0, hop: int = 1) -> WaveNet:
        """frame_channels and hop: of the frames that the caller will give (codes); ignored where `features` is set."""
        frontend = Frontend(self.features.build(sample_rate)) if self.features else None
        if frontend is not None:
            frame_channels, hop = frontend.channels, frontend.hop
        conditioner = self.conditioner.build(frame_channels, hop, vocabulary)
        residual = self.network.residual
        heard = ScalarInput(residual) if self.head.continuous else ClassInput(self.head, residual)
        stack = self.network.build(self.head.channels, conditioner.channels)
        return WaveNet(self.head, heard, stack, conditioner, frontend)


class WaveNet(nn.Module):
    r"""p(x | h) = prod_t p(x_t | x_{<t}, h), all factors in one pass. van den Oord et al., 2016, eq. 1 and 3. arXiv:1609.03499"""

    def __init__(
        self,
        head: Head,
        heard: ClassInput | ScalarInput,
        stack: Stack,
        conditioner: Conditioner,
        frontend: Frontend | None,
    ) -> None:
        super().__init__()
        self.head = head
        self.heard = heard
        self.stack = stack
        self.conditioner = conditioner
        self.frontend = frontend
        with torch.no_grad():
            self.stack.out.bias.copy_(head.initial_bias())

    @property
    def hop(self) -> int:
        """Clips must be a multiple of this many samples."""
        return self.conditioner.hop

    @property
    def receptive_field(self) -> int:
        """Past samples that one prediction sees."""
        return self.stack.receptive_field

    def condition(self, frames: Tensor | None, labels: Mapping[str, Tensor]) -> Condition | None:
        """frames (B, D, F) or None, labels name -> (B,): what the decoder is told, at frame rate."""
        return self.conditioner(frames, labels)

    def predict(self, x: Tensor, condition: Condition | None, temperature: float = 1.0) -> Distribution:
        """Teacher-forced: x (B, T) -> the distribution of x_t given x_{<t}, for every t. Silence stands before x."""
        out = self.stack(self.heard(shift_right(x)), self.stack.project(condition))
        return self.head(out, temperature)

    def step(
        self,
        last: Tensor,
        projected: Condition | None,
        state: StackState,
        temperature: float = 1.0,
    ) -> Distribution:
        """The same law one chunk at a time: last (B, n), the samples *before* the predicted ones; state moves on in place."""
        return self.head(self.stack(self.heard(last), projected, state), temperature)

    def forward(self, x: Tensor, labels: Mapping[str, Tensor], frames: Tensor | None = None) -> Distribution:
        """x (B, T) -> the distribution of every sample; frames come from x itself where the model has a front end."""
        if self.frontend is not None and frames is None:
            frames = self.frontend(x)
        return self.predict(x, self.condition(frames, labels))
