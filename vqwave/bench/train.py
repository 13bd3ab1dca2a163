"""A training step (forward, loss, backward, optimizer) of a teacher, a VQ-VAE and a distillation,
small and at a paper's size.

Audio samples a second, compared with the matrix products that the step must do at least: their
count over the rate of a plain product, measured between the steps of the same run. "x plain"
compares with the layers one by one, as `GatedLayer` reads. Peak memory is what the step's tensors
take at most, weights and optimizer aside.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vqwave.bench.arguments import duration
from vqwave.bench.quantizer import peak_mib
from vqwave.bench.table import Row, taking_turns
from vqwave.distributions import MixtureOfLogistics, MuLaw
from vqwave.losses import negative_log_likelihood
from vqwave.losses.distillation import RandomisedQuantiles
from vqwave.models import VQVAESpec, WaveNetSpec
from vqwave.models.student import StudentSpec
from vqwave.nn.condition import ConditionerSpec
from vqwave.nn.encoders import FrameEncoderSpec
from vqwave.nn.wavenet import StackSpec, force_layerwise

PRODUCT = 1024  # rows and columns of the product that the peak is measured with


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """A step on random audio: what it trains, and its clips."""

    teacher: StackSpec
    flows: tuple[int, ...]
    flow: StackSpec
    head: MuLaw | MixtureOfLogistics
    clips: int
    samples: int
    rate: int


SIZES: dict[str, Case] = {
    "small": Case(
        StackSpec(
            layers=20,
            dilation_cycle=10,
            residual_channels=32,
            gate_channels=32,
            skip_channels=64,
            hidden_channels=64,
        ),
        (10, 10, 10, 10),
        StackSpec(
            dilation_cycle=10,
            kernel_size=2,
            residual_channels=32,
            gate_channels=32,
            skip_channels=0,
            hidden_channels=32,
        ),
        MixtureOfLogistics(components=5),
        clips=4,
        samples=2560,
        rate=8000,
    ),
    "paper": Case(
        StackSpec(
            layers=30,
            dilation_cycle=10,
            residual_channels=64,
            gate_channels=64,
            skip_channels=256,
            hidden_channels=256,
        ),
        (10, 10, 10, 30),
        StackSpec(
            dilation_cycle=10,
            kernel_size=3,
            residual_channels=64,
            gate_channels=64,
            skip_channels=0,
            hidden_channels=64,
        ),
        MixtureOfLogistics(),
        clips=2,
        samples=7680,
        rate=16000,
    ),
}


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES), help="default: all"
    )
    parser.add_argument(
        "--steps", nargs="+", choices=tuple(STEPS), default=list(STEPS), help="default: all"
    )
    parser.add_argument(
        "--precision",
        choices=tuple(DTYPES),
        default="fp32",
        help="of the products (default %(default)s)",
    )
    parser.add_argument(
        "--plain", action="store_true", help="measure the layers one by one as well, for the ratio"
    )
    parser.add_argument(
        "--seconds", type=duration, default=6.0, help="measured for each row (default %(default)s)"
    )


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for size in arguments.sizes:
        for name in arguments.steps:
            torch.manual_seed(0)
            case = SIZES[size]
            step = optimized(*STEPS[name](case, device), device, arguments.precision)
            yield from measure(f"{name}, {size}", case, step, arguments, device)


Step = Callable[[], object]
Loss = Callable[[], Tensor]


def measure(
    name: str, case: Case, step: Step, arguments: argparse.Namespace, device: torch.device
) -> Iterator[Row]:
    with FlopCounterMode(display=False) as counter, force_layerwise():
        step()
    factors = [
        torch.randn(PRODUCT, PRODUCT, device=device, dtype=DTYPES[arguments.precision])
        for _ in range(2)
    ]
    works = {"step": waited(step, device), "product": waited(lambda: torch.mm(*factors), device)}
    if arguments.plain:
        works["plain"] = waited(plain(step), device)
    medians = taking_turns(works, arguments.seconds)
    rate, samples, T = (
        2 * PRODUCT**3 / medians["product"],
        case.clips * case.samples,
        medians["step"],
    )
    ratio = medians["plain"] / T if arguments.plain else None
    number = str(DTYPES[arguments.precision]).removeprefix("torch.")
    backend, threads = f"{device.type} {number}", torch.get_num_threads()
    share = counter.get_total_flops() / T / rate
    yield Row(
        "train",
        name,
        backend,
        case.clips,
        threads,
        samples / T,
        "samples/s",
        samples / T / case.rate,
        share,
        ratio,
    )
    kept = peak(step, device)
    other = peak(plain(step), device) / kept if arguments.plain else None
    yield Row("train", name, backend, case.clips, threads, kept, "MiB", None, None, other)


def plain(step: Step) -> Step:
    def work() -> None:
        with force_layerwise():
            step()

    return work


def waited(step: Step, device: torch.device) -> Step:
    """A GPU returns before it is done."""
    if device.type == "cpu":
        return step

    def work() -> None:
        step()
        torch.cuda.synchronize()

    return work


def optimized(module: nn.Module, loss: Loss, device: torch.device, precision: str) -> Step:
    """The whole step of the loop, accumulation and logging aside."""
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 1e-4)
    autocast = (
        torch.autocast(device.type, torch.bfloat16)
        if precision == "bf16"
        else contextlib.nullcontext()
    )
    module.train()

    def step() -> None:
        with autocast:
            total = loss()
        total.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def teacher(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    """A mu-law WaveNet by speaker: the network of van den Oord et al., 2016."""
    spec = WaveNetSpec(
        head=MuLaw(), network=case.teacher, conditioner=ConditionerSpec(categorical=("speaker",))
    )
    net = spec.build(case.rate, SPEAKERS).to(device)
    wave, labels = audio(case, device)
    return net, lambda: negative_log_likelihood(net(wave, labels), wave)


def vqvae(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    """Frames, 256 codes, a mixture of logistics."""
    decoder = WaveNetSpec(
        head=case.head, network=case.teacher, conditioner=ConditionerSpec(categorical=("speaker",))
    )
    net = (
        VQVAESpec(encoder=FrameEncoderSpec(channels=192), decoder=decoder)
        .build(case.rate, SPEAKERS)
        .to(device)
    )
    wave, labels = audio(case, device)

    def loss() -> Tensor:
        out = net(wave, labels)
        return (
            negative_log_likelihood(out.distribution, wave)
            + 0.25 * out.quantized.losses["commitment"]
        )

    return net, loss


def distillation(case: Case, device: torch.device) -> tuple[nn.Module, Loss]:
    """The flows, and the KL by the teacher, which is conditioned on their samples: gradients pass
    through the teacher, not into it.
    """
    conditioner = ConditionerSpec(categorical=("speaker",))
    frozen = (
        WaveNetSpec(head=case.head, network=case.teacher, conditioner=conditioner)
        .build(case.rate, SPEAKERS)
        .to(device)
    )
    frozen.requires_grad_(requires_grad=False)
    spec = StudentSpec(flows=case.flows, network=case.flow, conditioner=conditioner)
    student = spec.build(case.rate, SPEAKERS).to(device)
    wave, labels = audio(case, device)

    def loss() -> Tensor:
        flowed = student(
            student.noise(torch.rand(4, *wave.shape, device=device).clamp(1e-6, 1 - 1e-6)), labels
        )
        divergence = RandomisedQuantiles().of(student.distribution(flowed))
        return divergence(frozen.predict(flowed.x, frozen.condition(None, labels))).mean()

    return student, loss


STEPS: Mapping[str, Callable[[Case, torch.device], tuple[nn.Module, Loss]]] = {
    "teacher": teacher,
    "vqvae": vqvae,
    "distillation": distillation,
}
SPEAKERS = {"speaker": ["a", "b", "c", "d"]}


def audio(case: Case, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    wave = (0.07 * torch.randn(case.clips, case.samples, device=device)).clamp(-1, 1)
    return wave, {"speaker": torch.arange(case.clips, device=device) % 4}


def peak(step: Step, device: torch.device) -> float:
    """The most that the tensors of one step hold at a time, MiB."""
    if device.type == "cpu":
        return peak_mib(step)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
