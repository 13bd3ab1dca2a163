"""The kernels' synthesis filter of a student against the PyTorch pass, and the same bits however
the work is cut.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from vqwave.decode import backend
from vqwave.decode.backend import SampleRequest, build_engine
from vqwave.decode.cpu.precision import missing
from vqwave.decode.sampling import Sampling
from vqwave.features import LogMelSpec
from vqwave.models import Student, StudentSpec
from vqwave.nn.condition import Condition, ConditionerSpec
from vqwave.nn.linear_prediction import LinearPredictorSpec
from vqwave.nn.wavenet import StackSpec

pytest.importorskip("numba", reason="the CPU kernels need numba: pip install 'vqwave[fast]'")
from vqwave.decode.cpu.flow import decoder as fast

RATE, HOP, BANDS, ORDER, STREAMS = 8000, 48, 12, 6, 3
MEL = LogMelSpec(bands=BANDS, window_ms=12.0, hop_ms=6.0)
STACK = StackSpec(
    layers=1,
    dilation_cycle=3,
    kernel_size=2,
    residual_channels=24,
    gate_channels=20,
    skip_channels=0,
    hidden_channels=17,
)
WIDER = StackSpec(
    layers=1,
    dilation_cycle=3,
    kernel_size=2,
    residual_channels=64,
    gate_channels=48,
    skip_channels=0,
    hidden_channels=32,
)
NARROWED = ["bf16", "bf16-dot"] if missing("bf16-dot") is None else ["bf16"]
SHAPES: list[dict] = [
    {},
    {"base": "gaussian", "squeeze": 4, "stagger_blocks": True, "pitch_taps": 0},
    {"conditioner": ConditionerSpec(channels=12, upsample=(2, 2)), "squeeze": 2},
    {
        "predictor": LinearPredictorSpec(order=ORDER, interpolation=8),
        "squeeze": 2,
        "stagger_blocks": True,
    },
    {"harmonic_source": True, "squeeze": 8, "stagger_blocks": True},
    {"harmonic_source": True, "squeeze": 16, "stagger_blocks": True, "network": WIDER},
]


def build(**settings: object) -> Student:
    """An untrained student whose past, condition and coefficients really matter."""
    torch.manual_seed(0)
    usual = {
        "flows": (2, 3),
        "network": STACK,
        "conditioner": ConditionerSpec(channels=12),
        "initial_scale": 0.1,
        "predictor": LinearPredictorSpec(order=ORDER),
        "pitch_taps": 3,
    }
    spec = StudentSpec(**usual | settings)
    labels = {"speaker": ["a", "b"]}
    student = spec.build(RATE, labels, BANDS, HOP, MEL.build(RATE)).eval()
    with torch.no_grad():
        for flow in student.flows.flows:
            flow.stack.out.weight.mul_(6.0)
            flow.stack.projection.weight.mul_(3.0)
    return student


@torch.no_grad()
def condition_of(student: Student, frames: int = 20, streams: int = STREAMS) -> Condition:
    generator = torch.Generator().manual_seed(1)
    log_mel = torch.randn(streams, BANDS, frames, generator=generator)
    voiced = (torch.rand(streams, frames, generator=generator) < 0.7).float()
    pitch = torch.stack([torch.randn(streams, frames, generator=generator) * voiced / 3, voiced], 1)
    predictor = student.predictor.analyse(log_mel, pitch)
    return student.condition(
        torch.cat([log_mel, predictor], 1), {"speaker": torch.arange(streams) % 2}
    )


def rows(full: Condition, chosen: Sequence[int]) -> Condition:
    return Condition(full.features[list(chosen)], full.repeat)


def decoder_of(
    student: Student, condition: Condition, streams: Tensor, **settings: object
) -> fast.StudentDecoder:
    return fast.StudentDecoder(student, condition, streams, **{"threads": 1} | settings)


@torch.no_grad()
def exact(student: Student, z: Tensor, condition: Condition) -> Tensor:
    """The one pass, in float64."""
    condition = Condition(condition.features.double(), condition.repeat)
    return copy.deepcopy(student).double().transform(z.double(), condition).x


@pytest.mark.parametrize("settings", SHAPES)
@pytest.mark.parametrize("frames", [20, 30])
def test_every_shape_passes_as_in_torch(settings: dict, frames: int) -> None:
    student = build(**settings)
    condition = condition_of(student, frames)
    z = torch.randn(STREAMS, 1111, generator=torch.Generator().manual_seed(2))
    expected = exact(student, z, condition)
    assert expected.std() > 0.1
    x = decoder_of(student, condition, torch.arange(STREAMS)).transform(z)
    torch.testing.assert_close(x.double(), expected, rtol=0, atol=1e-4)
    unfiltered = condition.features.clone()
    unfiltered[:, student.conditioner.channels :] = 0.0
    plain = exact(student, z, Condition(unfiltered, condition.repeat))
    assert (plain - expected).abs().max() > 1e-2  # the filter matters


def test_the_kernels_are_taken_and_draw_what_the_reference_does() -> None:
    student = build(initial_scale=0.3)
    assert backend.choose(student) == backend.Choice("numba")
    condition, streams = condition_of(student), torch.tensor([5, 2, 9])
    both = [
        backend.sample(
            SampleRequest(student, condition, 900, streams),
            Sampling(seed=9, temperature=0.8, backend=name),
        )
        for name in ("numba", "reference")
    ]
    torch.testing.assert_close(*both, rtol=0, atol=1e-4)
    assert both[0].abs().max() == 1.0  # clamped after the filter, whose past is not
    assert (both[0].abs() < 1).float().mean() > 0.5


@pytest.mark.parametrize(
    ("weights", "settings"),
    [*((name, SHAPES[3]) for name in ("float32", *NARROWED)), ("float32", SHAPES[4])],
)
def test_bits_do_not_depend_on_batch_order_threads_tiles_or_chunks(
    weights: str,
    settings: dict,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = build(**settings)
    condition, streams = condition_of(student), torch.arange(100, 100 + STREAMS)

    def draw(chosen: Sequence[int] = range(STREAMS), threads: int = 1) -> Tensor:
        chosen = list(chosen)
        part = rows(condition, chosen)
        return fast.sample_student(
            student, part, 900, streams=streams[chosen], seed=1, weights=weights, threads=threads
        )

    full = draw()
    assert torch.equal(draw(threads=2), full)
    assert torch.equal(draw([2, 0]), full[[2, 0]])
    assert torch.equal(draw([1], threads=2)[0], full[1])
    decoder = decoder_of(student, condition, streams, weights=weights)
    pieces = [
        chunk for count in (1, 2, 150, 7, 0, 3, 737) for chunk in decoder.sample(count, seed=1)
    ]
    assert torch.equal(torch.cat(pieces, 1), full)
    monkeypatch.setattr(fast, "ACTIVATIONS", 1)
    monkeypatch.setattr(fast, "PIECE", 2)
    monkeypatch.setattr(fast, "GROUP", 2)
    assert torch.equal(draw(threads=2), full)


@pytest.mark.parametrize("settings", [{}, SHAPES[4]])
def test_a_stream_can_be_left_and_gone_on_with(settings: dict) -> None:
    student, streams = build(**settings), torch.arange(STREAMS)
    condition = condition_of(student)
    full = torch.cat(list(decoder_of(student, condition, streams).sample(700)), 1)
    first, other = (decoder_of(student, condition, streams) for _ in range(2))
    before = torch.cat(list(first.sample(333)), 1)
    kept = first.state_dict()
    list(other.sample(41, seed=7))
    list(first.sample(5))  # what was taken out does not move on
    other.load_state_dict(kept)
    assert torch.equal(torch.cat([before, *other.sample(367)], 1), full)


@pytest.mark.parametrize("settings", [{}, SHAPES[4]])
def test_a_row_can_be_given_to_another_utterance(settings: dict) -> None:
    student = build(**settings)
    condition = condition_of(student, streams=2)
    decoder = decoder_of(student, condition, torch.tensor([3, 8]))
    first = torch.cat(list(decoder.sample(100)), 1)
    decoder.restart(0, 9)
    features = condition.features[[1, 1]].transpose(1, 2)
    decoder.set_condition(np.ascontiguousarray(features.numpy()), np.zeros(2, np.int64))
    then = torch.cat(list(decoder.sample(100)), 1)
    part = rows(condition, [1])
    alone = fast.sample_student(student, part, 100, streams=torch.tensor([9]), threads=1)
    assert torch.equal(then[0], alone[0])
    undisturbed = fast.sample_student(student, part, 200, streams=torch.tensor([8]), threads=1)
    assert torch.equal(torch.cat([first[1], then[1]]), undisturbed[0])


@pytest.mark.parametrize("settings", SHAPES)
def test_an_engine_is_conditioned_piece_by_piece(settings: dict) -> None:
    """Only on the columns of the next samples, which begin at a column of their own."""
    student = build(**settings)
    condition = condition_of(student, streams=1)
    columns, hold = condition.features, condition.repeat
    total = columns.shape[-1] * hold
    full = fast.sample_student(student, condition, total, streams=torch.tensor([4]), seed=6)
    engine, parts = build_engine(student, Sampling(backend="numba", seed=6), stream=4), []
    for first in range(0, total, HOP):
        low, high = first // hold, -(-(first + HOP + engine.ahead) // hold)
        parts.append(engine.sample(columns[..., low:high].contiguous(), low, HOP))
    assert torch.equal(torch.cat(parts), full[0])


def test_a_saved_stream_has_the_phase_of_its_source() -> None:
    student = build(**SHAPES[4])
    columns, hold = condition_of(student, streams=1).features, HOP
    columns[:, student.conditioner.channels + ORDER] = 13.7  # samples of a period
    engines = [build_engine(student, Sampling(backend="numba", seed=6)) for _ in range(2)]
    ahead = -(-engines[0].ahead // hold)
    windows = [columns[..., n : n + 1 + ahead].contiguous() for n in range(4)]
    expected = [engines[0].sample(window, n, hold) for n, window in enumerate(windows)]
    for n in range(2):
        engines[1].sample(windows[n], n, hold)
    third = build_engine(student, Sampling(backend="numba", seed=6))
    kept = engines[1].state_dict()
    third.load_state_dict(kept)
    assert torch.equal(third.sample(windows[2], 2, hold), expected[2])
    third.load_state_dict(kept | {"0.source.phases": kept["0.source.phases"] + 2**39})
    assert not torch.equal(third.sample(windows[2], 2, hold), expected[2])


def test_a_student_without_a_predictor_keeps_its_arrays() -> None:
    """Saved streams of such a student still fit."""
    student = StudentSpec(flows=(2,), network=STACK, conditioner=ConditionerSpec(channels=4)).build(
        RATE, {"speaker": ["a"]}, BANDS, HOP
    )
    silence = Condition(torch.zeros(1, 4, 1), HOP)
    arrays = decoder_of(student, silence, torch.arange(1)).state_dict()
    flow = {f"0.0.{name}" for name in ("pasts", "last", "partial", "known", "facts")}
    assert arrays.keys() == {"streams", "times"} | flow
