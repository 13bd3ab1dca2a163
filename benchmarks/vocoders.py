"""The shipped student beside its teacher and three vocoders that work at frame rate.

python benchmarks/vocoders.py [--student speech-student] [--seconds 2]

Vocos (Siuzdak, 2023; arXiv:2306.00814), HiFi-GAN V1 (Kong et al., 2020; arXiv:2010.05646) and
multi-band MelGAN (Yang et al., 2020; arXiv:2005.05106) come from their packages, which nothing else
here needs: `pip install --no-deps vocos parallel-wavegan`. Their networks have the published sizes
and random weights, and go from mel frames to a waveform in torch; teacher and student go from codes
to a waveform, by the decoder that a user gets. All take turns in one process; a figure is the
median of five runs, after one that compiles: by processor time on one core, by the clock on two,
which other work on the machine slows.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from unittest.mock import MagicMock

import torch
from torch import Tensor

import vqwave
from vqwave.bench.table import machine
from vqwave.distributed.threads import limited_to

REPEATS, MELS = 5, 80
UNUSED = (
    "torchaudio",
    "torchaudio.functional",
    "torchaudio.functional.functional",
    "encodec",
    "h5py",
)
"""What the peers import for features and files that are not used here."""


@dataclass(frozen=True)
class Contestant:
    """One way to make speech: its sample rate, and a run of it -> samples (..., T)."""

    name: str
    rate: int
    run: Callable[[], Tensor]
    cores: int = 1

    def speed(self) -> float:
        """Samples a second."""
        clock = time.process_time if self.cores == 1 else time.perf_counter
        with limited_to(self.cores):
            start = clock()
            samples = self.run().shape[-1]
            return samples / (clock() - start)


def ours(name: str, seconds: float) -> Iterator[Contestant]:
    """A shipped model, from codes on, on one core and on two."""
    model = vqwave.load(name)
    noise = torch.randn(round(seconds * model.sample_rate), generator=torch.Generator())
    codes = model.encode((0.07 * noise).numpy(), model.sample_rate)
    speaker = model.card.trained("speaker")[0]
    run = partial(model.decode, codes, speaker)
    yield Contestant(name, model.sample_rate, run)
    yield Contestant(f"{name}, 2 cores", model.sample_rate, run, cores=2)


def vocos(seconds: float) -> Contestant:
    """24 kHz, hop 256."""
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    backbone = VocosBackbone(input_channels=100, dim=512, intermediate_dim=1536, num_layers=8)
    head = ISTFTHead(dim=512, n_fft=1024, hop_length=256, padding="center")
    network = torch.nn.Sequential(backbone, head).eval()
    mel = torch.randn(1, 100, round(seconds * 24000 / 256) + 1)
    return Contestant("Vocos", 24000, lambda: network(mel))


def hifi_gan(seconds: float) -> Contestant:
    """V1: 22.05 kHz, hop 256."""
    from parallel_wavegan.models import HiFiGANGenerator

    network = HiFiGANGenerator(in_channels=MELS).eval()
    network.remove_weight_norm()
    mel = torch.randn(1, MELS, round(seconds * 22050 / 256))
    return Contestant("HiFi-GAN V1", 22050, lambda: network(mel))


def multi_band_melgan(seconds: float) -> Contestant:
    """Four bands: 22.05 kHz, hop 256."""
    from parallel_wavegan.layers import PQMF
    from parallel_wavegan.models import MelGANGenerator

    sizes = {"kernel_size": 7, "channels": 384, "upsample_scales": [8, 4, 2], "stacks": 4}
    network = MelGANGenerator(in_channels=MELS, out_channels=4, **sizes).eval()
    network.remove_weight_norm()
    bands, mel = PQMF(4), torch.randn(1, MELS, round(seconds * 22050 / 256))
    return Contestant("multi-band MelGAN", 22050, lambda: bands.synthesis(network(mel)))


def make_importable() -> None:
    """What the peers import: stand-ins where it is absent, a name where scipy had it before."""
    import scipy.signal

    absent = [name for name in UNUSED if importlib.util.find_spec(name.partition(".")[0]) is None]
    sys.modules |= {name: MagicMock() for name in absent}
    scipy.signal.kaiser = scipy.signal.windows.kaiser


PEERS = {"vocos": (vocos,), "parallel_wavegan": (hifi_gan, multi_band_melgan)}


def contestants(student: str, seconds: float) -> Iterator[Contestant]:
    """The teacher first; peers whose package is installed."""
    yield from ours(student.removesuffix("-student"), seconds)
    yield from ours(student, seconds)
    make_importable()
    for package, peers in PEERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
            continue
        yield from (peer(seconds) for peer in peers)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--student", default="speech-student", help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="default %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    all_of_them = list(contestants(arguments.student, arguments.seconds))
    speeds: dict[str, list[float]] = {each.name: [] for each in all_of_them}
    for repeat in range(1 + REPEATS):
        for each in all_of_them:
            speed = each.speed()
            if repeat:
                speeds[each.name].append(speed)
    print(machine())
    print(f"{'':24} {'samples/s':>12} {'x real time':>12} {'x teacher':>10}")
    teacher = statistics.median(speeds[all_of_them[0].name])
    for each in all_of_them:
        speed = statistics.median(speeds[each.name])
        line = f"{each.name:24} {speed:>12,.0f} {speed / each.rate:>12.1f}"
        print(f"{line} {speed / teacher:>10.2f}")


if __name__ == "__main__":
    main()
