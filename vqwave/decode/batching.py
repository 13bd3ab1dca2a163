"""Many utterances of unequal length through one tile of streams: where one ends, the next takes its
slot.

A stream's samples depend on nothing but itself, so the tile may be filled in any order; and it
stays full until none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqwave.decode.backend import sample_as, take
from vqwave.decode.cpu.precision import numbers
from vqwave.decode.sampling import Sampling
from vqwave.models.student import Student
from vqwave.models.wavenet import WaveNet
from vqwave.nn.condition import Condition, join

# samples between looks at who is done: at the most, and at the least, however little one has left
ROUND, LEAST = 2048, 256
SLOTS = 32  # a thread


@dataclass(frozen=True)
class DecodeRequest:
    """One utterance to decode: what the decoder is told, and how many samples to make."""

    condition: Condition | None
    samples: int


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

    Each comes out as it would alone, bit for bit. Only kernels have slots: the reference, and a
    student, take one after another.
    """
    taken = take(decoder, sampling.backend, top_p=sampling.top_p, guidance=sampling.guidance)
    if taken == "numba" and isinstance(decoder, WaveNet):
        yield from ContinuousBatcher(
            decoder, sampling, slots or SLOTS * torch.get_num_threads(), progress
        ).run(iter(tasks))
        return
    for key, task in tasks:
        yield key, decode_one(decoder, task, sampling, progress=progress)


def decode_one(
    decoder: WaveNet | Student,
    task: DecodeRequest,
    sampling: Sampling,
    *,
    stream: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """One utterance by itself: (T,) float32."""
    streams = torch.tensor([stream])
    wave = sample_as(
        sampling, decoder, task.condition, task.samples, streams=streams, progress=progress
    )
    return wave[0].float().cpu()


def decode_together(
    decoder: WaveNet | Student,
    tasks: Sequence[DecodeRequest],
    streams: Sequence[int],
    sampling: Sampling,
    progress: Callable[[int], object] | None = None,
    *,
    prime: Tensor | None = None,
) -> list[Tensor]:
    """All tasks in one batch, (T,) each. No condition depends on its neighbours' padding.

    streams: of each one's random numbers; prime: (B, T') that every waveform goes on from.
    """
    if not tasks:
        return []
    on_cpu = next(decoder.parameters()).device.type == "cpu"
    if isinstance(decoder, Student) and on_cpu and prime is None:  # a pass fills the machine
        pairs = zip(tasks, streams, strict=True)
        return [
            decode_one(decoder, task, sampling, stream=n, progress=progress) for task, n in pairs
        ]
    waves = sample_as(
        sampling,
        decoder,
        join([task.condition for task in tasks]),
        max(task.samples for task in tasks),
        streams=torch.tensor(list(streams)),
        prime=prime,
        progress=progress,
    )
    return [wave[: task.samples].float().cpu() for wave, task in zip(waves, tasks, strict=True)]


class ContinuousBatcher:
    """Slots that the kernels advance together.

    All utterances are stream 0: they differ by what they are told.
    """

    def __init__(
        self,
        wavenet: WaveNet,
        sampling: Sampling,
        slots: int,
        progress: Callable[[int], object] | None,
    ) -> None:
        self.wavenet, self.sampling, self.slots, self.progress = wavenet, sampling, slots, progress
        self.hold, self.channels = wavenet.conditioner.hold, wavenet.conditioner.width
        self.rows: list[Slot | None] = []
        self.decoder = None

    def run(
        self, tasks: Iterator[tuple[Hashable, DecodeRequest]]
    ) -> Iterator[tuple[Hashable, Tensor]]:
        self.rows = [slot for _ in range(self.slots) if (slot := self._next(tasks)) is not None]
        self.decoder = self._build(len(self.rows)) if self.rows else None
        while any(self.rows):
            self._advance()
            for row, slot in enumerate(self.rows):
                if slot is not None and slot.time >= slot.samples:
                    yield (
                        slot.key,
                        torch.cat(slot.parts)[: slot.samples] if slot.parts else torch.zeros(0),
                    )
                    self.rows[row] = self._next(tasks)
                    if self.rows[row] is not None:
                        self.decoder.restart(row, 0)
            self._close_ranks()

    def _next(self, tasks: Iterator[tuple[Hashable, DecodeRequest]]) -> Slot | None:
        for key, task in tasks:
            columns = np.zeros((1, self.channels), np.float32)
            if task.condition is not None:
                columns = task.condition.features[0].detach().float().cpu().t().contiguous().numpy()
            return Slot(key, columns, task.samples)
        return None

    def _build(self, rows: int) -> object:
        # an optional extra, whose import takes a moment
        from vqwave.decode.cpu.wavenet.decoder import Decoder

        silence = Condition(torch.zeros(1, self.channels, 1), self.hold)
        numbered = torch.zeros(rows, dtype=torch.int64)
        return Decoder(self.wavenet, silence, numbered, weights=numbers(self.sampling.precision))

    def _advance(self) -> None:
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
        self.decoder.set_condition(columns, first)
        drawn = torch.cat(
            list(self.decoder.sample(count, self.sampling.seed, self.sampling.temperatures())), 1
        )
        for row, slot in enumerate(self.rows):
            if slot is not None:
                slot.parts.append(drawn[row].clone())
                if self.progress is not None:
                    self.progress(min(count, slot.samples - slot.time))
                slot.time += count

    def _close_ranks(self) -> None:
        """When half of the slots stand empty, those under way move together."""
        live = [row for row, slot in enumerate(self.rows) if slot is not None]
        if not live or 2 * len(live) > len(self.rows):
            return
        arrays, self.decoder = self.decoder.state_dict(), self._build(len(live))
        self.decoder.load_state_dict({name: array[live] for name, array in arrays.items()})
        self.rows = [self.rows[row] for row in live]
