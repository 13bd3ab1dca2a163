"""The student on the CPU: torch in, torch out; tiles of time go through the flows' layers, in one
thread or as a wavefront.

A column depends on earlier columns alone, and so do its bits (see `simd.py`): neither on the tiles,
nor on the chunks that a stream is drawn in, nor on threads or on the other streams.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.cpu.compiled import Compiled
from vqwave.decode.cpu.flow.plan import FlowPlan, plan_flows
from vqwave.decode.cpu.flow.source import SourceStream
from vqwave.decode.cpu.flow.state import (
    STRIP,
    Columns,
    Integers,
    Memory,
    Samples,
    Scratch,
    padded_rows,
)
from vqwave.decode.cpu.flow.synthesis_filter import FilterStream
from vqwave.decode.plan import Floats, Precision, aligned
from vqwave.decode.sampling import Temperature, Temperatures, checked_temperatures
from vqwave.distributions import GaussianMixture
from vqwave.models.student import Student
from vqwave.nn.condition import Condition
from vqwave.rng.philox import checked_seed

advance = Compiled("vqwave.decode.cpu.flow.kernel", "advance")
noise = Compiled("vqwave.decode.cpu.flow.kernel", "noise")

# numbers that a layer of a tile yields: with its weights and its past they stay in the second-level
# cache
ACTIVATIONS = 61440
GROUP = 16  # streams under way at once: the state of each takes some megabytes
PIECE = 10  # layers that one thread passes a tile through before another may go on with it


@dataclass(frozen=True)
class Stage:
    """Layers first .. last - 1 of a flow: what one thread does to a tile at a time."""

    flow: int
    first: int
    last: int


@dataclass
class Tile:
    """A chunk of one stream that passes through the flows, first noise, last audio; and within a
    flow, its columns.
    """

    wave: Floats  # (n,)
    columns: Columns | None = None  # of the flow that it is in
    samples: Samples | None = None


@dataclass
class ConditionWindow:
    """The condition of one stream: columns from column `first` on, each held for `hold` samples,
    the last for all that follows.
    """

    features: Floats  # (F, width): H condition channels, and with a predictor its own
    first: int
    hold: int
    source: Floats | None = None  # (blocks, n), from the first column's first block on

    def column(self, number: int, squeeze: int) -> int:
        """Which of the columns is that of a block by number."""
        column = number // max(1, self.hold // squeeze) - self.first
        return max(0, min(column, len(self.features) - 1))

    def source_of(self, numbers: Integers, squeeze: int) -> Floats:
        """The source of blocks by number (B,) -> (B, n), or (B, 0) without one."""
        if self.source is None:
            return np.zeros((len(numbers), 0), np.float32)
        first = self.first * self.hold // squeeze
        return self.source[(numbers - first).clip(0, len(self.source) - 1)]


class FlowStream:
    """One flow of one stream under way: what `AffineFlow` and its `FlowState` do, cut into
    stages.
    """

    def __init__(self, plan: FlowPlan, columns: int, pieces: int) -> None:
        """columns: the most of a tile, but for its first, of which blocks that begin at an offset
        make one more.
        """
        self.plan = plan
        self.memory = Memory.silent(plan)
        rows = padded_rows(columns + 1) if pieces > 1 else STRIP
        shape = (rows, len(plan.input_bias))
        # as many tiles may be under way in this flow
        self.x = cycle([aligned(shape, np.float32) for _ in range(pieces)])
        self.last = np.zeros(plan.squeeze, np.float32)  # the last complete block
        # of the block that is not yet complete
        self.partial = np.zeros(-plan.offset % plan.squeeze, np.float32)
        self.open = False  # whether that block's parameters are known, or being computed
        self.known = np.zeros((2, len(plan.out_bias)), np.float32)  # its locations and scales
        self.blocks = 0  # columns so far

    def begin(self, tile: Tile, conditions: ConditionWindow) -> None:
        """The blocks that the tile completes become columns of residual channels, each with its
        part of the condition.
        """
        squeeze, joined = self.plan.squeeze, np.concatenate([self.partial, tile.wave])
        complete, touched = len(joined) // squeeze * squeeze, -(-len(joined) // squeeze)
        inputs = joined if self.open else np.concatenate([self.last, joined])
        count = touched - self.open
        first = len(self.partial) + (0 if self.open else squeeze)
        tile.samples = Samples(tile.wave, np.empty_like(tile.wave), first, self.known)
        if complete:
            self.last = joined[complete - squeeze : complete]
        self.partial, self.open = joined[complete:], complete < len(joined)
        tile.columns = self._columns(inputs[: count * squeeze].reshape(count, squeeze), conditions)
        self.blocks += count

    def _columns(self, blocks: Floats, conditions: ConditionWindow) -> Columns:
        """Blocks (count, n) -> columns before the first layer."""
        plan, count = self.plan, len(blocks)
        rows = padded_rows(count)
        entering = np.zeros((rows, plan.inputs), np.float32)
        entering[:count, : plan.squeeze] = blocks
        if plan.inputs > plan.squeeze:
            numbers = self.blocks + np.arange(rows)
            entering[:, plan.squeeze :] = conditions.source_of(numbers, plan.squeeze)
        first, last = (
            conditions.column(number, plan.squeeze)
            for number in (self.blocks, self.blocks + max(0, count - 1))
        )
        return Columns(
            count,
            self.blocks,
            conditions.first + first,
            max(1, conditions.hold // plan.squeeze),
            entering,
            conditions.features[first : last + 1],
            np.empty((last + 1 - first, len(plan.dilated_bias)), np.float32),
            np.empty(rows, np.int64),
            next(self.x)[:rows],
        )

    def state_dict(self) -> dict[str, NDArray]:
        """Its state, of constant size: of each layer the span of inputs that is used again."""
        memory, spans = self.memory, self._spans()
        ends = memory.begins[:-1] + memory.used + spans
        pasts = [memory.windows[end - span : end] for end, span in zip(ends, spans, strict=True)]
        facts = np.array([self.blocks, self.open], np.int64)
        return {
            "pasts": np.concatenate(pasts),
            "last": self.last.copy(),
            "partial": self.partial.copy(),
            "known": self.known.copy(),
            "facts": facts,
        }

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `state_dict`. Raises ValueError for what is no state of this flow: kernels
        check no index.
        """
        own, spans = self.state_dict(), self._spans()
        for name in ("pasts", "last", "known", "facts"):
            if arrays[name].shape != own[name].shape:
                raise ValueError(f"{name} {arrays[name].shape}, expected {own[name].shape}")
        if arrays["partial"].ndim != 1:
            raise ValueError(f"partial {arrays['partial'].shape}, expected samples")
        bounds = np.cumsum(spans)[:-1]
        begins = self.memory.begins[:-1]
        for begin, past in zip(begins, np.split(arrays["pasts"], bounds), strict=True):
            self.memory.windows[begin : begin + len(past)] = past
        self.memory.used[:] = 0
        self.last, self.partial, self.known = (
            np.array(arrays[name]) for name in ("last", "partial", "known")
        )
        self.blocks, self.open = int(arrays["facts"][0]), bool(arrays["facts"][1])

    def check(self, time: int) -> None:
        """Raises ValueError unless the blocks so far are those of `time` samples."""
        squeeze = self.plan.squeeze
        samples = -self.plan.offset % squeeze + time
        blocks, begun = (-(-samples // squeeze), samples % squeeze) if time else (0, samples)
        if (self.blocks, len(self.partial)) != (blocks, begun) or self.open != (time and begun > 0):
            raise ValueError(f"{self.blocks} blocks of {squeeze}, expected {blocks}")

    def _spans(self) -> Integers:
        return (self.plan.kernel - 1) * self.plan.dilations


class StudentDecoder:
    """Streams of one student under way: each call continues where the last one stopped."""

    def __init__(
        self,
        student: Student,
        condition: Condition | None,
        streams: Tensor,
        *,
        weights: Precision = "float32",
        threads: int | None = None,
        plans: Sequence[FlowPlan] | None = None,
    ) -> None:
        """streams (B,) number the utterances; condition of B utterances, or of one for all; threads
        None: torch's number.

        plans: what `plan_flows` made of the student, where several decoders share it.
        """
        self.plans = list(plans or plan_flows(student, weights))
        self.gaussian = student.base is GaussianMixture
        self.threads = threads or torch.get_num_threads()
        self.columns = tile_columns(self.plans) * (2 if self.threads == 1 else 1)
        self.stages = stages(self.plans, cut=self.threads > 1)
        self.hold = condition.repeat if condition is not None else 1
        self.streams = streams.cpu().numpy().astype(np.int64).copy()
        self.times = np.zeros(len(streams), np.int64)
        self.channels = student.conditioner.channels
        self.order = 0 if student.predictor is None else student.predictor.order
        self.pitch_taps = 0 if student.predictor is None else student.predictor.pitch_taps
        self.flows = [self._silent() for _ in streams]
        self.filters = [FilterStream(self.order) for _ in streams]
        self.sources = [SourceStream(self.plans[0].squeeze) for _ in streams]
        if not student.harmonic_source:
            self.sources = []
        self.set_condition(
            _features(condition, len(streams), self.plans[0]), np.zeros(len(streams), np.int64)
        )
        self._local = threading.local()

    def _silent(self) -> list[FlowStream]:
        """A stream before its first sample."""
        pieces = Counter(stage.flow for stage in self.stages)
        return [FlowStream(plan, self.columns, pieces[i]) for i, plan in enumerate(self.plans)]

    @property
    def ahead(self) -> int:
        """Samples by which blocks that begin at an offset need the condition early (nn/flows.py): 0
        without staggered blocks.
        """
        return max(-plan.offset % plan.squeeze for plan in self.plans)

    def set_condition(self, features: Floats, first: Integers) -> None:
        """Columns (B, F, width) from now on, numbered from `first` (B,) on; earlier ones go."""
        self.windows = [
            ConditionWindow(np.array(row, np.float32, order="C"), int(number), self.hold)
            for row, number in zip(features, first, strict=True)
        ]
        for source, window in zip(self.sources, self.windows, strict=False):  # none, or all
            periods = window.features[:, self.channels + self.order]
            window.source = source.blocks(periods, window.hold, window.first)

    def restart(self, row: int, stream: int) -> None:
        """Row `row` becomes utterance number `stream`, before its first sample; the other rows do
        not notice.
        """
        self.flows[row], self.filters[row] = self._silent(), FilterStream(self.order)
        if self.sources:
            self.sources[row] = SourceStream(self.plans[0].squeeze)
        self.streams[row], self.times[row] = stream, 0

    def state_dict(self) -> dict[str, NDArray]:
        """The state of the streams, by name: what `load_state_dict` continues from."""
        parts = {
            f"{place}.{name}": array
            for place, part in self._parts().items()
            for name, array in part.state_dict().items()
        }
        return {"streams": self.streams.copy(), "times": self.times.copy()} | parts

    @property
    def time(self) -> int:
        """Samples of the first stream so far."""
        return int(self.times[0])

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `state_dict`, for as many streams of the same student in the same
        precision. Raises ValueError for what is no such state.
        """
        self.streams[:], self.times[:] = arrays["streams"], arrays["times"]
        for place, part in self._parts().items():
            prefix = f"{place}."
            part.load_state_dict(
                {
                    name.removeprefix(prefix): array
                    for name, array in arrays.items()
                    if name.startswith(prefix)
                }
            )
        for row, time in zip(self.flows, self.times.tolist(), strict=True):
            for flow in row:
                flow.check(time)
        if self.order and [each.time for each in self.filters] != self.times.tolist():
            raise ValueError("its synthesis filter is at another sample")

    def _parts(self) -> dict[str, FlowStream | FilterStream | SourceStream]:
        """Flows and, where the student has them, synthesis filters and sources of all streams."""
        parts: dict[str, FlowStream | FilterStream | SourceStream] = {
            f"{b}.{i}": flow for b, row in enumerate(self.flows) for i, flow in enumerate(row)
        }
        if self.order:
            parts |= {f"{b}.filter": each for b, each in enumerate(self.filters)}
        parts |= {f"{b}.source": each for b, each in enumerate(self.sources)}
        return parts

    def sample(self, count: int, seed: int = 0, temperature: Temperature = 1.0) -> Iterator[Tensor]:
        """The next `count` samples, in chunks: waveforms (B, n) float32 in [-1, 1]."""
        word, temperatures = np.uint64(checked_seed(seed)), checked_temperatures(temperature)

        def source(b: int, first: int, n: int) -> Floats:
            z, scales = np.empty(n, np.float32), self._scales(b, first, n, temperatures)
            noise(word, int(self.streams[b]), int(self.times[b]) + first, self.gaussian, scales, z)
            return z

        for chunk in self._sweep(count, source):
            yield chunk.clamp_(-1.0, 1.0)

    def _scales(
        self, b: int, first: int, count: int, temperatures: Temperatures
    ) -> NDArray[np.float64]:
        """The factors on the noise of stream b, `count` samples from its next but `first` on."""
        scales = np.full(count, temperatures.scale)
        if self.pitch_taps:
            window, time = self.windows[b], self.times[b] + first + np.arange(count)
            column = np.minimum(time // window.hold - window.first, len(window.features) - 1)
            scales[window.features[column, self.channels + self.order] > 0] = temperatures.voiced
        return scales

    def transform(self, z: Tensor) -> Tensor:
        """As `Student.transform`: given noise z (B, n) -> x (B, n), not clamped."""
        given = z.detach().float().cpu().numpy()
        chunks = list(
            self._sweep(
                given.shape[1],
                lambda b, first, n: np.ascontiguousarray(given[b, first : first + n]),
            )
        )
        return torch.cat(chunks, 1) if chunks else torch.zeros(given.shape)

    def _sweep(self, count: int, source: Callable[[int, int, int], Floats]) -> Iterator[Tensor]:
        """A wavefront: of all (stage, tile) those of one sum are independent, and each needs only
        those of the sum before.
        """
        step = self.columns * self.plans[0].squeeze
        firsts, tiles = range(0, count, step), dict[int, list[Tile]]()
        with self._pool() as run:
            for diagonal in range(len(firsts) + len(self.stages) - 1 if count else 0):
                if diagonal < len(firsts):
                    first = firsts[diagonal]
                    tiles[diagonal] = [
                        Tile(source(b, first, min(step, count - first)))
                        for b in range(len(self.streams))
                    ]
                jobs = [
                    (b, stage, tile)
                    for depth, stage in enumerate(self.stages)
                    for b, tile in enumerate(tiles.get(diagonal - depth, []))
                ]
                run(self._advance, jobs)
                if diagonal - len(self.stages) + 1 >= 0:
                    yield torch.from_numpy(
                        np.stack([tile.wave for tile in tiles.pop(diagonal - len(self.stages) + 1)])
                    )
        self.times += count

    def _advance(self, job: tuple[int, Stage, Tile]) -> None:
        """One stage of one tile; those before it in its flow and those of the tile before are
        done.
        """
        b, stage, tile = job
        flow, scratch = self.flows[b][stage.flow], self._scratch(stage.flow)
        if stage.first == 0:
            flow.begin(tile, self.windows[b])
        columns, samples = tile.columns, tile.samples
        assert columns is not None
        assert samples is not None
        advance(flow.plan, flow.memory, scratch, columns, samples, stage.first, stage.last)
        if stage.last == len(flow.plan.dilations):
            tile.wave = samples.x
            if self.order and stage is self.stages[-1]:
                self._filter(b, tile)

    def _filter(self, b: int, tile: Tile) -> None:
        """The residual that the flows made -> the waveform."""
        window = self.windows[b]
        coefficients = window.features[:, self.channels : self.channels + self.order]
        tile.wave = self.filters[b].synthesize(tile.wave, coefficients, window.hold, window.first)

    def _scratch(self, flow: int) -> Scratch:
        """This thread's scratch, which flows of one shape share."""
        own = self._local.__dict__.setdefault("of_shape", {})
        shape = self.plans[flow].shape
        if shape not in own:
            own[shape] = Scratch.of(self.plans[flow], self.columns + 1)
        return own[shape]

    @contextmanager
    def _pool(self) -> Iterator[Callable[[Callable[[tuple], None], list[tuple]], object]]:
        """A way to run a function over jobs: here, or in threads."""
        if self.threads == 1:
            yield lambda function, jobs: list(map(function, jobs))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield lambda function, jobs: list(pool.map(function, jobs))


def sample_student(
    student: Student,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: Temperature = 1.0,
    progress: Callable[[int], object] | None = None,
    weights: Precision = "float32",
    threads: int | None = None,
) -> Tensor:
    """What `reference.sample_student` draws, up to float rounding: (B, samples) float32."""
    plans, waves = plan_flows(student, weights), [torch.zeros(0, samples)]
    for first in range(0, len(streams), GROUP):
        rows = slice(first, first + GROUP)
        part = condition
        if condition is not None and len(condition.features) > 1:
            part = Condition(condition.features[rows], condition.repeat)
        decoder = StudentDecoder(student, part, streams[rows], threads=threads, plans=plans)
        chunks = [torch.zeros(len(streams[rows]), 0)]
        for chunk in decoder.sample(samples, seed, temperature):
            chunks.append(chunk)
            if progress is not None and first + GROUP >= len(streams):
                progress(chunk.shape[1])
        waves.append(torch.cat(chunks, 1))
    return torch.cat(waves)


def stages(plans: Sequence[FlowPlan], *, cut: bool) -> list[Stage]:
    """The flows, or pieces of at most `PIECE` layers of them, so that several threads get work of
    one size.
    """
    result = []
    for flow, plan in enumerate(plans):
        layers = len(plan.dilations)
        pieces = -(-layers // PIECE) if cut else 1
        bounds = [layers * i // pieces for i in range(pieces + 1)]
        result += [Stage(flow, *pair) for pair in pairwise(bounds)]
    return result


def tile_columns(plans: Sequence[FlowPlan]) -> int:
    """Columns of a tile: a multiple of `ROWS`, few enough that a layer stays in the second-level
    cache.
    """
    widest = max(len(plan.input_bias) for plan in plans)
    return max(48, min(1920, ACTIVATIONS // widest)) // 48 * 48


def _features(condition: Condition | None, streams: int, plan: FlowPlan) -> Floats:
    """(B, F, width); one column of no channels for flows without a condition."""
    channels = plan.projection.shape[0]
    if condition is None or not channels:
        return np.zeros((streams, 1, channels), np.float32)
    features = condition.features.detach().float().cpu().transpose(1, 2).numpy()
    return np.broadcast_to(features, (streams, *features.shape[1:]))
