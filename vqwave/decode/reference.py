"""The reference decoders: they read like the papers, run anywhere, and are what every fast back-end is held against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vqwave.decode.philox import uniforms
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
    prime: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Draw x_t from p(x_t | x_{<t}, h), one sample after another: (B, samples) float32.

    Each layer keeps its past, so that a sample costs one column of each convolution: Le Paine et al., 2016 (Fast WaveNet).
    arXiv:1611.09482. `streams` (B,) number the utterances: a stream's audio depends on (seed, its number, condition) alone,
    not on what else is in the batch. `prime` (B, n) is heard first and is not part of the result.
    """
    projected = wavenet.stack.project(condition)
    state = StackState()
    parameter = next(wavenet.parameters())
    last = torch.zeros(len(streams), 1, device=parameter.device, dtype=parameter.dtype)
    if prime is not None and prime.shape[1]:
        heard = torch.cat([last, prime.to(last)], 1)
        wavenet.step(heard[:, :-1], projected, state)
        last = heard[:, -1:]
    drawn = []
    for first in range(0, samples, BLOCK):
        count = min(BLOCK, samples - first)
        u = uniforms(seed, streams, state.time, count).to(last)  # (4, B, count)
        for t in range(count):
            last = wavenet.step(last, projected, state, temperature).sample(u[..., t : t + 1])
            drawn.append(last)
        if progress is not None:
            progress(count)
    return torch.cat(drawn, 1) if drawn else last[:, :0]


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
