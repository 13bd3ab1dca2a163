"""A training pass of this WaveNet and of r9y9/wavenet_vocoder's on the same work, taking turns on
the same threads.

    git clone https://github.com/r9y9/wavenet_vocoder PEER
    python benchmarks/train_peer.py PEER [--threads 2] [--kernel 2] [--bf16] [--plain] [--json FILE]

30 layers, 64 residual channels, a gate of 64 + 64, 256 skip channels, 256 mu-law classes, 8 clips
of 8,192 samples, no condition: forward, cross-entropy, backward, float32. The peer gets its one-hot
input ready made and no dropout. "of floor" is the share of the matrix products that the pass needs
at least in what it takes, their rate measured by a plain product in the same run; "x plain"
compares with the peer. A row in bfloat16 has the product in bfloat16 for its floor.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqwave.bench.table import Row, show, taking_turns, write
from vqwave.distributions import MuLaw
from vqwave.models import WaveNetSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.wavenet import StackSpec, force_layerwise

LAYERS, CYCLE, RESIDUAL, GATE, SKIP, CLASSES = 30, 10, 64, 64, 256, 256
RATE = 16000
PRODUCT = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("peer", type=Path, help="a checkout of r9y9/wavenet_vocoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--kernel",
        type=int,
        default=2,
        help="taps of each dilated convolution (default %(default)s)",
    )
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8192, help="of a clip (default %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="measured in all (default %(default)s)"
    )
    parser.add_argument(
        "--least", type=int, default=3, help="turns, however long they take (default %(default)s)"
    )
    parser.add_argument("--bf16", action="store_true", help="ours under autocast, too")
    parser.add_argument("--plain", action="store_true", help="ours layer by layer, too")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = show(rows(arguments))
    if arguments.json:
        write(arguments.json, result)


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    torch.manual_seed(0)
    wave = (0.1 * torch.randn(arguments.clips, arguments.samples)).clamp(-1, 1)
    mine, theirs = ours(arguments.kernel), peer(arguments.peer, arguments.kernel)
    codes = MuLaw().encode(wave)
    one_hot = F.one_hot(codes, CLASSES).transpose(1, 2).float()
    factors = [torch.randn(PRODUCT, PRODUCT) for _ in range(2)]
    halves = [factor.bfloat16() for factor in factors]

    def our_loss() -> Tensor:
        return -mine(wave, {}).log_prob(wave).mean()

    def their_loss() -> Tensor:
        return F.cross_entropy(theirs(one_hot)[..., :-1], codes[:, 1:])

    works: dict[str, Callable[[], object]] = {
        "wavenet_vocoder": passing(theirs, their_loss),
        "vqwave": passing(mine, our_loss),
        "product": lambda: torch.mm(*factors),
    }
    if arguments.plain:
        works["vqwave, layer by layer"] = plain(passing(mine, our_loss))
    if arguments.bf16:
        works |= {
            "vqwave, bf16": bf16(passing(mine, our_loss)),
            "product, bf16": lambda: torch.mm(*halves),
        }
    medians = taking_turns(works, arguments.seconds, arguments.least)
    samples, flop = wave.numel(), 6 * products(arguments.kernel)
    for name, seconds in medians.items():
        if name.startswith("product"):
            continue
        peak = 2 * PRODUCT**3 / medians["product, bf16" if "bf16" in name else "product"]
        rate, ratio = samples / seconds, medians["wavenet_vocoder"] / seconds
        share = flop * rate / peak
        yield Row(
            "train",
            f"kernel {arguments.kernel}",
            name,
            len(wave),
            arguments.threads,
            rate,
            "samples/s",
            rate / RATE,
            share,
            ratio,
        )


def products(kernel: int) -> int:
    """Multiply-adds that a sample needs forward; the embedding of a class and the last layer's
    unused residual need none.
    """
    layer = kernel * RESIDUAL * 2 * GATE + GATE * SKIP
    return LAYERS * layer + (LAYERS - 1) * GATE * RESIDUAL + SKIP * SKIP + SKIP * CLASSES


def ours(kernel: int) -> nn.Module:
    network = StackSpec(
        layers=LAYERS,
        dilation_cycle=CYCLE,
        kernel_size=kernel,
        residual_channels=RESIDUAL,
        gate_channels=GATE,
        skip_channels=SKIP,
        hidden_channels=SKIP,
    )
    return WaveNetSpec(
        head=MuLaw(), network=network, conditioner=ConditionerSpec(categorical=())
    ).build(RATE, {})


def peer(checkout: Path, kernel: int) -> nn.Module:
    if not (checkout / "wavenet_vocoder" / "wavenet.py").is_file():
        raise SystemExit(
            f"{checkout}: no checkout of r9y9/wavenet_vocoder, expected one with"
            " wavenet_vocoder/wavenet.py"
        )
    sys.path.insert(0, str(checkout))
    warnings.filterwarnings("ignore")  # of hooks and norms that torch has newer ones for
    return importlib.import_module("wavenet_vocoder").WaveNet(
        out_channels=CLASSES,
        layers=LAYERS,
        stacks=LAYERS // CYCLE,
        residual_channels=RESIDUAL,
        gate_channels=2 * GATE,
        skip_out_channels=SKIP,
        kernel_size=kernel,
        dropout=0.0,
    )


def passing(network: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], object]:
    def work() -> None:
        network.zero_grad()
        loss().backward()

    return work


def plain(work: Callable[[], object]) -> Callable[[], object]:
    def one() -> None:
        with force_layerwise():
            work()

    return one


def bf16(work: Callable[[], object]) -> Callable[[], object]:
    def half() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            work()

    return half


if __name__ == "__main__":
    main()
