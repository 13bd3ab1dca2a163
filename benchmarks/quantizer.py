"""The EMA quantizer's step (forward, backward, averages) against vector-quantize-pytorch's: time, memory, and the same result.

python benchmarks/quantizer.py [--vectors 2048 32768] [--json out.json]

The other library is needed for this alone: pip install -e ".[bench]".
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from vqwave.nn.codebook import nearest_codes
from vqwave.nn.quantize import EMAQuantizerSpec, VectorQuantizer

D, K, DECAY, BETA = 64, 512, 0.99, 0.25


@dataclass(frozen=True)
class Row:
    """One line of the table: median milliseconds a step, peak MiB allocated in a step, and how far the results are apart."""

    vectors: int
    ours_ms: float
    theirs_ms: float
    plain_ms: float
    ours_mib: float
    theirs_mib: float
    same_indices: float
    codebook_difference: float

    @property
    def text(self) -> str:
        return (
            f"{self.vectors:>8,} | {self.ours_ms:8.2f} | {self.theirs_ms:8.2f} | {self.theirs_ms / self.ours_ms:6.1f}x | "
            f"{self.plain_ms:12.2f} | {self.ours_mib:8.2f} | {self.theirs_mib:8.2f} | {self.theirs_mib / self.ours_mib:6.1f}x | "
            f"{100 * self.same_indices:8.3f} % | {self.codebook_difference:.1e}"
        )


HEAD = (
    " vectors |  ours ms | theirs ms | faster | product only |  ours MiB | theirs MiB | less | same codes | codebook apart\n"
    "---------|----------|-----------|--------|--------------|-----------|------------|------|------------|---------------"
)


def ours() -> VectorQuantizer:
    quantizer = EMAQuantizerSpec(size=K, decay=DECAY, restart=0.0).build(D)
    quantizer.codebook.started.fill_(True)
    return quantizer


def theirs(like: VectorQuantizer) -> nn.Module:
    """The other library's, with our codebook, decay and commitment weight."""
    from vector_quantize_pytorch import VectorQuantize

    quantizer = VectorQuantize(dim=D, codebook_size=K, decay=DECAY, commitment_weight=BETA, channel_last=False)
    book = quantizer._codebook
    book.embed.data.copy_(like.codebook.codes[None])
    book.embed_avg.data.copy_(like.codebook.sums[None])
    book.cluster_size.data.copy_(like.codebook.sizes[None])
    return quantizer


def our_step(quantizer: VectorQuantizer, z: Tensor, gradient: Tensor) -> Tensor:
    out = quantizer(z)
    torch.autograd.backward([out.z, BETA * out.losses["commitment"]], [gradient, None])
    return out.codes[:, 0]


def their_step(quantizer: nn.Module, z: Tensor, gradient: Tensor) -> Tensor:
    quantized, codes, commitment = quantizer(z)
    torch.autograd.backward([quantized, commitment.sum()], [gradient, None])
    return codes


def milliseconds(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Medians, the contestants taking turns, so that a busy machine is as unfair to one as to the other."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}


def peak_mib(step: Callable[[], object]) -> float:
    """The most that a step holds beyond what was there before, as torch's allocator counts it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def compare(vectors: int, seconds: float) -> Row:
    """Both on the same latents, of the shape that an encoder gives: (B, D, 256 frames)."""
    torch.manual_seed(0)
    frames = min(256, vectors)
    z = torch.randn(vectors // frames, D, frames, requires_grad=True)
    gradient = torch.randn_like(z)
    mine = ours()
    other = theirs(mine)
    same = (our_step(mine, z, gradient) == their_step(other, z, gradient)).float().mean().item()
    apart = (mine.codebook.codes - other._codebook.embed[0]).abs().max().item()
    flat, codes = z.detach().transpose(1, 2).flatten(0, 1), mine.codebook.codes
    steps = {
        "ours": lambda: our_step(mine, z, gradient),
        "theirs": lambda: their_step(other, z, gradient),
        "plain": lambda: nearest_codes(flat, codes),
    }
    medians = milliseconds(steps, seconds)
    return Row(
        vectors=vectors,
        ours_ms=medians["ours"],
        theirs_ms=medians["theirs"],
        plain_ms=medians["plain"],
        ours_mib=peak_mib(steps["ours"]),
        theirs_mib=peak_mib(steps["theirs"]),
        same_indices=same,
        codebook_difference=apart,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vectors", type=int, nargs="+", default=[2048, 32768], help="vectors a step")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured for each number of vectors")
    parser.add_argument("--json", help="file for the numbers")
    args = parser.parse_args()
    print(f"one step: forward, backward, averages; D {D}, K {K}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(HEAD)
    rows = []
    for vectors in args.vectors:
        rows.append(compare(vectors, args.seconds))
        print(rows[-1].text, flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump([asdict(row) for row in rows], file, indent=1)


if __name__ == "__main__":
    main()
