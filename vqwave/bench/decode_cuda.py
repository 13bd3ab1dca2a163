"""Rows of the CUDA kernel, compared with the eager step replayed as a CUDA graph and with the time
that its weights alone need.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from vqwave.bench.table import REPEATS, Row
from vqwave.decode.cuda import tuning
from vqwave.decode.plan import Precision
from vqwave.models.wavenet import WaveNet, WaveNetState
from vqwave.nn.condition import Condition
from vqwave.nn.linear_prediction import PredictorState
from vqwave.nn.wavenet import StackState
from vqwave.rng.philox import uniforms

PRECISIONS: tuple[Precision, ...] = ("bf16", "float32")
STREAMS = (1, 16, 256, 2048)
SAMPLES = 4000  # of each stream, a run
REPLAYS = 200
FETCHED = 8192  # 32-bit words of the weights that a program of the floor has on the way at once


def rows(
    name: str, wavenet: WaveNet, condition: Condition | None, sample_rate: int
) -> Iterator[Row]:
    """Summed samples a second on the current CUDA device, for growing batches; nothing where there
    is no device or no Triton.

    Every stream has the `condition` of one utterance. The floor is the same run's: the weights,
    fetched by as many programs.
    """
    if not torch.cuda.is_available():
        return
    wavenet = wavenet.cuda()
    if condition is not None:
        condition = Condition(condition.features.cuda(), condition.repeat)
    if tuning.unsupported(wavenet) is not None:
        return
    for streams in STREAMS:
        graph = Replayed(wavenet, condition, streams)
        graph.record()
        plain = streams / seconds(partial(graph.replay, REPLAYS)) * REPLAYS
        yield row(name, "eager, CUDA graph", streams, plain, sample_rate)
        for weights in PRECISIONS:
            taken, floor = kernel_seconds(wavenet, condition, streams, weights)
            value = streams / taken
            yield row(
                name,
                f"triton, {weights}",
                streams,
                value,
                sample_rate,
                floor_share=floor / taken,
                ratio=value / plain,
            )


def row(
    name: str,
    backend: str,
    streams: int,
    value: float,
    sample_rate: int,
    *,
    floor_share: float | None = None,
    ratio: float | None = None,
) -> Row:
    return Row(
        "decode",
        name,
        backend,
        streams,
        None,
        value,
        "samples/s",
        value / sample_rate,
        floor_share,
        ratio,
    )


def kernel_seconds(
    wavenet: WaveNet, condition: Condition | None, streams: int, weights: Precision
) -> tuple[float, float]:
    """Seconds that the kernel takes for a sample of all streams, and those that fetching the
    weights for it takes.
    """
    from vqwave.decode.cuda import decoder as cuda_decoder  # an optional extra
    from vqwave.decode.cuda import kernel as cuda_kernel

    decoder = cuda_decoder.Decoder(wavenet, condition, torch.arange(streams), weights=weights)
    taken = seconds(lambda: list(decoder.sample(SAMPLES))) / SAMPLES
    programs = -(-streams // decoder.tuning.tile)
    packed = decoder.weights
    matrices = (packed.dilated, packed.residual, packed.skip, packed.hidden, packed.out)
    numbers = torch.cat([matrix.flatten() for matrix in matrices]).view(torch.int32)
    numbers = numbers[: len(numbers) // FETCHED * FETCHED]
    sums = torch.zeros(programs, dtype=torch.int32, device=numbers.device)
    fetch = cuda_kernel.fetch[(programs,)]
    floor = (
        seconds(
            lambda: fetch(numbers, sums, len(numbers), SAMPLES, FETCHED, num_warps=tuning.WARPS)
        )
        / SAMPLES
    )
    return taken, floor


def seconds(work: Callable[[], object]) -> float:
    """Median of several runs on the current device, after one that does not count (it compiles)."""
    work()
    taken = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1000)
    return median(taken)


class Replayed:
    """The eager step, one sample of all streams, in tensors that stay where they are: on a GPU it
    is recorded once and replayed.

    Every step reads the condition's first column and draws from the same uniforms: only its time
    matters.
    """

    def __init__(self, wavenet: WaveNet, condition: Condition | None, streams: int) -> None:
        weight = next(wavenet.parameters())
        self.wavenet, self.projected = wavenet, wavenet.project(condition)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.u = uniforms(0, torch.arange(streams), 0, 1).to(weight)
        self.last = weight.new_zeros(streams, 1)
        state = WaveNetState()
        wavenet.step(self.last, self.projected, state)
        self.pasts = [torch.zeros_like(past) for past in _tensors(state.stack.pasts)]
        self.predictor = [torch.zeros_like(past) for past in _of_predictor(state)]

    @torch.inference_mode()
    def advance(self) -> None:
        """A sample of each stream, in `last`."""
        predictor = PredictorState(*self.predictor) if self.predictor else None
        state = WaveNetState(StackState(list(self.pasts)), predictor)
        self.last.copy_(self.wavenet.step(self.last, self.projected, state).sample(self.u))
        for past, after in zip(self.pasts, _tensors(state.stack.pasts), strict=True):
            past.copy_(after)
        for past, after in zip(self.predictor, _of_predictor(state), strict=True):
            past.copy_(after)

    def record(self) -> None:
        """Records the step, after some in which libraries choose their algorithms."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.advance()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.advance()
        self.graph = graph

    def replay(self, count: int) -> None:
        if self.graph is None:
            raise RuntimeError("replay before record")
        for _ in range(count):
            self.graph.replay()


def _tensors(pasts: Sequence[Tensor | None]) -> list[Tensor]:
    """Of a state after a step, which has one a layer."""
    return [past for past in pasts if past is not None]


def _of_predictor(state: WaveNetState) -> list[Tensor]:
    """What a state keeps for linear prediction; nothing without it."""
    return [] if state.predictor is None else list(vars(state.predictor).values())
