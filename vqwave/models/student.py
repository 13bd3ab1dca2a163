"""Parallel WaveNet: a stack of inverse autoregressive flows that decodes in one pass what a WaveNet
decodes in a loop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from vqwave.config import option, spec
from vqwave.distributions import GaussianMixture, LogisticMixture, Mixture, checked_temperature
from vqwave.errors import UserInputError
from vqwave.features import LogMel
from vqwave.models.wavenet import Vocabulary, WaveNetSpec
from vqwave.nn.condition import Condition, Conditioner, ConditionerSpec
from vqwave.nn.flows import (
    AffineFlow,
    FlowCondition,
    FlowOutput,
    FlowStack,
    FlowState,
    MaskedFlow,
)
from vqwave.nn.frontend import (
    AnyFrontend,
    FrameSpec,
    PredictorFrontend,
    build_frontend,
    spectrum_of,
)
from vqwave.nn.harmonic_source import SourceState, harmonic_source
from vqwave.nn.linear_prediction import LinearPredictor, LinearPredictorSpec
from vqwave.nn.module_lists import elements
from vqwave.nn.synthesis_filter import synthesise
from vqwave.nn.wavenet import StackSpec

BASES: dict[str, type[Mixture]] = {"logistic": LogisticMixture, "gaussian": GaussianMixture}
DIRECTIONS: dict[str, type[AffineFlow]] = {"iaf": AffineFlow, "maf": MaskedFlow}


@spec
class StudentSpec:
    """The student's flows; the conditioner's settings are its teacher's."""

    kind: Literal["student"] = "student"
    flows: tuple[Annotated[int, Field(ge=1)], ...] = option(
        default=(10, 10, 10, 30), help="layers of each flow"
    )
    network: StackSpec = option(
        default=StackSpec(layers=10, kernel_size=3, skip_channels=0, hidden_channels=64),
        help="sizes of each flow's stack",
    )
    base: Literal["logistic", "gaussian"] = option(
        default="logistic", help="noise: logistic (Parallel WaveNet) or gaussian (ClariNet)"
    )
    initial_scale: Annotated[float, Field(gt=0)] = option(
        default=0.05, help="total scale of an untrained student: near the data's standard deviation"
    )
    location_scale: Annotated[float, Field(gt=0)] = option(
        default=1.0, help="what 1 stands for in the flows' locations: see the heads' option"
    )
    squeeze: Literal[1, 2, 4, 8, 16] = option(
        default=1, help="samples a block of folded time: the cost of a sample falls as many times"
    )
    stagger_blocks: bool = option(
        default=False,
        help=(
            "blocks of successive flows begin at different samples, so that a sample depends"
            " on its neighbours, too"
        ),
    )
    harmonic_source: bool = option(
        default=False,
        help=(
            "a pulse train at the pitch period is a further input of each flow; needs pitch_taps,"
            " whose columns carry the period"
        ),
    )
    flow_type: Literal["iaf", "maf"] = option(
        default="iaf", help="one pass from noise to audio (iaf), or from audio to its density (maf)"
    )
    conditioner: ConditionerSpec = option(default=ConditionerSpec(), help="taken from the teacher")
    features: FrameSpec | None = option(default=None, help="taken from the teacher")
    predictor: LinearPredictorSpec | None = option(default=None, help="taken from the teacher")
    pitch_taps: Annotated[int, Field(ge=0, le=15)] = option(
        default=0, help="taken from the teacher, whose columns carry the pitch period"
    )

    def build(
        self,
        sample_rate: int,
        vocabulary: Vocabulary,
        frame_channels: int = 0,
        hop: int = 1,
        spectrum: LogMel | None = None,
    ) -> Student:
        """As `WaveNetSpec.build`.

        Raises UserInputError for blocks that do not tile the samples of a condition column.
        """
        frontend = build_frontend(self.features, sample_rate, vocabulary) if self.features else None
        if frontend is not None:
            frame_channels, hop, spectrum = frontend.channels, frontend.hop, spectrum_of(frontend)
        predictor = self._predictor(spectrum, sample_rate)
        if predictor is not None and frontend is not None:
            frontend = PredictorFrontend(frontend, predictor)
        conditioner = self.conditioner.build(frame_channels, hop, vocabulary, predictor)
        if frame_channels and conditioner.hold % self.squeeze:
            raise UserInputError(
                f"model.squeeze: {self.squeeze}, expected a divisor of the {conditioner.hold}"
                " samples of a condition column"
            )
        if predictor is not None and conditioner.hold < predictor.order:
            given = (
                f"{predictor.order} past samples, a condition column holds for {conditioner.hold}"
            )
            raise UserInputError(f"predictor.order: {given}, expected at most as many")
        if self.harmonic_source and (predictor is None or not predictor.pitch_taps):
            raise UserInputError(
                "model.harmonic_source: true, expected a decoder with a predictor and pitch_taps,"
                " whose columns carry the pitch period"
            )
        flows = FlowStack(
            [replace(self.network, layers=layers, skip_channels=0) for layers in self.flows],
            conditioner.channels,
            self.initial_scale,
            squeeze=self.squeeze,
            stagger_blocks=self.stagger_blocks,
            location_scale=self.location_scale,
            source=self.harmonic_source,
            flow=DIRECTIONS[self.flow_type],
        )
        return Student(
            flows, conditioner, frontend, BASES[self.base], harmonic_source=self.harmonic_source
        )

    def of(self, teacher: WaveNetSpec | StudentSpec) -> StudentSpec:
        """With what a student has of its teacher."""
        taken = ("conditioner", "features", "predictor", "pitch_taps")
        return replace(self, **{name: getattr(teacher, name) for name in taken})

    def _predictor(self, spectrum: LogMel | None, sample_rate: int) -> LinearPredictor | None:
        if self.predictor is None:
            return None
        if spectrum is None:
            raise UserInputError(
                "predictor: no log-mel frames condition this decoder, from which it is made;"
                " expected some"
            )
        return self.predictor.build(spectrum, sample_rate, self.pitch_taps)


@dataclass
class StudentState:
    """The state of a student between chunks: its flows, with a predictor the last samples (B, P)
    and their time, and its harmonic source's phases.
    """

    flows: list[FlowState]
    source: SourceState
    samples: Tensor | None = None
    time: int = 0


class Student(nn.Module):
    """x = g(z, h) with z white noise: van den Oord et al., 2018, sec. 3. arXiv:1711.10433

    It has no skip connections within a flow, reads the same condition as its teacher through the
    teacher's conditioner, and never reverses time, so that x_t given z_{<t} is one `base`
    distribution, folded or not (nn/flows.py). With a linear predictor the flows make the residual,
    and the synthesis filter of the same coefficients the waveform (nn/synthesis_filter.py):
    locations are then those of the flows plus the prediction.
    """

    def __init__(
        self,
        flows: FlowStack,
        conditioner: Conditioner,
        frontend: AnyFrontend | None,
        base: type[Mixture],
        *,
        harmonic_source: bool = False,
    ) -> None:
        super().__init__()
        self.harmonic_source = harmonic_source
        self.flows = flows
        self.conditioner = conditioner
        self.conditioner.dropout.active = False
        self.conditioner.label_dropout = 0.0
        self.frontend = frontend
        self.base = base

    @property
    def hop(self) -> int:
        return self.conditioner.hop

    @property
    def scorer(self) -> None:
        """See `WaveNet.scorer`; its density of a recording takes a pass for each sample."""
        return

    @property
    def receptive_field(self) -> int:
        """Past noise that one sample depends on."""
        return self.flows.receptive_field

    def condition(
        self, frames: Tensor | None, labels: Mapping[str, Tensor], mask: Tensor | None = None
    ) -> Condition | None:
        return self.conditioner(frames, labels, mask)

    def noise(self, u: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """u (4, B, T) uniforms -> z (B, T).

        A temperature below 1 narrows z, and with it the input of later flows.

        temperature: a number, or positive factors (B or 1, T).
        """
        z = self.base.standard_sample(u)
        if isinstance(temperature, Tensor):
            return temperature.to(z) * z
        return checked_temperature(temperature) * z

    def distribution(self, flowed: FlowOutput) -> Mixture:
        """p(x_t | z_{<t}): one component of the base family."""
        location, log_scale = flowed.location[:, None], flowed.log_scale[:, None]
        return self.base(torch.zeros_like(location), location, log_scale)

    @property
    def predictor(self) -> LinearPredictor | None:
        return self.conditioner.predictor

    @property
    def temperature_parts(self) -> tuple[str, ...]:
        """Which of `Temperatures` change a sample."""
        predictor = self.predictor
        return ("scale", "voiced") if predictor is not None and predictor.pitch_taps else ("scale",)

    @property
    def _order(self) -> int:
        """P, of a student with a predictor."""
        assert self.predictor is not None
        return self.predictor.order

    def begin(self) -> StudentState:
        """Before the first sample."""
        return StudentState([FlowState() for _ in self.flows.flows], SourceState())

    def flow_condition(
        self, condition: Condition | None, state: StudentState | None = None
    ) -> tuple[FlowCondition, Condition | None]:
        """What the flows are conditioned on, and the predictor's columns."""
        network, columns = self.conditioner.split(condition)
        if columns is None or not self.harmonic_source:
            return FlowCondition(network), columns
        period = columns.channels(self._order, 1)
        squeeze = elements(self.flows.flows, AffineFlow)[0].squeeze
        source = harmonic_source(period, squeeze, None if state is None else state.source)
        return FlowCondition(network, source), columns

    def transform(
        self, z: Tensor, condition: Condition | None, state: StudentState | None = None
    ) -> FlowOutput:
        """z (B, T) -> x and the totals, each (B, T); a state, if given, is read and moved on in
        place.
        """
        given, columns = self.flow_condition(condition, state)
        flowed = self.flows(z, given, None if state is None else state.flows)
        if columns is None:
            return flowed
        start, past = (0, None) if state is None else (state.time, state.samples)
        x = synthesise(flowed.x, columns, self._order, past, start)
        self._remember(state, x)
        return replace(flowed, x=x, location=flowed.location + (x - flowed.x))

    def inverse(
        self, x: Tensor, condition: Condition | None, state: StudentState | None = None
    ) -> FlowOutput:
        """x (B, T) -> the noise z that makes it, and the totals: exact; one block after another
        (iaf), or in one pass (maf).
        """
        given, columns = self.flow_condition(condition, state)
        flows = None if state is None else state.flows
        if columns is None:
            return self.flows.inverse(x, given, flows)
        start, past = (0, None) if state is None else (state.time, state.samples)
        prediction = self._prediction(x, columns, past, start)
        flowed = self.flows.inverse(x - prediction, given, flows)
        self._remember(state, x)
        return replace(flowed, x=x, location=flowed.location + prediction)

    def _prediction(self, x: Tensor, columns: Condition, past: Tensor | None, start: int) -> Tensor:
        order = self._order
        known = torch.cat([x.new_zeros(len(x), order) if past is None else past, x[:, :-1]], 1)
        windows = known.unfold(1, order, 1)  # (B, T, P), oldest first
        coefficients = columns.at(start, x.shape[1]).to(x.dtype)[:, :order].flip(1)
        return torch.einsum("bpt,btp->bt", coefficients.expand(len(x), -1, -1), windows)

    def _remember(self, state: StudentState | None, x: Tensor) -> None:
        if state is None:
            return
        past = x.new_zeros(len(x), self._order) if state.samples is None else state.samples
        state.samples = torch.cat([past, x], 1)[:, -self._order :]
        state.time += x.shape[1]

    def log_prob(
        self, x: Tensor, condition: Condition | None, state: StudentState | None = None
    ) -> Tensor:
        """ln p(x_t | x_{<t}) of given audio x (B, T), nats per unit of amplitude, (B, T): ln p(z_t)
        - ln s_t.
        """
        flowed = self.inverse(x, condition, state)
        zero = torch.zeros_like(flowed.z[:, None])
        return self.base(zero, zero, zero).log_density(flowed.z) - flowed.log_scale

    def forward(
        self,
        z: Tensor,
        labels: Mapping[str, Tensor],
        frames: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> FlowOutput:
        """z (B, T), labels name -> (B,), frames (B, D, F) and their mask -> x and the totals, each
        (B, T).
        """
        return self.transform(z, self.condition(frames, labels, mask))


class Density(nn.Module):
    """A student as a density of recordings: what is trained by likelihood.

    In the direction `maf` it takes one pass.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(
        self,
        x: Tensor,
        labels: Mapping[str, Tensor],
        frames: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """x (B, T) -> ln p(x_t | x_{<t}), (B, T); frames come from x itself where the student has a
        front end.
        """
        if self.student.frontend is not None and frames is None:
            frames = self.student.frontend(x, labels, mask)
        return self.student.log_prob(x, self.student.condition(frames, labels, mask))
