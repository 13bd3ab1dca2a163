"""The reference decoders: they read like the papers, run anywhere, and are what every fast back-end is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vqwave.decode.philox import uniforms
from vqwave.distributions import Distribution
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition
from vqwave.nn.wavenet import StackState

BLOCK = 4096  # samples whose uniforms are drawn at once


@torch.inference_mode()
def sample_wavenet(
    wavenet: WaveNet,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    guidance: float = 1.0,
    prime: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Draw x_t from p(x_t | x_{<t}, h), one sample after another: (B, samples) float32.

    Each layer keeps its past, so that a sample costs one column of each convolution: Le Paine et al., 2016 (Fast WaveNet).
    arXiv:1611.09482. `streams` (B,) number the utterances: a stream's audio depends on (seed, its number, condition) alone,
    not on what else is in the batch. `prime` (B, n) is heard first and is not part of the result. `top_p` below 1 keeps the
    fewest classes that hold that mass (categorical heads alone); `guidance` w: see `Guided`.
    """
    law, state = Guided(wavenet, condition, guidance), StackState()
    parameter = next(wavenet.parameters())
    last = torch.zeros(len(streams), 1, device=parameter.device, dtype=parameter.dtype)
    if prime is not None and prime.shape[1]:
        heard = torch.cat([last, prime.to(last)], 1)
        law(heard[:, :-1], state)
        last = heard[:, -1:]
    drawn = []
    with one_thread():
        for first in range(0, samples, BLOCK):
            count = min(BLOCK, samples - first)
            u = uniforms(seed, streams, state.time, count).to(last)  # (4, B, count)
            for t in range(count):
                distribution = law(last, state, temperature)
                last = (distribution.nucleus(top_p) if top_p < 1 else distribution).sample(u[..., t : t + 1])
                drawn.append(last)
            if progress is not None:
                progress(count)
    return torch.cat(drawn, 1) if drawn else last[:, :0]


@contextmanager
def one_thread() -> Iterator[None]:
    """A column's products are too small to share: with several threads each of them waits for the slowest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Guided:
    r"""A WaveNet's next-sample law, moved away from what it says when it is told nothing.

    .. math:: \theta_w = \theta(\emptyset) + w (\theta(h) - \theta(\emptyset))

    on the head's parameters. Logits of a categorical head make this :math:`p(x | h)^w p(x)^{1 - w}` up to its constant, which is
    classifier-free guidance: Ho and Salimans, 2022, eq. 6. arXiv:2207.12598. Locations, log-scales and mixture logits are
    extrapolated the same way, a heuristic: a product of such densities is none of their family. Weight 1 is the model itself.
    """

    def __init__(self, wavenet: WaveNet, condition: Condition | None, weight: float) -> None:
        self.wavenet, self.weight, self.copies = wavenet, weight, 1
        if weight != 1:
            nothing, told = wavenet.conditioner.nothing().features, condition.features
            condition = Condition(torch.cat([told, nothing.expand_as(told)]), condition.hold)
            self.copies = 2  # one batch of both, so that each half keeps its own past
        self.projected = wavenet.stack.project(condition)

    def __call__(self, last: Tensor, state: StackState, temperature: float = 1.0) -> Distribution:
        """As `WaveNet.step`; the state is that of all copies."""
        out = self.wavenet.parameters_after(last.repeat(self.copies, 1), self.projected, state)
        if self.copies == 2:
            told, untold = out.chunk(2)
            out = untold + self.weight * (told - untold)
        return self.wavenet.head(out, temperature)


@torch.inference_mode()
def sample_student(
    student: Student,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: float = 1.0,
) -> Tensor:
    """x = g(z, h) in one pass, with z from the same counters: (B, samples) float32 in [-1, 1]."""
    parameter = next(student.parameters())
    u = uniforms(seed, streams, 0, samples).to(parameter)
    return student.transform(student.noise(u, temperature), condition).x.clamp(-1.0, 1.0)
