"""The decoder of the CPU kernels: torch in, torch out; threads over groups of streams, and time in
chunks that can be interrupted.

A stream's samples do not depend on its group, on the threads or on the chunks: see `simd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.cpu.compiled import Compiled
from vqwave.decode.cpu.wavenet.state import (
    SAVED_NAMES,
    Buffers,
    ConditionWindow,
    Integers,
    PastTapCache,
    State,
)
from vqwave.decode.cpu.wavenet.two_core import ChunkTask, TwoCoreDecoder, cores, run_alone
from vqwave.decode.plan import (
    CATEGORICAL,
    Floats,
    Plan,
    Precision,
    aligned,
    network_input,
    waveform,
)
from vqwave.decode.sampling import Temperature, checked_temperatures
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition
from vqwave.rng.philox import checked_seed

decode = Compiled("vqwave.decode.cpu.wavenet.batch_kernel", "decode")
project = Compiled("vqwave.decode.cpu.wavenet.batch_kernel", "project")

# streams that one kernel call advances: their activations stay in the second-level cache
GROUP = 32
CHUNK = 8192  # samples, summed over the streams of a group, between looks at Ctrl-C and progress


@dataclass(frozen=True)
class Group:
    """Streams that advance together in one thread."""

    rows: slice  # of the batch
    streams: Integers
    state: State
    plan: Plan
    buffers: Buffers
    cache: PastTapCache | None  # of a group of one
    two_core: TwoCoreDecoder | None  # of a stream that may run on two cores


@dataclass(frozen=True)
class ChunkIO:
    """The results of a chunk of time: sampled (B, n) class numbers or amplitudes, params (B, n, C)
    or (B, 0, C).
    """

    sampled: Floats
    params: Floats


class Decoder:
    """Streams of one network under way: each call continues where the last one stopped."""

    ahead = 0  # samples whose columns must be given beyond those that are drawn

    def __init__(
        self,
        wavenet: WaveNet,
        condition: Condition | None,
        streams: Tensor,
        *,
        weights: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        """streams (B,) number the utterances; condition of B utterances, or of one for all; threads
        None: torch's number.
        """
        self.wavenet = wavenet
        self.plan = Plan.of(wavenet, weights)
        several = (
            Plan.of(wavenet, weights, widened=True)
            if weights == "bf16" and len(streams) > 1
            else self.plan
        )
        self.threads = threads or torch.get_num_threads()
        self.hold = condition.repeat if condition is not None else 1
        self.features = self._features(condition, len(streams))  # (B, F, width)
        # (B,) number of the first of these columns in each stream
        self.first = np.zeros(len(streams), np.int64)
        numbers = streams.cpu().numpy().astype(np.int64)
        silence = self._network_input(torch.zeros(1))[0]
        self.groups = [
            Group(
                rows,
                numbers[rows],
                State.silent(self.plan, silence, count),
                self.plan if count == 1 else several,
                Buffers.of(self.plan, count),
                PastTapCache.of(self.plan) if count == 1 else None,
                (
                    TwoCoreDecoder()
                    if len(streams) == 1
                    and self.threads > 1
                    and cores() > 1
                    and len(self.plan.skip_bias)
                    else None
                ),
            )
            for rows in _shares(len(streams), self.threads)
            for count in [rows.stop - rows.start]
        ]

    def set_condition(self, features: Floats, first: Integers) -> None:
        """Columns (B, F, width) from now on, numbered from `first` (B,) on; earlier ones go."""
        self.features, self.first = features, first

    def restart(self, row: int, stream: int) -> None:
        """Row `row` becomes utterance number `stream`, before its first sample; the other rows do
        not notice.
        """
        for group in self.groups:
            if group.rows.start <= row < group.rows.stop:
                b = row - group.rows.start
                group.streams[b] = stream
                group.state.clear(b, self._network_input(torch.zeros(1))[0])

    def state_dict(self) -> dict[str, NDArray]:
        """The state of the streams, by name: what `load_state_dict` continues from."""
        parts = [_kept(group) for group in self.groups]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def time(self) -> int:
        """Samples of the first stream so far."""
        return int(self.groups[0].state.time[0])

    def load_state_dict(self, arrays: Mapping[str, NDArray]) -> None:
        """The inverse of `state_dict`, for as many streams of the same network in the same
        precision. Raises ValueError for a last sample that is no class: kernels check no index.
        """
        last = arrays[SAVED_NAMES["last"]]
        if self.plan.head.family == CATEGORICAL:
            classes = self.plan.head.choices
            if not ((last >= 0) & (last < classes) & (last == np.floor(last))).all():
                raise ValueError(f"last sample {last.flat[0]}, expected a class below {classes}")
        for group in self.groups:
            for name, array in _kept(group).items():
                array[...] = arrays[name][group.rows]

    def prefill(self, x: Tensor, *, keep: bool = False) -> Tensor:
        """Go over given samples x (B, n) -> the head's parameters at each of them (B, C, n), or
        nothing unless `keep`.
        """
        given = self._network_input(x)
        wanted = given.shape[1] if keep else 0
        parts = [chunk.params for chunk in self._advance(given.shape[1], given, wanted, 0, 1.0)]
        if not parts:
            return torch.zeros(len(given), self.plan.head.channels, 0)
        return torch.from_numpy(np.concatenate(parts, 1)).transpose(1, 2)

    def sample(self, count: int, seed: int = 0, temperature: Temperature = 1.0) -> Iterator[Tensor]:
        """The next `count` samples, in chunks: waveforms (B, n) float32."""
        nothing = np.zeros((len(self.features), 0), np.float32)
        for chunk in self._advance(count, nothing, 0, seed, temperature):
            yield self._waveform(chunk.sampled)

    def _advance(
        self, count: int, given: Floats, wanted: int, seed: int, temperature: Temperature
    ) -> Iterator[ChunkIO]:
        """`given` (B, count) to go over, or (B, 0) to draw; parameters of the first `wanted`
        samples.
        """
        step = max(1, CHUNK // max((len(g.streams) for g in self.groups), default=1))
        with self._pool() as run:
            for first in range(0, count, step):
                n = min(step, count - first)
                params = np.zeros(
                    (len(given), max(0, min(n, wanted - first)), self.plan.head.channels),
                    np.float32,
                )
                chunk = ChunkIO(np.zeros((len(given), n), np.float32), params)
                part = given[:, first : first + n]
                run(partial(self._run, part, chunk, seed, temperature), self.groups)
                yield chunk

    def _run(
        self, given: Floats, chunk: ChunkIO, seed: int, temperature: Temperature, group: Group
    ) -> None:
        """Advance one group; its rows are copied, since kernels take contiguous arrays."""
        sampled = np.zeros_like(chunk.sampled[group.rows])
        params = np.zeros_like(chunk.params[group.rows])
        conditions = self._condition_window(group, sampled.shape[1])
        network = (group.plan, group.state, group.buffers, conditions)
        draws = (group.streams, np.uint64(checked_seed(seed)), checked_temperatures(temperature))
        arrays = (np.ascontiguousarray(given[group.rows]), sampled, params)
        if group.cache is None:
            decode(*network, *draws, *arrays)
        else:
            task = ChunkTask(*network, group.cache, *draws, *arrays)
            run_alone(task) if group.two_core is None else group.two_core.run(task)
        chunk.sampled[group.rows], chunk.params[group.rows] = sampled, params

    def _condition_window(self, group: Group, count: int) -> ConditionWindow:
        """The condition of the next `count` samples of a group, projected for every layer."""
        columns, rows = self.features.shape[1], np.arange(group.rows.start, group.rows.stop)
        wanted = min((count - 1) // self.hold + 2, columns)
        first = np.minimum(group.state.time // self.hold - self.first[rows], columns - 1)  # (B,)
        index = np.minimum(first[:, None] + np.arange(wanted), columns - 1)
        features = self.features[rows[:, None], index]
        B, n, width = features.shape
        projected = aligned((B * n, self.plan.dilated_bias.size), np.float32)
        project(self.plan, features.reshape(B * n, width), projected)
        predictors = np.ascontiguousarray(features[..., self.plan.projection.shape[1] :])
        return ConditionWindow(
            projected.reshape(B, n, -1), self.first[rows] + first, self.hold, predictors
        )

    def _features(self, condition: Condition | None, streams: int) -> Floats:
        """(B, F, width); one column of no channels for a network without a condition."""
        if condition is None or self.wavenet.stack.projection is None:
            return np.zeros((streams, 1, self.plan.projection.shape[1]), np.float32)
        features = condition.features.detach().float().cpu().transpose(1, 2).numpy()
        return np.broadcast_to(features, (streams, *features.shape[1:]))

    def _network_input(self, x: Tensor) -> Floats:
        """Waveforms -> what the network's input takes."""
        return network_input(self.wavenet.head, x.detach().float().cpu()).numpy()

    def _waveform(self, sampled: Floats) -> Tensor:
        return waveform(self.wavenet.head, torch.from_numpy(sampled))

    @contextmanager
    def _pool(self) -> Iterator[Callable[[Callable[[Group], None], list[Group]], object]]:
        """A way to run a function over groups: here for one, else in threads, which end with the
        chunk that they are in.
        """
        if len(self.groups) == 1 or self.threads == 1:
            yield lambda function, groups: list(map(function, groups))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield lambda function, groups: list(pool.map(function, groups))


def sample_wavenet(
    wavenet: WaveNet,
    condition: Condition | None,
    samples: int,
    *,
    streams: Tensor,
    seed: int = 0,
    temperature: Temperature = 1.0,
    prompt: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
    weights: Precision = "float32",
    threads: int | None = None,
) -> Tensor:
    """What `reference.sample_wavenet` draws, up to float rounding: (B, samples) float32."""
    decoder = Decoder(wavenet, condition, streams, weights=weights, threads=threads)
    if prompt is not None:
        decoder.prefill(prompt)
    chunks = [torch.zeros(len(streams), 0)]
    for chunk in decoder.sample(samples, seed, temperature):
        chunks.append(chunk)
        if progress is not None:
            progress(chunk.shape[1])
    return torch.cat(chunks, 1)


def score_wavenet(
    wavenet: WaveNet,
    x: Tensor,
    condition: Condition | None,
    *,
    weights: Precision = "float32",
    threads: int | None = None,
) -> Tensor:
    """Teacher-forced, with the very kernels that sample: x (B, T) -> the head's parameters (B, C,
    T), for `wavenet.head`.
    """
    decoder = Decoder(wavenet, condition, torch.arange(len(x)), weights=weights, threads=threads)
    return decoder.prefill(x, keep=True)


def _kept(group: Group) -> dict[str, NDArray]:
    """The state of a group's streams by name, without arrays that this network leaves empty."""
    arrays = group.state.named() | {"streams": group.streams}
    return {name: array for name, array in arrays.items() if array.size}


def _shares(streams: int, threads: int) -> list[slice]:
    """Contiguous groups of streams: one a thread, or more where those would be too large."""
    groups = max(-(-streams // GROUP), min(threads, streams))
    bounds = [streams * i // groups for i in range(groups + 1)] if groups else []
    return [slice(a, b) for a, b in pairwise(bounds)]
