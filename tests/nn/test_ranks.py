"""Two forked processes (gloo): one codebook, one mean, however the data and the padding are
spread.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from vqwave.distributed.collectives import (
    gather_over_ranks,
    masked_mean,
    sum_over_ranks,
    world_size,
)
from vqwave.nn.quantize import (
    EMAQuantizerSpec,
    EntropySpec,
    FSQuantizerSpec,
    GradientQuantizerSpec,
    ProductQuantizerSpec,
    Quantizer,
    ResidualQuantizerSpec,
)

WORLD, D, F, K, STEPS = 2, 4, 12, 6, 6
PATIENCE = 60.0  # seconds that a process may take
ROWS = (3, 1)  # items of a batch on each rank
# valid frames of each of the four items, by step: each rank is wholly masked once, both at one step
LENGTHS = [
    [12, 9, 3, 0],
    [0, 0, 0, 12],
    [12, 12, 12, 12],
    [0, 0, 0, 0],
    [1, 0, 0, 2],
    [12, 5, 7, 1],
]

Results = dict[str, Tensor]
pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The joined batch of a step: z (4, D, F), mask (4, F)."""
    generator = torch.Generator().manual_seed(step)
    places = 3.0 * torch.randn(K, D, generator=torch.Generator().manual_seed(99))
    z = places[torch.randint(K, (4, F), generator=generator)] + 0.2 * torch.randn(
        4, F, D, generator=generator
    )
    return z.transpose(1, 2), torch.arange(F) < torch.tensor(LENGTHS[step])[:, None]


def train(vq: Quantizer, rows: slice) -> Results:
    """All steps on some rows of the joined batch: by step losses, gradients, metrics and code
    vectors, and the final state.
    """
    results = {}
    for step in range(STEPS):
        z, mask = batch(step)
        out = vq(z[rows], mask[rows])
        total = sum(out.losses.values(), 0.0 * out.z.sum())
        if list(vq.parameters()):
            total.backward()
        results |= {
            f"local.{name}.{step}": value.detach().float() for name, value in out.losses.items()
        }
        results |= {
            f"local.grad.{name}.{step}": p.grad.clone()
            for name, p in vq.named_parameters()
            if p.grad is not None
        }
        results |= {f"{name}.{step}": value.float() for name, value in out.metrics.items()}
        results[f"codes.{step}"] = vq.decode(
            torch.arange(vq.codebook_size).expand(1, vq.num_codebooks, -1)
        ).detach()
        vq.zero_grad()
    return results | {name: value.clone() for name, value in vq.state_dict().items()}


def quantizers() -> dict[str, Quantizer]:
    """Built before any process group is up: who is there is asked when it matters."""
    torch.manual_seed(0)
    plain = EMAQuantizerSpec(codebook_size=K, decay=0.8, dead_code_threshold=0.0)
    gradient = GradientQuantizerSpec(codebook_size=K, decay=0.8, dead_code_threshold=0.0)
    specs = {
        "ema": plain,
        "ema restart": replace(plain, dead_code_threshold=0.7),
        "ema projected": replace(plain, codebook_dim=2, entropy=EntropySpec()),
        "gradient": gradient,
        "gradient restart": replace(gradient, dead_code_threshold=0.7),
        "gradient cosine": replace(
            gradient, l2_normalize=True, entropy=EntropySpec(temperature=4.0)
        ),
        "residual": ResidualQuantizerSpec(num_quantizers=3, quantizer=plain),
        "residual restart": ResidualQuantizerSpec(
            num_quantizers=2,
            quantizer_dropout=0.5,
            quantizer=replace(plain, dead_code_threshold=0.7),
        ),
        "product": ProductQuantizerSpec(groups=2, quantizer=plain),
        "fsq": FSQuantizerSpec(levels=(3, 2)),
    }
    return {name: spec.build(D) for name, spec in specs.items()}


def quantize_here(rank: int) -> Results:
    rows = slice(sum(ROWS[:rank]), sum(ROWS[: rank + 1]))
    return {
        f"{kind}/{name}": value
        for kind, vq in BUILT.items()
        for name, value in train(vq, rows).items()
    }


def mean_here(rank: int) -> Results:
    values, _ = batch(0)
    values, mask = values[:, 0], torch.arange(F) < torch.tensor(LENGTHS[0])[:, None]
    rows, lone = slice(3 * rank, 3 + rank), torch.zeros(1, F, dtype=torch.bool)
    lone[0, 0] = rank == 1
    return {
        "mean": masked_mean(values[rows], mask[rows]),
        "lone": masked_mean(values[rows][:1], lone),
        "none": masked_mean(values[rows], torch.zeros_like(mask[rows])),
        "sum": sum_over_ranks(torch.tensor([1.0 + rank])),
        "gathered": gather_over_ranks(torch.tensor([[float(rank)]])),
    }


BUILT = quantizers()


def _process(rank: int, work: Callable[[int], Results], folder: Path) -> None:
    faulthandler.disable()  # a process that a planted mistake kills need not tell its story
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD
    )
    results = work(rank)
    save_file(
        {name: value.contiguous() for name, value in results.items()},
        folder / f"{rank}.safetensors",
    )
    dist.barrier()
    dist.destroy_process_group()


def in_two_processes(work: Callable[[int], Results], folder: Path) -> list[Results]:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_process, args=(rank, work, folder)) for rank in range(WORLD)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    assert not hung, "a collective that not all processes call"
    assert [process.exitcode for process in processes] == [0, 0]
    return [load_file(folder / f"{rank}.safetensors") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    return in_two_processes(quantize_here, tmp_path_factory.mktemp("ranks"))


def test_all_ranks_keep_the_same_codebook(quantized: list[Results]) -> None:
    """Bit for bit, with unequal batches, wholly masked ranks and restarts."""
    first, second = quantized
    shared = [name for name in first if "local." not in name]
    assert [name for name in shared if not torch.equal(first[name], second[name])] == []


# whose dropout wants equal shares
@pytest.mark.parametrize("kind", [kind for kind in BUILT if kind != "residual restart"])
def test_two_ranks_are_one_process_with_the_joined_batch(
    quantized: list[Results], kind: str
) -> None:
    """Code vectors, state, metrics; losses and gradients as DDP takes them, the mean over ranks."""
    first, second = quantized
    for name, expected in train(quantizers()[kind], slice(None)).items():
        found = first[f"{kind}/{name}"]
        if "local." in name:
            found = (found + second[f"{kind}/{name}"]) / 2
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_restarts_happened(quantized: list[Results], kind: str) -> None:
    last = f"codes.{STEPS - 1}"
    assert not torch.equal(quantized[0][f"{kind} restart/{last}"], quantized[0][f"{kind}/{last}"])


def test_a_masked_mean_is_that_of_the_joined_batch(tmp_path: Path) -> None:
    first, second = in_two_processes(mean_here, tmp_path)
    values, mask = batch(0)
    joined = masked_mean(values[:, 0], mask)
    assert joined.item() == pytest.approx(values[:, 0][mask].mean().item(), abs=1e-6)
    assert (first["mean"] + second["mean"]).item() / 2 == pytest.approx(joined.item(), abs=1e-6)
    assert (first["lone"] + second["lone"]).item() / 2 == pytest.approx(
        values[3, 0, 0].item(), abs=1e-6
    )
    assert first["none"].item() == second["none"].item() == 0
    assert first["sum"].item() == second["sum"].item() == 3
    assert first["gathered"].flatten().tolist() == second["gathered"].flatten().tolist() == [0, 1]


def test_one_process_needs_no_group() -> None:
    assert world_size() == 1
    x = torch.randn(3, 2)
    assert sum_over_ranks(x) is x
    assert gather_over_ranks(x) is x
