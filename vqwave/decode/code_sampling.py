"""Sampling codes from a prior."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vqwave.distributions import checked_temperature
from vqwave.models.prior import CodeNetwork, CodeStream
from vqwave.rng.philox import uniforms
from vqwave.rng.top_p import outside_nucleus


@torch.inference_mode()
def sample_codes(
    network: CodeNetwork,
    labels: Mapping[str, Tensor],
    frames: int,
    *,
    streams: Tensor,
    stop: bool = True,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> list[tuple[Tensor, Tensor | None]]:
    """Codes (Q, F_i) and pitch codes (Q_p, ceil(F_i / ratio)), or None, of each of `streams` (B,).

    With `stop`, an utterance ends where it draws END, or after `frames` frames; else a new one
    begins there, until `frames` frames are full. A stream's codes depend on (seed, its number,
    labels) alone. Give `network.exact()`, in float64. labels: name -> (B,). Where an utterance
    follows another, the first is filled up to complete pitch codes with its last frame.
    """
    if not stop and network.stack.context is not None and len(streams) > 1:
        # where one utterance of a batch ends, the others' blocks of the context go on
        alone = [
            sample_codes(
                network,
                {name: ids[i : i + 1] for name, ids in labels.items()},
                frames,
                streams=streams[i : i + 1],
                stop=False,
                seed=seed,
                temperature=temperature,
                top_p=top_p,
            )
            for i in range(len(streams))
        ]
        return [each for one in alone for each in one]
    stream = CodeStream(network, labels, len(streams))
    order, most = network.order, network.order.count(frames)
    last = torch.full((len(streams),), network.end)
    sampled: list[list[int]] = [[] for _ in streams]
    running = torch.full((len(streams),), frames > 0)
    time = 0
    while running.any():
        u = uniforms(seed, streams, time, 1)[0, :, 0]
        last = choose(stream.next(last), u, temperature, top_p)
        for i in running.nonzero().flatten().tolist():
            if last[i] != network.end:
                sampled[i].append(int(last[i]))
            elif not stop:
                missing = -order.frames(len(sampled[i])) % order.ratio
                sampled[i] += sampled[i][-network.books :] * missing
            running[i] = len(sampled[i]) < most and not (stop and last[i] == network.end)
        time += 1
    return [order.unflatten(torch.tensor(codes[:most], dtype=torch.int64)) for codes in sampled]


def choose(log_p: Tensor, u: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Inverse CDF: ln p (B, K) and uniforms u (B,) -> classes (B,).

    `top_p` below 1 keeps the likeliest classes that hold this mass together: `rng.top_p`.
    """
    p = (log_p / checked_temperature(temperature)).softmax(1)
    if top_p < 1:
        p = p.masked_fill(outside_nucleus(p, top_p), 0.0)
    cdf = p.cumsum(1)
    return (cdf <= u[:, None].to(cdf) * cdf[:, -1:]).sum(1).clamp(max=p.shape[1] - 1)
