"""The student's kernels against the PyTorch pass: the same flows, the same noise, and the same bits
however the work is cut.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.decode import backend, reference
from vqwave.decode.backend import SampleRequest
from vqwave.decode.cpu.flow.plan import plan_flows, unsupported_student
from vqwave.decode.cpu.precision import missing
from vqwave.decode.sampling import Sampling
from vqwave.errors import UserInputError
from vqwave.models import Student, StudentSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.wavenet import ContextSpec, StackSpec
from vqwave.rng.philox import uniforms

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from vqwave.decode.cpu.flow import decoder as fast
from vqwave.decode.cpu.flow.decoder import noise

HOP, FRAMES = 48, 5
NARROWED = ["bf16", "bf16-dot"] if missing("bf16-dot") is None else ["bf16"]
EVEN = StackSpec(
    layers=1,
    dilation_cycle=4,
    kernel_size=3,
    residual_channels=64,
    gate_channels=64,
    skip_channels=0,
    hidden_channels=64,
)
ODD = StackSpec(
    layers=1,
    dilation_cycle=3,
    kernel_size=2,
    residual_channels=24,
    gate_channels=20,
    skip_channels=0,
    hidden_channels=17,
)
WIDE = StackSpec(
    layers=1,
    dilation_cycle=2,
    kernel_size=2,
    residual_channels=144,
    gate_channels=80,
    skip_channels=0,
    hidden_channels=33,
)
SHAPES: list[dict] = [
    {"network": EVEN},
    {"network": ODD},
    {"network": WIDE, "flows": (3, 1)},
    {"network": ODD, "base": "gaussian", "flows": (4,)},
    {"network": ODD, "squeeze": 2},
    {"network": EVEN, "squeeze": 4, "stagger_blocks": True},
    {
        "network": ODD,
        "squeeze": 8,
        "stagger_blocks": True,
        "flows": (2, 2, 2, 2, 2),
        "base": "gaussian",
    },
    {"network": ODD, "conditioner": ConditionerSpec(channels=6, upsample=(2, 3))},
    {"network": ODD, "conditioner": ConditionerSpec(channels=6, upsample=(6, 8))},
]
SMALL = {"network": ODD, "squeeze": 4, "stagger_blocks": True, "flows": (2, 5)}


def build(frames: int = FRAMES, **settings: object) -> Student:
    """An untrained student whose past and condition really matter."""
    torch.manual_seed(0)
    spec = StudentSpec(
        **{"flows": (3, 5), "conditioner": ConditionerSpec(channels=12), "initial_scale": 0.5}
        | settings
    )
    student = spec.build(8000, {"speaker": ["a", "b"]}, frames, HOP if frames else 1).eval()
    with torch.no_grad():
        for flow in student.flows.flows:
            flow.stack.out.weight.mul_(6.0)
            if flow.stack.projection is not None:
                flow.stack.projection.weight.mul_(3.0)
    return student


@torch.no_grad()
def condition(student: Student, streams: int, frames: int = 20) -> Condition:
    features = torch.randn(streams, FRAMES, frames, generator=torch.Generator().manual_seed(1))
    return student.condition(features, {"speaker": torch.arange(streams) % 2})


def white(streams: int, samples: int) -> Tensor:
    return torch.randn(streams, samples, generator=torch.Generator().manual_seed(2))


def rows(full: Condition, chosen: Sequence[int]) -> Condition:
    return Condition(full.features[list(chosen)], full.repeat)


@torch.no_grad()
def exact(student: Student, z: Tensor, held: Condition | None) -> Tensor:
    """The one pass, in float64."""
    held = None if held is None else Condition(held.features.double(), held.repeat)
    return copy.deepcopy(student).double().transform(z.double(), held).x


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("frames", [20, 30])
def test_every_shape_passes_as_in_torch(settings: dict, frames: int) -> None:
    student = build(**settings)
    held, z = condition(student, 2, frames), white(2, 1111)
    expected = exact(student, z, held)
    assert expected.std() > 0.1
    result = fast.StudentDecoder(student, held, torch.arange(2), threads=1).transform(z)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-4)
    altered = Condition(
        torch.cat([held.features[..., :9], 2 * held.features[..., 9:]], -1),
        held.repeat,
    )
    assert (exact(student, z, altered) - expected).abs().max() > 1e-2  # the condition matters


def test_a_student_of_labels_alone_or_without_a_condition() -> None:
    labelled = build(frames=0, network=ODD)
    held = labelled.condition(None, {"speaker": torch.arange(2)})
    alone = build(frames=0, network=ODD, conditioner=ConditionerSpec(categorical=()))
    for student, given in ((labelled, held), (alone, None)):
        z = white(2, 700)
        result = fast.StudentDecoder(student, given, torch.arange(2), threads=1).transform(z)
        torch.testing.assert_close(result.double(), exact(student, z, given), rtol=0, atol=1e-4)
    assert alone.condition(None, {}) is None


@pytest.mark.parametrize("base", ["logistic", "gaussian"])
def test_the_noise_is_the_references(base: str) -> None:
    student, seed = build(network=ODD, base=base), 2**40 + 7
    expected = student.noise(
        uniforms(seed, torch.tensor([2**33 + 5]), 2**32 - 500, 1000).double(), 0.7
    )[0]
    result = np.empty(1000, np.float32)
    noise(np.uint64(seed), 2**33 + 5, 2**32 - 500, base == "gaussian", np.full(1000, 0.7), result)
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=3e-6)
    assert expected.std() > 0.5


@pytest.mark.parametrize("settings", [SHAPES[0], SHAPES[6]])
def test_the_draws_are_the_references(settings: dict) -> None:
    student = build(**settings)
    held, streams = condition(student, 2), torch.tensor([5, 2])
    both = [
        backend.sample(
            SampleRequest(student, held, 900, streams),
            Sampling(seed=9, temperature=0.8, backend=name),
        )
        for name in ("numba", "reference")
    ]
    torch.testing.assert_close(*both, rtol=0, atol=1e-4)
    assert both[0].std() > 0.1
    assert both[0].abs().max() == 1.0  # clamped as there


def test_temperature_zero_is_the_flow_of_no_noise() -> None:
    student = build(network=ODD)
    held = condition(student, 1)
    both = [
        backend.sample(
            SampleRequest(student, held, 400, torch.arange(1)),
            Sampling(seed=9, temperature=0.0, backend=name),
        )
        for name in ("numba", "reference")
    ]
    expected = exact(student, torch.zeros(1, 400), held).clamp(-1, 1)
    for x in both:
        torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", ["float32", *NARROWED])
@pytest.mark.parametrize("settings", [{"network": EVEN, "flows": (2, 12)}, SMALL])
def test_bits_do_not_depend_on_batch_order_threads_tiles_or_chunks(
    settings: dict,
    weights: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = build(**settings)
    held, streams = condition(student, 5), torch.arange(100, 105)

    def draw(chosen: Sequence[int] = range(5), threads: int = 1) -> Tensor:
        chosen = list(chosen)
        return fast.sample_student(
            student,
            rows(held, chosen),
            900,
            streams=streams[chosen],
            seed=1,
            weights=weights,
            threads=threads,
        )

    full = draw()
    assert not torch.equal(full[0], full[2])
    assert torch.equal(draw(threads=2), full)
    assert torch.equal(draw([3, 0, 4]), full[[3, 0, 4]])
    assert torch.equal(draw([2], threads=3)[0], full[2])
    decoder = fast.StudentDecoder(student, held, streams, weights=weights, threads=1)
    pieces = [
        chunk for count in (1, 2, 150, 7, 0, 3, 737) for chunk in decoder.sample(count, seed=1)
    ]
    assert torch.equal(torch.cat(pieces, 1), full)
    monkeypatch.setattr(fast, "ACTIVATIONS", 1)
    monkeypatch.setattr(fast, "PIECE", 2)
    monkeypatch.setattr(fast, "GROUP", 2)
    assert torch.equal(draw(threads=2), full)
    assert fast.StudentDecoder(student, held, streams).columns < 100


@pytest.mark.parametrize("weights", NARROWED)
def test_bf16_costs_little(weights: str) -> None:
    """The change that rounded weights (and, with dots, rounded activations) make, against the
    spread of the output.
    """
    student = build(network=EVEN)
    held, z = condition(student, 1), white(1, 900)
    expected = exact(student, z, held)
    decoder = fast.StudentDecoder(student, held, torch.arange(1), weights=weights, threads=1)
    assert decoder.plans[0].dilated.dtype == (np.uint16 if weights == "bf16-dot" else np.float32)
    narrow = decoder.transform(z)
    assert not torch.equal(
        narrow, fast.StudentDecoder(student, held, torch.arange(1), threads=1).transform(z)
    )
    assert (narrow - expected).square().mean().sqrt() / expected.std() < 0.02


@pytest.mark.parametrize("weights", ["float32", *NARROWED])
def test_a_stream_can_be_left_and_gone_on_with(weights: str) -> None:
    student = build(**SMALL)
    held, streams = condition(student, 2), torch.tensor([3, 8])

    def decoder() -> fast.StudentDecoder:
        return fast.StudentDecoder(student, held, streams, weights=weights, threads=1)

    first = decoder()
    before = torch.cat(list(first.sample(333, seed=4)), 1)
    kept = first.state_dict()
    on = torch.cat(list(first.sample(500, seed=4)), 1)
    other = decoder()
    list(other.sample(41, seed=7))
    other.load_state_dict(kept)
    assert torch.equal(torch.cat(list(other.sample(500, seed=4)), 1), on)
    branch = decoder()
    branch.load_state_dict(kept)
    assert not torch.equal(torch.cat(list(branch.sample(500, seed=5)), 1), on)
    full = fast.sample_student(
        student, held, 833, streams=streams, seed=4, weights=weights, threads=1
    )
    assert torch.equal(torch.cat([before, on], 1), full)


def test_a_row_can_be_given_to_another_utterance() -> None:
    student = build(**SMALL)
    held, streams = condition(student, 2), torch.tensor([3, 8])
    decoder = fast.StudentDecoder(student, held, streams, threads=1)
    first = torch.cat(list(decoder.sample(200)), 1)
    decoder.restart(0, 9)
    decoder.set_condition(
        np.ascontiguousarray(held.features[[1, 1]].transpose(1, 2).numpy()),
        np.zeros(2, np.int64),
    )
    then = torch.cat(list(decoder.sample(200)), 1)
    alone = fast.sample_student(student, rows(held, [1]), 400, streams=torch.tensor([9]), threads=1)
    assert torch.equal(then[0], alone[0, :200])
    undisturbed = fast.sample_student(
        student, rows(held, [1]), 400, streams=torch.tensor([8]), threads=1
    )
    assert torch.equal(torch.cat([first[1], then[1]]), undisturbed[0])


@pytest.mark.parametrize("settings", [SMALL, SHAPES[7]])
def test_the_condition_may_come_in_pieces(settings: dict) -> None:
    """Only the columns of the next samples are given, and those that staggered blocks need
    early.
    """
    student = build(**settings)
    held = condition(student, 1)
    total = held.features.shape[-1] * held.repeat
    full = fast.sample_student(student, held, total, streams=torch.arange(1), threads=1)
    decoder, parts = fast.StudentDecoder(student, held, torch.arange(1), threads=1), []
    assert (decoder.ahead > 0) == bool(settings.get("stagger_blocks"))
    for first in range(0, total, HOP):
        low, high = (
            first // held.repeat,
            -(-(first + HOP + decoder.ahead) // held.repeat),
        )
        window = held.features[..., low:high].transpose(1, 2).contiguous().numpy()
        decoder.set_condition(window, np.array([low]))
        parts += list(decoder.sample(HOP))
    assert torch.equal(torch.cat(parts, 1), full)


def test_memory_does_not_grow_with_time() -> None:
    student = build(network=ODD, flows=(2, 3))
    decoder = fast.StudentDecoder(student, condition(student, 1), torch.arange(1), threads=1)

    def held() -> dict[str, int]:
        flows = decoder.flows[0]
        return {f"{i}": flow.memory.windows.nbytes for i, flow in enumerate(flows)} | {
            name: array.nbytes for name, array in decoder.state_dict().items()
        }

    before = held()
    for _ in range(6):
        for chunk in decoder.sample(20_000):
            assert chunk.shape[1] <= decoder.columns
    assert held() == before
    assert decoder.times.tolist() == [120_000]


def test_progress_adds_up_and_nothing_is_nothing() -> None:
    student, counted = build(network=ODD), []
    held = condition(student, fast.GROUP + 1)
    streams = torch.arange(fast.GROUP + 1)
    x = fast.sample_student(student, held, 5000, streams=streams, progress=counted.append)
    assert x.shape == (fast.GROUP + 1, 5000)
    assert sum(counted) == 5000
    assert len(counted) > 1
    assert fast.sample_student(student, held, 0, streams=streams).shape == (fast.GROUP + 1, 0)
    assert fast.sample_student(student, None, 9, streams=streams[:0]).shape == (0, 9)


def test_weights_are_packed_once_without_loss() -> None:
    student = build(network=EVEN)
    flow, plan = student.flows.flows[1], plan_flows(student)[1]
    # (L, panels, k, R, 16 of G, filter or gate, ...)
    panels = plan.dilated.reshape(5, 2, 3, 64, 2, 2, 16)
    taps = np.moveaxis(panels, 1, 3).reshape(5, 3, 64, 4, 2, 16)
    weight = flow.stack.layers[2].dilated.weight.detach()  # (2G, R, k)
    np.testing.assert_array_equal(
        taps[2][..., 0, :].reshape(3, 64, 64), weight[:64].permute(2, 1, 0).numpy()
    )
    np.testing.assert_array_equal(
        taps[2][..., 1, :].reshape(3, 64, 64), weight[64:].permute(2, 1, 0).numpy()
    )
    assert plan.dilated.ctypes.data % 64 == 0


def test_auto_takes_the_kernels_or_gives_the_reason() -> None:
    student = build(network=ODD)
    assert backend.choose(student) == backend.choose(student, "numba") == backend.Choice("numba")
    assert backend.choose(student, "reference") == backend.Choice("reference")
    masked = build(network=ODD, flow_type="maf")
    longer = build(network=StackSpec(**{**vars(ODD), "context": ContextSpec(layers=1)}))
    for odd, word in (
        (masked, "maf"),
        (longer, "context"),
        (build(network=ODD).double(), "float64"),
    ):
        choice = backend.choose(odd)
        assert choice.backend == "reference"
        assert word in choice.reason
        assert word in unsupported_student(odd)
        with pytest.raises(UserInputError, match=word):
            backend.choose(odd, "numba")
    held = condition(masked, 1)
    streams = torch.arange(1)
    sampled = backend.sample(SampleRequest(masked, held, 30, streams))
    expected = reference.sample_student(masked, held, 30, streams=streams)
    assert torch.equal(sampled, expected)


NARROW = """
import sys
from vqwave.decode.cpu import processor
processor.WIDE = False
sys.path.insert(0, sys.argv[1])
import test_student_numba as here, torch
assert (here.fast.padded_rows(1)) == 3
student = here.build(**here.SMALL)
held = here.condition(student, 2)
waves = here.fast.sample_student(student, held, 500, streams=torch.arange(2), threads=1)
torch.save(waves, sys.argv[2])
"""


@pytest.mark.slow
def test_narrower_registers_give_the_same_bits(tmp_path: Path) -> None:
    """The tile of processors without AVX-512, here."""
    out, here = tmp_path / "x.pt", Path(__file__).parent
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", NARROW, str(here), str(out)]
    subprocess.run(command, check=True, env=environment)
    student = build(**SMALL)
    wide = fast.sample_student(
        student, condition(student, 2), 500, streams=torch.arange(2), threads=1
    )
    assert torch.equal(torch.load(out), wide)
