"""A training step of the EMA quantizer (forward, backward, averages), compared with the plain way:
time, memory, the same result.

The plain way is the usual one: all distances at once, one-hot assignments, products for the
averages. vector-quantize-pytorch is measured, too, where it is installed. The floor is the score
product with its argmin, alone. A row's batch is its vectors a step.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vqwave.bench.arguments import duration, whole_number
from vqwave.bench.table import Row, taking_turns
from vqwave.nn.quantize import EMAQuantizerSpec, VectorQuantizer
from vqwave.nn.quantize.codebook import EMACodebook, nearest_codes

DIM, CODES, DECAY, BETA, EPSILON = 64, 512, 0.99, 0.25, 1e-5
OURS, PLAIN, OTHER = "vqwave", "plain torch", "vector-quantize-pytorch"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--vectors",
        type=whole_number,
        nargs="+",
        default=[2048, 32768],
        help="vectors a step (default %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=duration,
        default=8.0,
        help="measured for each number of vectors (default %(default)s)",
    )


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    for vectors in arguments.vectors:
        yield from compare(vectors, arguments.seconds)


@dataclass(frozen=True)
class Contestant:
    """A step's work -> the codes (N,), and the codebook (K, D) after it."""

    step: Callable[[], Tensor]
    codebook: Callable[[], Tensor]


class PlainVQ(nn.Module):
    """EMA vector quantization as it reads, all distances at once.

    van den Oord et al., 2017, app. A.1. arXiv:1711.00937
    """

    codes: Tensor
    sizes: Tensor
    sums: Tensor

    def __init__(self, codes: Tensor, sizes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes.clone())
        self.register_buffer("sizes", sizes.clone())
        self.register_buffer("sums", codes * sizes[:, None])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z (B, D, F) -> quantized (B, D, F), codes (B F,), commitment ()."""
        flat = z.transpose(1, 2).reshape(-1, z.shape[1])  # (B F, D)
        codes = torch.cdist(flat, self.codes).argmin(1)
        chosen = F.one_hot(codes, len(self.codes)).to(flat)  # (B F, K)
        q = (chosen @ self.codes).view(z.shape[0], z.shape[2], -1).transpose(1, 2)
        with torch.no_grad():
            self.sizes.mul_(DECAY).add_(chosen.sum(0), alpha=1 - DECAY)
            self.sums.mul_(DECAY).add_(chosen.t() @ flat, alpha=1 - DECAY)
            smoothed = (
                (self.sizes + EPSILON)
                / (self.sizes.sum() + len(self.codes) * EPSILON)
                * self.sizes.sum()
            )
            self.codes.copy_(self.sums / smoothed[:, None])
        return q.detach() + (z - z.detach()), codes, F.mse_loss(z, q.detach())


def compare(vectors: int, duration: float) -> Iterator[Row]:
    """All on the same latents, of the shape that an encoder gives, (B, D, 256 frames), from the
    same codebook.
    """
    torch.manual_seed(0)
    frames = min(256, vectors)
    vectors -= vectors % frames
    z = torch.randn(vectors // frames, DIM, frames, requires_grad=True)
    gradient = torch.randn_like(z)
    spec = EMAQuantizerSpec(codebook_size=CODES, decay=DECAY, dead_code_threshold=0.0)
    ours = cast(VectorQuantizer, spec.build(DIM))
    own = codebook_of(ours)
    own.started.fill_(1)
    flat, codes = z.detach().transpose(1, 2).flatten(0, 1), own.codes.clone()
    contestants = {
        OURS: our(ours, z, gradient),
        PLAIN: plain(PlainVQ(codes, own.sizes), z, gradient),
    }
    if importlib.util.find_spec("vector_quantize_pytorch"):
        contestants[OTHER] = other(ours, z, gradient)
    assigned = {name: contestant.step() for name, contestant in contestants.items()}
    codebooks = {name: contestant.codebook().clone() for name, contestant in contestants.items()}
    steps: dict[str, Callable[[], object]] = {
        name: contestant.step for name, contestant in contestants.items()
    }
    medians = taking_turns({**steps, "floor": lambda: nearest_codes(flat, codes)}, duration)
    peaks = {name: peak_mib(step) for name, step in steps.items()}

    def row(
        name: str,
        backend: str,
        value: float,
        unit: str,
        *,
        floor: float | None = None,
        ratio: float | None = None,
    ) -> Row:
        return Row(
            "quantizer",
            name,
            backend,
            vectors,
            torch.get_num_threads(),
            value,
            unit,
            None,
            floor,
            ratio,
        )

    for name in steps:
        yield row(
            "step",
            name,
            1000 * medians[name],
            "ms",
            floor=medians["floor"] / medians[name],
            ratio=medians[PLAIN] / medians[name],
        )
    for name in steps:
        yield row("peak memory", name, peaks[name], "MiB", ratio=peaks[PLAIN] / peaks[name])
    for name in list(steps)[1:]:
        yield row(
            "same codes",
            f"{OURS}, {name}",
            100 * (assigned[OURS] == assigned[name]).float().mean().item(),
            "%",
        )
        yield row(
            "codebooks apart",
            f"{OURS}, {name}",
            (codebooks[OURS] - codebooks[name]).abs().max().item(),
            "max",
        )


def codebook_of(quantizer: VectorQuantizer) -> EMACodebook:
    return cast(EMACodebook, quantizer.codebook)


def our(quantizer: VectorQuantizer, z: Tensor, gradient: Tensor) -> Contestant:
    def step() -> Tensor:
        out = quantizer(z)
        torch.autograd.backward([out.z, BETA * out.losses["commitment"]], [gradient, None])
        return out.codes.flatten()

    return Contestant(step, lambda: codebook_of(quantizer).codes)


def plain(quantizer: PlainVQ, z: Tensor, gradient: Tensor) -> Contestant:
    def step() -> Tensor:
        q, codes, commitment = quantizer(z)
        torch.autograd.backward([q, BETA * commitment], [gradient, None])
        return codes

    return Contestant(step, lambda: quantizer.codes)


def other(like: VectorQuantizer, z: Tensor, gradient: Tensor) -> Contestant:
    """The other library's, with our codebook, decay and commitment weight."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(
        dim=DIM, codebook_size=CODES, decay=DECAY, commitment_weight=BETA, channel_last=False
    )
    codebook, own = quantizer._codebook, codebook_of(like)
    codebook.embed.data.copy_(own.codes[None])
    codebook.embed_avg.data.copy_(own.sums[None])
    codebook.cluster_size.data.copy_(own.sizes[None])

    def step() -> Tensor:
        quantized, codes, commitment = quantizer(z)
        torch.autograd.backward([quantized, commitment.sum()], [gradient, None])
        return codes.flatten()

    return Contestant(step, lambda: codebook.embed[0])


def peak_mib(step: Callable[[], object]) -> float:
    """The most that a step holds beyond what was there before, as torch's allocator counts it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20
