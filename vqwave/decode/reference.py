"""The reference decoders: they read like the papers, run anywhere, and are what every fast back-end
is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from vqwave.decode.sampling import Temperature, Temperatures, checked_temperatures
from vqwave.distributed.threads import limited_to
from vqwave.distributions import Categorical, Distribution, Scale
from vqwave.models.student import Student
from vqwave.models.wavenet import Projected, WaveNet, WaveNetState
from vqwave.nn.condition import Condition
from vqwave.nn.flows import AffineFlow
from vqwave.nn.linear_prediction import LinearPredictor
from vqwave.nn.module_lists import elements
from vqwave.rng.philox import uniforms

BLOCK = 4096  # samples whose uniforms are drawn at once
BLOCK_OF_STUDENT = 512  # samples of a student's pass, at the least; a multiple of the frame


@torch.inference_mode()
def sample_wavenet(
    wavenet: WaveNet,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: Temperature = 1.0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    prompt: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Draw x_t from p(x_t | x_{<t}, h), one sample after another: (B, samples) float32.

    Each layer keeps its past, so that a sample costs one column of each convolution: Le Paine et
    al., 2016 (Fast WaveNet). arXiv:1611.09482. `streams` (B,) number the utterances: a stream's
    audio depends on (seed, its number, condition) alone, not on what else is in the batch. `prompt`
    (B, n) precedes the result and is not part of it. `top_p` below 1 keeps the fewest classes
    that hold that mass (categorical heads alone); `guidance` w: see `Guided`.
    """
    loop = SampleLoop(wavenet, condition, streams, guidance)
    if prompt is not None and prompt.shape[1]:
        loop.prefill(prompt)
    blocks = [loop.last[:, :0]]
    for first in range(0, samples, BLOCK):
        count = min(BLOCK, samples - first)
        blocks.append(loop.sample(count, seed, temperature, top_p))
        if progress is not None:
            progress(count)
    return torch.cat(blocks, 1)


class SampleLoop:
    """Streams of one WaveNet under way: each call continues where the last one stopped."""

    def __init__(
        self, wavenet: WaveNet, condition: Condition | None, streams: Tensor, guidance: float = 1.0
    ) -> None:
        parameter = next(wavenet.parameters())
        self.law = Guided(wavenet, condition, guidance)
        self.state, self.streams = WaveNetState(), streams
        # silence
        self.last = torch.zeros(len(streams), 1, device=parameter.device, dtype=parameter.dtype)

    def prefill(self, x: Tensor) -> None:
        """Go over given samples x (B, n)."""
        past = torch.cat([self.last, x.to(self.last)], 1)
        self.law(past[:, :-1], self.state)
        self.last = past[:, -1:]

    def sample(self, count: int, seed: int, temperature: Temperature, top_p: float) -> Tensor:
        """The next samples (B, count)."""
        temperatures = checked_temperatures(temperature)
        scales = self.law.scales(temperatures, self.state.time, count)
        u = uniforms(seed, self.streams, self.state.time, count).to(self.last)  # (4, B, count)
        sampled = [self.last[:, :0]]
        # a column's products are too small to share: several threads wait for the slowest
        with limited_to(1):
            for t in range(count):
                scale = scales[:, t : t + 1] if isinstance(scales, Tensor) else scales
                distribution = self.law(self.last, self.state, temperatures.choice, scale)
                if top_p < 1:
                    distribution = cast(Categorical, distribution).nucleus(top_p)
                self.last = distribution.sample(u[..., t : t + 1])
                sampled.append(self.last)
        return torch.cat(sampled, 1)


class Guided:
    r"""A WaveNet's next-sample law, moved away from its unconditional one.

    .. math:: \theta_w = \theta(\emptyset) + w (\theta(h) - \theta(\emptyset))

    on the head's parameters. Logits of a categorical head make this :math:`p(x | h)^w p(x)^{1 - w}`
    up to its constant, which is classifier-free guidance: Ho and Salimans, 2022, eq. 6.
    arXiv:2207.12598. Locations, log-scales and mixture logits are extrapolated the same way, a
    heuristic: a product of such densities is none of their family. Weight 1 is the model itself.
    """

    def __init__(self, wavenet: WaveNet, condition: Condition | None, weight: float) -> None:
        self.wavenet, self.weight = wavenet, weight
        # one batch of both, so that each half keeps its own past
        self.copies = 1 if weight == 1 else 2
        self.set_condition(condition)

    def set_condition(self, condition: Condition | None) -> None:
        """The condition of the samples from now on.

        Columns are projected one by one: torch may round otherwise for another number.
        """
        if self.copies == 2:
            null = self.wavenet.conditioner.null_condition().features
            if condition is None:
                raise ValueError("guidance without a condition")
            dropped = condition.features.clone()
            dropped[:, : null.shape[1]] = null  # a predictor's columns stay as they are
            condition = Condition(
                torch.cat([condition.features, dropped]), condition.repeat, condition.offset
            )
        network, predictor = self.wavenet.conditioner.split(condition)
        projection = self.wavenet.stack.projection
        if network is None or projection is None:
            self.projected = Projected(None, predictor)
            return
        columns = [projection(column.contiguous()) for column in network.features.split(1, -1)]
        self.projected = Projected(
            Condition(torch.cat(columns, -1), network.repeat, network.offset), predictor
        )

    def scales(self, temperatures: Temperatures, start: int, count: int) -> float | Tensor:
        """See `scales`."""
        all_copies = scales(
            temperatures, self.wavenet.predictor, self.projected.predictor, start, count
        )
        if isinstance(all_copies, Tensor):
            return all_copies[: len(all_copies) // self.copies]
        return all_copies

    def __call__(
        self, last: Tensor, state: WaveNetState, temperature: float = 1.0, scale: Scale = None
    ) -> Distribution:
        """As `WaveNet.step`, with a scale of its own; the state is that of all copies."""
        out = self.wavenet.parameters_after(last.repeat(self.copies, 1), self.projected, state)
        if self.copies == 2:
            conditional, unconditional = out.chunk(2)
            out = unconditional + self.weight * (conditional - unconditional)
        return self.wavenet.head(out, temperature, scale)


def scales(
    temperatures: Temperatures,
    predictor: LinearPredictor | None,
    columns: Condition | None,
    start: int,
    count: int,
) -> float | Tensor:
    """The factor on the scale of each of `count` samples from `start` on, (B or 1, count) in
    float64.

    A number where all have the same one. columns: the predictor's.
    """
    of_all, of_voiced = temperatures.scale, temperatures.voiced
    if predictor is None or columns is None or of_all == of_voiced:
        return of_all
    voiced = predictor.voiced(columns.at(start, count))
    if voiced is None:
        return of_all
    return torch.full_like(voiced, of_all, dtype=torch.float64).masked_fill_(voiced, of_voiced)


def noise_scales(
    student: Student,
    temperatures: Temperatures,
    frames: Tensor | None,
    labels: Mapping[str, Tensor],
    mask: Tensor | None,
    *,
    samples: int,
) -> float | Tensor:
    """`scales` of a student's first samples, by the frames (B, D, F) and mask (B, F) of its
    condition.
    """
    if temperatures.scale == temperatures.voiced:
        return temperatures.scale
    columns = student.conditioner.split(student.condition(frames, labels, mask))[1]
    return scales(temperatures, student.predictor, columns, 0, samples)


@torch.inference_mode()
def sample_student(
    student: Student,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: Temperature = 1.0,
) -> Tensor:
    """x = g(z, h) with z from the same counters: (B, samples) float32 in [-1, 1].

    The one pass goes block by block, each as long as the last: its activations stay in the cache,
    and torch, which may round otherwise for another length, gives the same bits for the same
    blocks, of one utterance or of a stream.
    """
    flowing, end = FlowStream(student, streams), -(-samples // student.hop) * student.hop
    parts = [torch.zeros(len(streams), 0).to(next(student.parameters()))]
    for first in range(0, end, flowing.block):
        parts.append(flowing.sample(min(flowing.block, end - first), condition, seed, temperature))
    return torch.cat(parts, 1)[:, :samples]


class FlowStream:
    """Streams of one student under way, block by block."""

    def __init__(self, student: Student, streams: Tensor) -> None:
        flows = elements(student.flows.flows, AffineFlow)
        self.student, self.streams = student, streams
        self.state, self.time = student.begin(), 0
        self.hold = student.conditioner.hold
        # samples by which blocks need their condition early
        self.ahead = max(-flow.offset % flow.squeeze for flow in flows)
        self.block = -(-BLOCK_OF_STUDENT // student.hop) * student.hop  # samples

    def sample(
        self, count: int, condition: Condition | None, seed: int, temperature: Temperature
    ) -> Tensor:
        """The next samples (B, count); the condition holds at least the columns of these samples
        and of `ahead` more.
        """
        u = uniforms(seed, self.streams, self.time, count).to(next(self.student.parameters()))
        window = None if condition is None else self._window(condition, count)
        _, columns = self.student.conditioner.split(window)
        temperatures, predictor = checked_temperatures(temperature), self.student.predictor
        z = self.student.noise(u, scales(temperatures, predictor, columns, self.time, count))
        self.time += count
        return self.student.transform(z, window, self.state).x.clamp(-1.0, 1.0)

    def _window(self, condition: Condition, count: int) -> Condition:
        """The columns of these samples, and no others, which would cost their projection."""
        if condition.features.shape[-1] == 1:
            return condition
        before = condition.offset // self.hold
        first, last = self.time // self.hold, (self.time + count - 1 + self.ahead) // self.hold
        features = condition.features[..., first - before : last - before + 1].contiguous()
        return Condition(features, self.hold, first * self.hold)
