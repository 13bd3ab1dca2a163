"""The CUDA kernel: its laws under Triton's interpreter, what the compiler makes of it, and, where
there is a GPU, both there.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from vqwave.bench.decode import NETWORKS
from vqwave.decode import backend
from vqwave.decode.cuda.tuning import Task, shared
from vqwave.decode.plan import Plan
from vqwave.distributions import Head, MixtureOfLogistics, MuLaw
from vqwave.errors import UserInputError
from vqwave.features import LogMelSpec
from vqwave.models import WaveNet, WaveNetSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec

pytest.importorskip("triton", reason="the CUDA kernel needs triton: pip install 'vqwave[cuda]'")
from vqwave.decode.cuda import decoder as fast
from vqwave.decode.cuda.packing import pack

LAWS = Path(__file__).with_name("triton_laws.py")
PREDICTION_LAWS = LAWS.with_name("triton_prediction_laws.py")
KB = 1024
LIMITS = {80: 163 * KB, 90: 227 * KB}  # shared memory of a program, by compute capability
PAPER = StackSpec()  # 30 layers, residual and gate 64, skip and hidden 256
SHIPPED = NETWORKS["S"][1]  # that of `speech`
DRAW, SCORE = Task(forced=False, keep=False), Task(forced=True, keep=True)


def obey(laws: Path, *arguments: str, interpreted: bool) -> None:
    """The laws in a process of their own, since Triton decides when it is imported whether it
    interprets.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(laws), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout
    assert not re.search(r"\d+ skipped", done.stdout), done.stdout


def test_short_laws_under_the_interpreter() -> None:
    chosen = "calls_the_kernel or is_taken or fit or lengths or (parallel_pass and head0)"
    obey(LAWS, "-m", "not slow", "-k", chosen, interpreted=True)


def test_short_laws_of_prediction_under_the_interpreter() -> None:
    chosen = "is_taken or is_written or zeros or (parallel_pass and head0)"
    obey(PREDICTION_LAWS, "-m", "not slow", "-k", chosen, interpreted=True)


@pytest.mark.slow
@pytest.mark.parametrize("laws", [LAWS, PREDICTION_LAWS])
def test_all_laws_under_the_interpreter(laws: Path) -> None:
    obey(laws, "-m", "", interpreted=True)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("laws", [LAWS, PREDICTION_LAWS])
def test_all_laws_on_the_device(laws: Path) -> None:
    obey(laws, "-m", "", interpreted=False)


def wavenet(
    head: Head | None = None, network: StackSpec = PAPER, order: int = 0, pitch_taps: int = 0
) -> WaveNet:
    """order: of a linear predictor, 0 for none."""
    torch.manual_seed(0)
    spec = WaveNetSpec(
        head=head or MuLaw(),
        network=network,
        conditioner=ConditionerSpec(channels=64),
        predictor=LinearPredictorSpec(order=order) if order else None,
        pitch_taps=pitch_taps,
    )
    spectrum = LogMelSpec(bands=64).build(16000)
    return spec.build(16000, {"speaker": ["a", "b"]}, 64, 160, spectrum).eval()


@dataclass(frozen=True)
class Bench:
    """Stands in for a CUDA driver, so that Triton compiles for a device that is not there."""

    capability: int

    def get_current_target(self) -> object:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, _device: int = 0) -> int:
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    from triton.runtime import driver as drivers

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    yield drivers
    with contextlib.suppress(RuntimeError):  # without a GPU there is no other to go back to
        drivers.reset_active()


def disassembled(cubin: bytes, folder: Path, option: str) -> str:
    """What cuobjdump shows of a compiled kernel."""
    from triton.backends import nvidia

    tool = Path(nvidia.__path__[0]) / "bin" / "cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton brings no cuobjdump, which shows what spills")
    path = folder / "kernel.cubin"
    path.write_bytes(cubin)
    command = [str(tool), option, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def stack_bytes(cubin: bytes, folder: Path) -> int:
    """Bytes of stack of a thread, where registers lie that spill."""
    return int(re.findall(r"STACK:(\d+)", disassembled(cubin, folder, "-res-usage"))[-1])


def spills_in_loops(cubin: bytes, folder: Path, depth: int = 1) -> int:
    """Reads and writes of the stack inside `depth` loops; a value that lies there from before the
    loop over samples until after it costs nothing. That loop is the first, the one over layers the
    second.
    """
    code = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", disassembled(cubin, folder, "-sass"))
    jumps = [(int(at, 16), re.search(r"BRA 0x([0-9a-f]+)", text)) for at, text in code]
    loops = [(int(jump[1], 16), at) for at, jump in jumps if jump and int(jump[1], 16) < at]
    assert loops, "the disassembly has another form: no loop was recognised"
    stack = [int(at, 16) for at, text in code if re.search(r"\b(LDL|STL)\b", text)]
    return sum(sum(first <= at <= last for first, last in loops) >= depth for at in stack)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("capability", "weights", "head", "task", "network", "stack"),
    [
        (80, "bf16", MuLaw(), DRAW, PAPER, 0),
        # Triton 3.9 puts one register aside before the loop over samples, 3.7 none
        (90, "bf16", MuLaw(), DRAW, PAPER, 8),
        pytest.param(90, "bf16", MuLaw(), SCORE, PAPER, 0, marks=slow),
        # one register is put aside before the loop over samples
        pytest.param(90, "bf16", MixtureOfLogistics(), DRAW, PAPER, 8, marks=slow),
        pytest.param(90, "bf16", MuLaw(), DRAW, StackSpec(kernel_size=3), 8, marks=slow),
        # three products for one: some registers spill
        pytest.param(90, "float32", MuLaw(), DRAW, PAPER, 512, marks=slow),
        pytest.param(
            80,
            "bf16",
            MuLaw(),
            DRAW,
            StackSpec(residual_channels=128, gate_channels=128),
            512,
            marks=slow,
        ),
    ],
)
def test_a_paper_sized_kernel_fits_the_chip(
    capability: int,
    weights: str,
    head: Head,
    task: Task,
    network: StackSpec,
    *,
    stack: int,
    driver: object,
    tmp_path: Path,
) -> None:
    """Shared memory as estimated and within the limit; in bf16 no loop spills a register."""
    driver.set_active(Bench(capability))
    net = wavenet(head, network)
    decoder = fast.Decoder(net, None, torch.arange(16), weights=weights, limit=LIMITS[capability])
    kernel = decoder.compile(task)
    tuning = decoder.tuning
    estimate = shared(decoder.shape, weights, tuning.tile, tuning.stages, tuning.hidden)
    assert kernel.metadata.shared <= estimate <= LIMITS[capability]
    if network is PAPER and weights == "bf16":
        assert tuning.stages == 3
    assert "mma" in kernel.asm["ptx"]
    assert stack_bytes(kernel.asm["cubin"], tmp_path) <= stack
    assert stack > 8 or spills_in_loops(kernel.asm["cubin"], tmp_path) == 0


@pytest.mark.parametrize(
    ("capability", "network", "task"),
    [
        (80, SHIPPED, DRAW),
        (90, SHIPPED, DRAW),
        pytest.param(80, SHIPPED, SCORE, marks=slow),
        pytest.param(90, SHIPPED, SCORE, marks=slow),
        pytest.param(80, PAPER, DRAW, marks=slow),
        pytest.param(90, PAPER, DRAW, marks=slow),
    ],
)
def test_a_kernel_with_prediction_fits_the_chip(
    capability: int, network: StackSpec, task: Task, driver: object, tmp_path: Path
) -> None:
    """Shared memory as without a predictor; what spills is read once a sample, not once a layer."""
    driver.set_active(Bench(capability))
    net = wavenet(MixtureOfLogistics(components=5), network, order=16, pitch_taps=3)
    decoder = fast.Decoder(net, None, torch.arange(16), limit=LIMITS[capability])
    kernel, tuning = decoder.compile(task), decoder.tuning
    estimate = shared(decoder.shape, "bf16", tuning.tile, tuning.stages, tuning.hidden)
    assert kernel.metadata.shared <= estimate <= LIMITS[capability]
    assert tuning.stages == 3
    assert spills_in_loops(kernel.asm["cubin"], tmp_path, depth=2) == 0
    most = 8 if network is SHIPPED and task is DRAW else 32
    assert spills_in_loops(kernel.asm["cubin"], tmp_path) <= most


def test_packing_loses_nothing() -> None:
    """Every weight of the plan is there once, besides zeros; filter and gate of a channel are
    neighbours.
    """
    net = wavenet(
        network=StackSpec(
            layers=2,
            dilation_cycle=2,
            kernel_size=3,
            residual_channels=20,
            gate_channels=24,
            skip_channels=40,
            hidden_channels=24,
        )
    )
    weights, shape = pack(net, "float32", torch.device("cpu"))
    assert (shape.residual, shape.gate, shape.skip, shape.hidden, shape.out) == (
        32,
        32,
        64,
        32,
        256,
    )
    matrices = (weights.dilated, weights.residual, weights.skip, weights.hidden, weights.out)
    assert sum(x.numel() for x in matrices) == shape.products
    ours = torch.cat([x.flatten() for x in matrices])
    theirs = torch.from_numpy(Plan.of(net).weights)
    assert torch.equal(ours[ours != 0].sort().values, theirs[theirs != 0].sort().values)
    weight = net.stack.layers[1].dilated.weight.detach()  # (2G, R, k)
    assert torch.equal(weights.dilated[1, 2, :20, 0:48:2], weight[:24, :, 2].T)
    assert torch.equal(weights.dilated[1, 2, :20, 1:48:2], weight[24:, :, 2].T)


def test_the_door_does_without_a_device() -> None:
    net = wavenet(
        network=StackSpec(
            layers=1,
            dilation_cycle=1,
            residual_channels=16,
            gate_channels=16,
            skip_channels=16,
            hidden_channels=16,
        )
    )
    assert backend.choose(net).backend != "triton"
    with pytest.raises(UserInputError, match="CUDA device"):
        backend.choose(net, "triton")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("streams", [1, 16, 2048])
def test_the_device_decodes_faster_than_real_time(streams: int) -> None:
    """At 16 kHz for each stream; docs/decoding.md has what to expect."""
    net = wavenet().cuda()
    conditions = Condition(torch.randn(1, net.conditioner.channels, 100, device="cuda"), 160)
    decoder = fast.Decoder(net, conditions, torch.arange(streams))
    seconds = []
    for _ in range(4):  # the first one compiles
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        drawn = sum(chunk.shape[1] for chunk in decoder.sample(1600))
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000 / drawn)
    assert 1 / min(seconds) > 16000
