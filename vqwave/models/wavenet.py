"""WaveNet: alone, conditioned on labels and spectral frames, or as the decoder of a VQ-VAE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributions import AnyHead, Classes, Distribution, Head, MixtureOfLogistics
from vqwave.errors import UserInputError
from vqwave.features import LogMel
from vqwave.nn.causal import shift_right
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec
from vqwave.nn.frontend import (
    AnyFrontend,
    FrameSpec,
    PredictorFrontend,
    build_frontend,
    spectrum_of,
)
from vqwave.nn.linear_prediction import LinearPredictor, LinearPredictorSpec, PredictorState
from vqwave.nn.wavenet import Stack, StackSpec, StackState
from vqwave.rng import keyed

# label column -> its values; networks take an index into the values
Vocabulary = Mapping[str, Sequence[str]]


class ClassInput(nn.Module):
    """The past as one-hot classes: an embedding of the head's code of each sample.

    van den Oord et al., 2016, sec. 2.2
    """

    def __init__(self, head: Classes, channels: int) -> None:
        super().__init__()
        self.head = head
        self.embedding = nn.Embedding(head.channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T) waveform -> (B, R, T)."""
        return self.embedding(self.head.encode(x)).transpose(1, 2)


class ScalarInput(nn.Module):
    """The past as real numbers, through a 1x1 convolution; differentiable in the waveform, as
    distillation needs.

    Weights start with a spread of `GAIN`: level-normalised speech has a standard deviation near
    0.07.
    """

    GAIN = 10.0

    def __init__(self, channels: int, inputs: int = 1) -> None:
        """inputs: the waveform, and what a predictor adds to it."""
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, 1)
        nn.init.normal_(self.conv.weight, std=self.GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T) waveform, or (B, inputs, T) -> (B, R, T)."""
        return self.conv(x[:, None] if x.ndim == 2 else x)


@spec
class InputDropoutSpec:
    """What training takes from the WaveNet's input, so that it depends on its condition. Off by
    default.
    """

    prob: Annotated[float, Field(ge=0, lt=1)] = option(
        default=0.0, help="share of the past samples that are silenced"
    )
    span: Annotated[int, Field(ge=1)] = option(
        default=1,
        help="samples silenced together: single ones are easily guessed from their neighbours",
    )
    noise_std: Annotated[float, Field(ge=0)] = option(
        default=0.0,
        help="standard deviation of noise added to the past (speech itself: about 0.07)",
    )


class InputDropout(nn.Module):
    """Silences runs of the past samples and adds noise to them, in training only; what is predicted
    stays as it is.

    A decoder that can do without its codes never learns them. Silencing its history is the word
    dropout of Bowman et al., 2016, sec. 3.1. arXiv:1511.06349
    """

    def __init__(self, spec: InputDropoutSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, past: Tensor) -> Tensor:
        """past (B, T), or (B, C, T) whose channels are dropped together -> the same."""
        if not self.training:
            return past
        B, T, spec = len(past), past.shape[-1], self.spec
        if spec.noise_std:
            past = past + spec.noise_std * keyed.normals(*past.shape, like=past)
        if spec.prob:
            runs = keyed.uniforms(B, -(-T // spec.span) + 1, like=past.device) < spec.prob
            first = int(torch.randint(spec.span, ()))  # the grid of runs starts anywhere
            dropped = runs.repeat_interleave(spec.span, 1)[:, first : first + T]
            past = past.masked_fill(dropped if past.ndim == 2 else dropped[:, None], 0.0)
        return past

    def extra_repr(self) -> str:
        return f"prob={self.spec.prob}, span={self.spec.span}, noise_std={self.spec.noise_std}"


@spec
class WaveNetSpec:
    """A WaveNet: what it predicts, its sizes, and what it is conditioned on."""

    kind: Literal["wavenet"] = "wavenet"
    head: AnyHead = option(default=MixtureOfLogistics(), help="distribution over the next sample")
    network: StackSpec = option(default=StackSpec(), help="sizes of the stack")
    conditioner: ConditionerSpec = option(default=ConditionerSpec(), help="labels and upsampling")
    features: FrameSpec | None = option(
        default=None,
        help="frames to condition on (a vocoder, a voice for phones); none inside a VQ-VAE",
    )
    input_dropout: InputDropoutSpec = option(
        default=InputDropoutSpec(),
        help="dropout of the past samples, against a decoder that ignores its codes",
    )
    predictor: LinearPredictorSpec | None = option(
        default=None,
        help=(
            "linear prediction from the spectral frames that condition it: continuous heads; none"
            " as in the paper"
        ),
    )
    pitch_taps: Annotated[int, Field(ge=0, le=15)] = option(
        default=0,
        help=(
            "with a predictor: its residuals around one pitch period ago that are inputs, an odd"
            " number; frames must carry pitch"
        ),
    )

    def build(
        self,
        sample_rate: int,
        vocabulary: Vocabulary,
        frame_channels: int = 0,
        hop: int = 1,
        spectrum: LogMel | None = None,
    ) -> WaveNet:
        """frame_channels and hop: of the frames that the caller will give (codes); ignored where
        `features` is set.

        spectrum: the log-mel that the caller's predictor columns are made of, which follow the
        frames' channels. Raises UserInputError for a predictor without one, and for one before a
        categorical head.
        """
        frontend = build_frontend(self.features, sample_rate, vocabulary) if self.features else None
        if frontend is not None:
            frame_channels, hop, spectrum = frontend.channels, frontend.hop, spectrum_of(frontend)
        predictor = self._predictor(spectrum, sample_rate)
        if predictor is not None and frontend is not None:
            frontend = PredictorFrontend(frontend, predictor)
        conditioner = self.conditioner.build(frame_channels, hop, vocabulary, predictor)
        residual, inputs = (
            self.network.residual_channels,
            1 if predictor is None else 1 + predictor.input_channels,
        )
        input_embedding = (
            ScalarInput(residual, inputs)
            if self.head.continuous
            else ClassInput(cast("Classes", self.head), residual)
        )
        stack = self.network.build(self.head.channels, conditioner.channels)
        return WaveNet(
            self.head,
            input_embedding,
            stack,
            conditioner,
            frontend,
            input_dropout=InputDropout(self.input_dropout),
        )

    def _predictor(self, spectrum: LogMel | None, sample_rate: int) -> LinearPredictor | None:
        if self.predictor is None:
            if self.pitch_taps:
                raise UserInputError(
                    f"pitch_taps: {self.pitch_taps} without a predictor, whose residuals they read;"
                    " expected 0"
                )
            return None
        if not self.head.continuous:
            raise UserInputError(
                f"predictor: the head is {self.head.kind}, expected a continuous one, e.g."
                " mixture_of_logistics"
            )
        if spectrum is None:
            raise UserInputError(
                "predictor: no log-mel frames condition this decoder, from which it is made;"
                " expected some"
            )
        return self.predictor.build(spectrum, sample_rate, self.pitch_taps)


@dataclass(frozen=True)
class Projected:
    """A condition made ready for the sample loop: of the stack's layers (B, L 2G, F), and the
    predictor's columns.
    """

    stack: Condition | None
    predictor: Condition | None = None


@dataclass
class WaveNetState:
    """What a WaveNet remembers between chunks."""

    stack: StackState = field(default_factory=StackState)
    predictor: PredictorState | None = None

    @property
    def time(self) -> int:
        """Samples that were predicted."""
        return self.stack.time


class WaveNet(nn.Module):
    r"""p(x | h) = prod_t p(x_t | x_{<t}, h), all factors in one pass.

    van den Oord et al., 2016, eq. 1 and 3. arXiv:1609.03499
    """

    units: Tensor

    def __init__(
        self,
        head: Head,
        input_embedding: ClassInput | ScalarInput,
        stack: Stack,
        conditioner: Conditioner,
        frontend: AnyFrontend | None,
        *,
        input_dropout: InputDropout | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.input_embedding = input_embedding
        self.stack = stack
        self.conditioner = conditioner
        self.frontend = frontend
        self.input_dropout = input_dropout or InputDropout(InputDropoutSpec())
        self.register_buffer("units", head.units()[:, None], persistent=False)
        with torch.no_grad():
            self.stack.last_layer[1].copy_(head.initial_bias() / self.units[:, 0])

    @property
    def hop(self) -> int:
        """Clips must be a multiple of this many samples."""
        return self.conditioner.hop

    @property
    def scorer(self) -> WaveNet:
        """The network that gives the likelihood of a recording in one pass: itself."""
        return self

    @property
    def receptive_field(self) -> int:
        """Past samples that one prediction sees."""
        return self.stack.receptive_field

    def condition(
        self, frames: Tensor | None, labels: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> Condition | None:
        """frames (B, D, F) or None, labels name -> (B,), mask of the real frames -> the condition,
        at frame rate.
        """
        return self.conditioner(frames, labels, mask)

    @property
    def predictor(self) -> LinearPredictor | None:
        return self.conditioner.predictor

    @property
    def temperature_parts(self) -> tuple[str, ...]:
        """Which of `Temperatures` change a sample."""
        parts, predictor = self.head.temperature_parts, self.predictor
        scaled = "scale" in parts and predictor is not None and predictor.pitch_taps
        return (*parts, "voiced") if scaled else parts

    def project(self, condition: Condition | None) -> Projected:
        """What `step` takes of a condition: all layers' projections at the rate of its columns.

        Done once an utterance.
        """
        network, predictor = self.conditioner.split(condition)
        return Projected(self.stack.project(network), predictor)

    def predict(
        self, x: Tensor, condition: Condition | None, temperature: float = 1.0
    ) -> Distribution:
        """Teacher-forced: x (B, T) -> the distribution of x_t given x_{<t}, for every t.

        Silence stands before x.
        """
        return self.head(
            self.parameters_after(shift_right(x), self.project(condition), None), temperature
        )

    def step(
        self,
        last: Tensor,
        projected: Projected,
        state: WaveNetState,
        temperature: float = 1.0,
    ) -> Distribution:
        """The same law one chunk at a time: last (B, n), the samples *before* the predicted ones;
        state moves on in place.
        """
        return self.head(self.parameters_after(last, projected, state), temperature)

    def parameters_after(
        self, last: Tensor, projected: Projected, state: WaveNetState | None
    ) -> Tensor:
        """What the head makes a distribution of: last (B, n) -> (B, head.channels, n).

        No state: `last` is a complete clip's.

        Locations are the predictor's plus the network's.
        """
        stack = None if state is None else state.stack
        if self.predictor is None:
            return (
                self.stack(self.input_embedding(self.input_dropout(last)), projected.stack, stack)
                * self.units
            )
        start, past = (0, None) if state is None else (state.time, state.predictor)
        past = self.predictor.silent(last) if past is None else past
        assert projected.predictor is not None  # columns go with a predictor
        predicted = self.predictor(last, projected.predictor.at(start, last.shape[1]), past)
        if state is not None:
            state.predictor = past
        inputs = self.input_dropout(torch.cat([last[:, None], predicted.inputs], 1))
        out = self.stack(
            self.input_embedding(torch.cat([inputs, predicted.location[:, None]], 1)),
            projected.stack,
            stack,
        )
        return self.head.shifted(out * self.units, predicted.location)

    def last_layer(self) -> tuple[Tensor, Tensor]:
        """Weight (C, H, 1) and bias (C,) of the last 1x1, with the head's units multiplied in."""
        weight, bias = self.stack.last_layer
        return weight * self.units[..., None], bias * self.units[:, 0]

    def forward(
        self,
        x: Tensor,
        labels: Mapping[str, Tensor],
        frames: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Distribution:
        """x (B, T) -> the distribution of every sample; a front end makes frames of x, or of those
        that `labels` holds.

        mask: which frames are real, (B, F) or of coarser ones; see `Conditioner`.
        """
        if self.frontend is not None and frames is None:
            frames = self.frontend(x, labels, mask)
        return self.predict(x, self.condition(frames, labels, mask))
