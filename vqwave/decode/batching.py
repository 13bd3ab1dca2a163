"""Many utterances of unequal length in one batch of streams: where one ends, the next takes its
slot.

A stream's samples do not depend on the other streams, so that slots may be filled in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.backend import Backend, SampleRequest, checked_backend, sample, select
from vqwave.decode.sampling import Sampling
from vqwave.decode.streaming.engines import NumbaDecoder
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition, join

# samples between checks for utterances that are done: at the most, and at the least
ROUND, LEAST = 2048, 256
SLOTS = 32  # a thread


@dataclass(frozen=True)
class DecodeRequest:
    """One utterance to decode: its condition, how many samples to make, and the predicted spectral
    frames (1, M, F) that the condition was made of, if there are any.
    """

    condition: Condition | None
    samples: int
    spectrum: Tensor | None = None


@dataclass
class Slot:
    """An utterance under way."""

    key: Hashable
    columns: NDArray[np.float32]  # (F, H)
    samples: int
    time: int = 0
    parts: list[Tensor] = field(default_factory=list)


def decode_each(
    decoder: WaveNet | Student,
    tasks: Iterable[tuple[Hashable, DecodeRequest]],
    sampling: Sampling,
    *,
    slots: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[tuple[Hashable, Tensor]]:
    """Tasks by key, taken as slots fall free -> waveforms (T,) by key, as they are done.

    Raises UserInputError for wrong settings.

    Each comes out as it would alone, bit for bit. Only a WaveNet's kernels have slots: the
    reference, and a student, take one utterance after another.
    """
    backend = checked_backend(decoder, sampling)
    if backend.continuous_batching:
        count = slots or SLOTS * torch.get_num_threads()
        batcher = ContinuousBatcher(decoder, backend, sampling, count, progress=progress)
        yield from batcher.run(iter(tasks))
        return
    for key, task in tasks:
        yield key, decode_one(decoder, task, sampling, progress=progress)


def decode_one(
    decoder: WaveNet | Student,
    task: DecodeRequest,
    sampling: Sampling,
    *,
    stream: int = 0,
    prompt: Tensor | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """One utterance by itself: (T,) float32; prompt (1, T') precedes it."""
    streams = torch.tensor([stream])
    request = SampleRequest(
        decoder, task.condition, task.samples, streams, prompt=prompt, progress=progress
    )
    return sample(request, sampling)[0].float().cpu()


def decode_together(
    decoder: WaveNet | Student,
    tasks: Sequence[DecodeRequest],
    streams: Sequence[int],
    sampling: Sampling,
    progress: Callable[[int], object] | None = None,
    *,
    prompt: Tensor | None = None,
) -> list[Tensor]:
    """All tasks in one batch, (T,) each. No condition depends on its neighbours' padding.

    streams: of each one's random numbers; prompt: (B, T') that the waveforms continue.
    """
    if not tasks:
        return []
    on_cpu = next(decoder.parameters()).device.type == "cpu"
    if on_cpu and select(decoder, sampling, notify=False).singly_on_cpu:
        prompts = [None] * len(tasks) if prompt is None else prompt.split(1)
        return [
            decode_one(decoder, task, sampling, stream=n, prompt=own, progress=progress)
            for task, n, own in zip(tasks, streams, prompts, strict=True)
        ]
    request = SampleRequest(
        decoder,
        join([task.condition for task in tasks]),
        max(task.samples for task in tasks),
        torch.tensor(list(streams)),
        prompt=prompt,
        progress=progress,
    )
    waves = sample(request, sampling)
    return [wave[: task.samples].float().cpu() for wave, task in zip(waves, tasks, strict=True)]


class ContinuousBatcher:
    """Slots that the kernels advance together.

    All utterances are stream 0: they differ by their conditions.
    """

    def __init__(
        self,
        decoder: WaveNet | Student,
        backend: Backend[Any],
        sampling: Sampling,
        slots: int,
        *,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.decoder, self.backend, self.sampling = decoder, backend, sampling
        self.slots, self.progress = slots, progress
        self.hold, self.channels = decoder.conditioner.hold, decoder.conditioner.width
        self.rows: list[Slot | None] = []

    def run(
        self, tasks: Iterator[tuple[Hashable, DecodeRequest]]
    ) -> Iterator[tuple[Hashable, Tensor]]:
        self.rows = [slot for _ in range(self.slots) if (slot := self._next(tasks)) is not None]
        if not self.rows:
            return
        decoder = self._build(len(self.rows))
        while any(self.rows):
            self._advance(decoder)
            for row, slot in enumerate(self.rows):
                if slot is not None and slot.time >= slot.samples:
                    yield (
                        slot.key,
                        torch.cat(slot.parts)[: slot.samples] if slot.parts else torch.zeros(0),
                    )
                    self.rows[row] = self._next(tasks)
                    if self.rows[row] is not None:
                        decoder.restart(row, 0)
            decoder = self._compacted(decoder)

    def _next(self, tasks: Iterator[tuple[Hashable, DecodeRequest]]) -> Slot | None:
        for key, task in tasks:
            columns = np.zeros((1, self.channels), np.float32)
            if task.condition is not None:
                columns = task.condition.features[0].detach().float().cpu().t().contiguous().numpy()
            return Slot(key, columns, task.samples)
        return None

    def _build(self, rows: int) -> NumbaDecoder:
        streams = torch.zeros(rows, dtype=torch.int64)
        return self.backend.slots(self.decoder, streams, self.sampling)

    def _advance(self, decoder: NumbaDecoder) -> None:
        """A round: as many samples as the first to end has left, within bounds."""
        live = [slot for slot in self.rows if slot is not None]
        count = min(ROUND, max(LEAST, min(slot.samples - slot.time for slot in live)))
        columns = np.zeros(
            (len(self.rows), (count - 1) // self.hold + 2, self.channels), np.float32
        )
        first = np.zeros(len(self.rows), np.int64)
        for row, slot in enumerate(self.rows):
            if slot is not None:
                first[row] = slot.time // self.hold
                wanted = (first[row] + np.arange(columns.shape[1])).clip(max=len(slot.columns) - 1)
                columns[row] = slot.columns[wanted]
        decoder.set_condition(columns, first)
        sampled = torch.cat(
            list(decoder.sample(count, self.sampling.seed, self.sampling.temperatures())), 1
        )
        for row, slot in enumerate(self.rows):
            if slot is not None:
                slot.parts.append(sampled[row].clone())
                if self.progress is not None:
                    self.progress(min(count, slot.samples - slot.time))
                slot.time += count

    def _compacted(self, decoder: NumbaDecoder) -> NumbaDecoder:
        """The decoder, or where half of its slots are empty, one of those in use."""
        live = [row for row, slot in enumerate(self.rows) if slot is not None]
        if not live or 2 * len(live) > len(self.rows):
            return decoder
        arrays, smaller = decoder.state_dict(), self._build(len(live))
        smaller.load_state_dict({name: array[live] for name, array in arrays.items()})
        self.rows = [self.rows[row] for row in live]
        return smaller
